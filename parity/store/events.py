"""What a trial reports to the driver while it trains, from a Ray worker or from the same process."""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from parity.store.statuses import EndStatus, Failure


@dataclass(frozen=True)
class Began:
    """A process has taken the trial and begins to train it.

    Attributes:
        trial: Name of the trial.
        facts: Facts of the machine, from `machine.facts`; fields of `TrialRecord`.
    """

    trial: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Advanced:
    """More steps are done; `of` makes one of their table.

    Attributes:
        trial: Name of the trial.
        stream: The steps, a row for each, in the columns of `trace.SCHEMA`, as an Arrow stream.
        first: The first step.
        rows: How many steps they are.
        facts: Facts of the trial, from `train.Chunk`; fields of `TrialRecord`.
        shared: Steps that other devices are to take from this trial's state, each packed by `saved_state.pack`.
    """

    trial: str
    # Bytes, since it passes from the trial's process to the seat's worker, on to the driver and into the journal. Arrow
    # and Ray would pickle each column by itself, which takes five times as long, and the driver needs no column.
    stream: bytes
    first: int
    rows: int
    facts: dict[str, Any]
    shared: tuple[bytes, ...] = ()

    @classmethod
    def of(
        cls,
        trial: str,
        table: pa.Table,
        facts: dict[str, Any],
        shared: tuple[bytes, ...] = (),
        *,
        stream: bytes | None = None,
    ) -> "Advanced":
        """The event of a table of steps that follow one another.

        Args:
            trial: Name of the trial.
            table: The steps, in the columns of `trace.SCHEMA`.
            facts: Facts of the trial.
            shared: Steps for other devices.
            stream: The table as a stream, if it was read from one.
        """
        if stream is None:
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            stream = sink.getvalue()
        event = cls(trial, stream, int(table["step"][0].as_py()), len(table), facts, shared)
        vars(event)["table"] = table
        return event

    def __reduce__(self) -> tuple[object, ...]:
        return Advanced, (self.trial, self.stream, self.first, self.rows, self.facts, self.shared)

    @property
    def end(self) -> int:
        """The step after the last one."""
        return self.first + self.rows

    @cached_property
    def table(self) -> pa.Table:
        """The steps, a row for each, in the columns of `trace.SCHEMA`."""
        return from_stream(self.stream)


@dataclass(frozen=True)
class Saved:
    """The trial is between two steps, and can be continued from this state.

    Attributes:
        trial: Name of the trial.
        step: The next step.
        wall_s: Seconds since the loss was loaded.
        state: The state, packed by `saved_state.pack`; None once it is stored in a file of its own.
        began_s: When the first step began, in seconds since 1970.
    """

    trial: str
    step: int
    wall_s: float
    state: bytes | None
    began_s: float | None = None


@dataclass(frozen=True)
class Restarted:
    """The trial continues in a new worker from its last saved state, or begins again; what it reported since is void.

    Attributes:
        trial: Name of the trial.
        reason: What happened to the worker, or to the driver.
        step: The step at which it continues, 0 if it begins again; set by the `Gatherer`.
        at_s: When, in seconds since 1970; set by the `Gatherer`.
        portable: False if continuing from a state gave other results than before. No state is saved from then on.
    """

    trial: str
    reason: str
    step: int = 0
    # None marks a restart that the `Gatherer` has not taken yet: it alone knows where the trial was saved.
    at_s: float | None = None
    portable: bool = True


@dataclass(frozen=True)
class Ended:
    """The trial has ended.

    Attributes:
        trial: Name of the trial.
        status: Whether it completed or failed.
        failed_step: The step that failed; None if none did, or if it is not known.
        failure: What ended it; None if it did not fail.
        error: Why it failed, or None.
        traceback: The traceback of the user's code, or None.
        wall_s: Seconds from the loading of the loss to the end.
        began_s: When the first step began, in seconds since 1970, or None.
        ended_s: When the last step ended, in seconds since 1970, or None.
        imported: Files that its process has imported from outside of the environment, from `imported_files`; None if
            not known.
        lacks_module: Name of a module that its code did not find, if that ended it.
        lacks_file: Path of a file that its code did not find, if that ended it.
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
    imported: list[str] | None = None
    lacks_module: str | None = None
    lacks_file: str | None = None


@dataclass(frozen=True)
class Found:
    """The trial found something to keep beside its trace.

    Attributes:
        trial: Name of the trial.
        table: Name of the table in `tables.EVIDENCE`.
        rows: Rows of that table, without the trial's name.
        missing: Why there are no steps from the baseline device's states, or fewer than planned; else None.
        progress: How far a long search has come, for whoever watches the run; "" for nothing to say.
    """

    trial: str
    table: str
    rows: tuple[dict[str, Any], ...]
    missing: str | None = None
    progress: str = ""


@dataclass(frozen=True)
class Captured:
    """The one tensor for which the trial was repeated.

    Attributes:
        trial: Name of the trial.
        capture: Step, quantity and parameter name; `Trial.capture`.
        values: The tensor, dtype[...]; None if the quantity has no such tensor.
    """

    trial: str
    capture: tuple[int, str, str | None]
    values: np.ndarray | None


# No event holds a tensor of torch, which the driver does without: states and steps are packed into bytes before.
# A kind that is added here also needs an entry in `event_codec` and a case in `KeptTrial.add`, unless it is not stored.
Event = Began | Advanced | Saved | Restarted | Ended | Found | Captured


def from_stream(stream: bytes) -> pa.Table:
    """The table of an `Advanced.stream`.

    Raises:
        pyarrow.ArrowException: The bytes are something else.
    """
    return pa.ipc.open_stream(stream).read_all()
