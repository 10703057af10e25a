"""What trials told before: where one goes on from, and the steps that it left for other devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True)
class Position:
    """Where a trial was saved last.

    Attributes:
        step: The next step.
        state: Of the training, as `saved_state.pack` gives it.
        digests: Those of the steps before, in the columns of `SharedSteps.tables`.
        wall_s: That the trial had taken by then.
        began_s: When its first step began, in seconds since 1970, or None.
    """

    step: int
    state: bytes
    digests: pa.Table
    wall_s: float = 0.0
    began_s: float | None = None


@dataclass
class SharedSteps:
    """What a trial of the first device leaves for the others.

    Attributes:
        steps: The shared steps, as `shared_step.pack_step` gives them.
        tables: The digests of its trace, to find where the others part from it.
    """

    steps: list[bytes] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)


class Past(Protocol):
    """Where the events of the trials are kept."""

    def position(self, trial: str) -> Position | None:
        """Where the trial goes on from; None if it begins with step 0."""

    def shared(self, trial: str) -> SharedSteps:
        """What the trial, which has ended, left for others."""

    def void(self, trial: str) -> bool:
        """Whether the trial's worker is to be ended, and the trial to begin again; told once."""


class NoPast:
    """Of trials that nobody keeps anything of."""

    def position(self, trial: str) -> Position | None:  # noqa: ARG002 - as in `Past`
        """None: the trial begins with step 0."""
        return None

    def shared(self, trial: str) -> SharedSteps:  # noqa: ARG002 - as in `Past`
        """Nothing."""
        return SharedSteps()

    def void(self, trial: str) -> bool:  # noqa: ARG002 - as in `Past`
        """No."""
        return False
