"""What a run knows of its trials when they start: where each continues, and the steps left for other devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True)
class Position:
    """Where a trial continues.

    Attributes:
        step: The next step.
        state: State of the training, packed by `saved_state.pack`.
        digests: Digests of the steps before, in the columns `trace.DIGESTS`.
        wall_s: Seconds that the trial had taken by then.
        began_s: When its first step began, in seconds since 1970, or None.
    """

    step: int
    state: bytes
    digests: pa.Table
    wall_s: float = 0.0
    began_s: float | None = None


@dataclass
class SharedSteps:
    """What a trial on the first device leaves for the same trial on other devices.

    Attributes:
        steps: The shared steps, each packed by `shared_step.pack_step`.
        tables: The digests of its trace, in which the others find where they first differ from it.
    """

    steps: list[bytes] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)


# A protocol, since the executors only ask: `train` and `cluster` need not know that a journal gives the answers.
class Past(Protocol):
    """Answers what earlier events say about a trial; `gather.Gatherer` is one."""

    def position(self, trial: str) -> Position | None:
        """Where the trial continues; None if it begins with step 0."""

    def shared(self, trial: str) -> SharedSteps:
        """What the trial, which has ended, left for other devices."""

    def void(self, trial: str) -> bool:
        """Whether the trial's worker has to be stopped, and the trial has to begin again; True only once."""


class NoPast:
    """The `Past` of trials whose events are not kept."""

    def position(self, trial: str) -> Position | None:  # noqa: ARG002 - as in `Past`
        """None: the trial begins with step 0."""
        return None

    def shared(self, trial: str) -> SharedSteps:  # noqa: ARG002 - as in `Past`
        """Nothing: no trial left steps."""
        return SharedSteps()

    def void(self, trial: str) -> bool:  # noqa: ARG002 - as in `Past`
        """False: there is nothing to contradict."""
        return False
