"""What a trial tells the driver while it trains, from a Ray worker or from the same process."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from parity.store.statuses import EndStatus, Failure


@dataclass(frozen=True)
class Began:
    """The trial has a process, and begins.

    Attributes:
        trial: Name of the trial.
        facts: Of the machine, as `machine.facts` gives them.
    """

    trial: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Advanced:
    """Some more steps are done.

    Attributes:
        trial: Name of the trial.
        table: A row per step, in the columns of `trace.SCHEMA`.
        facts: Of the trial, as `train.Chunk` has them.
        shared: Steps that other devices are to take from this trial's state, each as `saved_state.pack` gives it.
    """

    trial: str
    table: pa.Table
    facts: dict[str, Any]
    shared: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Saved:
    """The trial stands between two steps, and can go on from here.

    Attributes:
        trial: Name of the trial.
        step: The next step.
        wall_s: Since the loading of the loss.
        state: As `saved_state.pack` gives it; None once it is stored.
        began_s: When the first step began, in seconds since 1970.
    """

    trial: str
    step: int
    wall_s: float
    state: bytes | None
    began_s: float | None = None


@dataclass(frozen=True)
class Restarted:
    """The trial goes on in a new worker from where it was saved last, or begins again; what it told since is void.

    Attributes:
        trial: Name of the trial.
        reason: What happened to the worker, or to the driver.
        step: From which it goes on; set by who keeps the events.
        at_s: When, in seconds since 1970; set by who keeps them.
        portable: False once going on from a state gave other results than before: then none is saved any more.
    """

    trial: str
    reason: str
    step: int = 0
    at_s: float | None = None
    portable: bool = True


@dataclass(frozen=True)
class Ended:
    """The trial is over.

    Attributes:
        trial: Name of the trial.
        status: "complete" or "failed".
        failed_step: The step that failed; None when none did, or when it is not known.
        failure: As in `observer.TrialFailed`, or "died", "hung" or "memory" of its process; None when it did not fail.
        error: Why it failed, or None.
        traceback: Of the user's code, or None.
        wall_s: From the loading of the loss to the end.
        began_s: When the first step began, in seconds since 1970, or None.
        ended_s: When the last step ended, in seconds since 1970, or None.
    """

    trial: str
    status: EndStatus
    failed_step: int | None = None
    failure: Failure | None = None
    error: str | None = None
    traceback: str | None = None
    wall_s: float | None = None
    began_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class Found:
    """There is something to keep beside the trace.

    Attributes:
        trial: Name of the trial.
        table: One of `evidence.EVIDENCE`.
        rows: Of that table, without the trial's name.
        missing: Why there are no steps from the baseline device's states, or fewer than there should be, or None.
    """

    trial: str
    table: str
    rows: tuple[dict[str, Any], ...]
    missing: str | None = None


@dataclass(frozen=True)
class Captured:
    """The one tensor that the trial was repeated for.

    Attributes:
        trial: Name of the trial.
        capture: Step, quantity and parameter, as the trial has them.
        values: dtype[...], None where the quantity has no such tensor.
    """

    trial: str
    capture: tuple[int, str, str | None]
    values: np.ndarray | None


Event = Began | Advanced | Saved | Restarted | Ended | Found | Captured
