"""What the trials tell, kept: in the journal as it comes, and as tables once the trials have ended."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from parity.ground.errors import Trouble
from parity.plan.trial import Trial
from parity.store import storage
from parity.store.events import Advanced, Began, Ended, Event, Found, Restarted, Saved
from parity.store.journal import JOURNAL, Journal
from parity.store.parquet import write_table
from parity.store.position import Position, SharedSteps
from parity.store.states import read_state, remove_state, write_state
from parity.store.statuses import TrialStatus
from parity.store.storage import StoragePath
from parity.store.tables import EVIDENCE
from parity.store.trace import DIGESTS, first_difference
from parity.store.traces import TraceWriter, trace_file
from parity.store.trials import HARDWARE, SOFTWARE, TrialRecord, write_trials

# Of a row group of a trace, some 600 bytes each.
GROUP_ROWS = 10_000
# What a state may not leave: other code would go on from it with other bits.
CLASS = (*HARDWARE, *SOFTWARE)


class Progress(Protocol):
    """What is shown how far the trials are; `render.progress.TrialProgress` is one."""

    def show(self, trial: str, done: int, *, state: str = "") -> None:
        """Reports how many steps of a trial are done, and the trial's state once it has ended."""

    def say(self, line: str) -> None:
        """Reports a line."""


@dataclass(frozen=True)
class _Frame:
    """Where an event stands in the journal.

    Attributes:
        offset: In bytes.
        first: The first step of the trace that it holds.
        rows: Of that trace.
        shared: Whether it holds steps for other devices.
    """

    offset: int
    first: int
    rows: int
    shared: bool


@dataclass
class _Kept:
    """Of a trial, what counts of all that it told; and what no longer does, but has to come again."""

    record: TrialRecord
    chunks: list[_Frame] = field(default_factory=list)
    before: list[_Frame] = field(default_factory=list)
    portable: bool = True
    found: list[int] = field(default_factory=list)
    saved: Saved | None = None
    saved_at: int = -1

    @property
    def rows(self) -> int:
        return sum(frame.rows for frame in self.chunks)


class Gatherer:
    """Takes the events of a run's trials. Holds where they stand in the journal, and no more of a trace than a chunk.

    Args:
        trials: Of the plan.
        out: The run directory; a journal that is there is gone on with.
        progress: Is shown how far the trials are.

    Raises:
        Trouble: The journal is damaged, or cannot be written.
    """

    def __init__(self, trials: Sequence[Trial], out: StoragePath, progress: Progress) -> None:
        self._out = out
        self._progress = progress
        self._names = [trial.name for trial in trials]
        self._kept = {trial.name: _Kept(_record(index, trials)) for index, trial in enumerate(trials)}
        self._void: set[str] = set()
        self._journal = Journal(out / JOURNAL)
        try:
            for offset, event in self._journal.replay():
                self._apply(event, offset)
        except Trouble:
            self._journal.close()
            raise
        if self._journal.left_out:
            progress.say(
                f"The driver was ended while it wrote: {self._journal.left_out} bytes of {JOURNAL} are left out"
            )

    @property
    def unfinished(self) -> list[str]:
        """The trials that have not ended."""
        return [name for name, kept in self._kept.items() if kept.record.status == "planned"]

    def take(self, events: Sequence[Event]) -> None:
        """Keeps what trials told; it is durable when this returns.

        Raises:
            Trouble: It cannot be written.
        """
        older = []
        for event in events:
            kept = self._kept[event.trial]
            if isinstance(event, Saved):
                if not kept.portable:
                    continue
                assert event.state is not None
                write_state(self._out, self._index(event.trial), event.step, event.state)
                older += [(event.trial, kept.saved.step)] if kept.saved else []
                event = replace(event, state=None)
            elif isinstance(event, Restarted) and event.at_s is None:
                event = replace(event, step=self.step(event.trial), at_s=time.time())
            elif reason := self._untrue(kept, event):
                self._void.add(event.trial)
                event = Restarted(event.trial, reason, 0, time.time(), portable=isinstance(event, Began))
            self._apply(event, self._journal.add(event))
        self._journal.sync()
        for name, step in older:  # the newer one is durable, and so is that it counts
            remove_state(self._out, self._index(name), step)

    def go_on(self, reason: str) -> None:
        """Notes that the unfinished trials go on from where they were saved last."""
        begun = [name for name in self.unfinished if self._kept[name].chunks or self._kept[name].record.host]
        self.take([Restarted(name, reason) for name in begun])

    def void(self, trial: str) -> bool:
        """Whether what the trial told last does not agree with what it told before it went on; told once."""
        void = trial in self._void
        self._void.discard(trial)
        return void

    def position(self, trial: str) -> Position | None:
        """Where the trial goes on from; None if it begins with step 0.

        Raises:
            Trouble: The journal is damaged.
        """
        kept = self._kept[trial]
        if kept.saved is None:
            return None
        try:
            state = read_state(self._out, self._index(trial), kept.saved.step)
        except Trouble as trouble:
            self._progress.say(f"{trial} begins again: {trouble}")
            self.take([Restarted(trial, str(trouble), 0, time.time())])
            return None
        tables = [table.select(DIGESTS) for table in self._tables(trial)]
        return Position(kept.saved.step, state, pa.concat_tables(tables), kept.saved.wall_s, kept.saved.began_s)

    def step(self, trial: str) -> int:
        """From which the trial goes on; 0 if it begins again."""
        saved = self._kept[trial].saved
        return saved.step if saved else 0

    def shared(self, trial: str) -> SharedSteps:
        """What the trial left for others.

        Raises:
            Trouble: The journal is damaged.
        """
        shared = SharedSteps(tables=[table.select(DIGESTS) for table in self._tables(trial)])
        for frame in self._kept[trial].chunks:
            if frame.shared:
                event = self._journal.read(frame.offset)
                assert isinstance(event, Advanced)
                shared.steps += event.shared
        return shared

    @property
    def rows(self) -> int:
        """Of all traces."""
        return sum(kept.rows for kept in self._kept.values())

    def write_tables(self) -> None:
        """Writes the tables: of trials that did not end, what there is, as interrupted.

        Raises:
            Trouble: They cannot be written.
        """
        writers: dict[str, TraceWriter] = {}
        for name, kept in self._kept.items():
            if kept.chunks:
                writer = writers.setdefault(kept.record.trace, TraceWriter(self._out / "traces" / kept.record.trace))
                for table in _joined(self._tables(name)):
                    writer.append(table)
        for writer in writers.values():
            writer.close()
        for record in (kept.record for kept in self._kept.values()):
            if record.trace not in writers:  # written before the trial began again, and void
                storage.remove(self._out / "traces" / record.trace)
        for name, schema in EVIDENCE.items():
            rows = list(self._evidence(name))
            write_table(self._out / f"{name}.parquet", pa.Table.from_pylist(rows, schema=schema))
        write_trials(self._out, [self._final(kept) for kept in self._kept.values()])

    def close(self) -> None:
        """Closes the journal."""
        self._journal.close()

    def _apply(self, event: Event, offset: int) -> None:
        kept = self._kept.get(event.trial)
        if kept is None:
            raise Trouble(f"{self._out / JOURNAL} tells of the trial {event.trial}, which run.json has not.")
        name = event.trial
        match event:
            case Began():
                kept.record = replace(kept.record, **event.facts)
                self._progress.show(name, kept.rows)
            case Advanced():
                kept.record = replace(kept.record, **event.facts)
                first = int(event.table["step"][0].as_py())
                kept.chunks.append(_Frame(offset, first, len(event.table), bool(event.shared)))
                self._progress.show(name, kept.rows)
            case Saved():
                kept.saved, kept.saved_at = event, offset
            case Restarted():
                self._go_back(kept, event)
            case Found():
                if event.missing:
                    kept.record = replace(kept.record, shared_error=_storable(event.missing))
                kept.found.append(offset)
            case Ended():
                kept.record = _ended(kept.record, event)
                self._progress.show(name, kept.rows, state=event.status)

    def _go_back(self, kept: _Kept, event: Restarted) -> None:
        """Takes back what the trial told since it was saved."""
        kept.portable &= event.portable
        if event.step:  # it comes again
            kept.before += [frame for frame in kept.chunks if frame.offset > kept.saved_at]
        else:
            kept.saved, kept.saved_at, kept.before = None, -1, []
        kept.chunks = [frame for frame in kept.chunks if frame.offset < kept.saved_at]
        kept.found = [offset for offset in kept.found if offset < kept.saved_at]
        reason = f"step {event.step}: {_storable(event.reason)}"
        when = _time(event.at_s)
        kept.record = replace(
            kept.record,
            attempts=kept.record.attempts + 1,
            restarts=[*kept.record.restarts, f"{when:%Y-%m-%dT%H:%M:%SZ} {reason}" if when else reason],
        )
        how = f"goes on with step {event.step}" if event.step else "begins again"
        self._progress.say(f"{event.trial} {how}: {event.reason}")
        self._progress.show(event.trial, kept.rows)

    def _untrue(self, kept: _Kept, event: Event) -> str | None:
        """Why a trial that went on from a state has to begin again, or None."""
        if isinstance(event, Began) and kept.saved:
            before, now = (tuple(facts.get(name) for name in CLASS) for facts in (vars(kept.record), event.facts))
            if before != now:
                return "it was saved on hardware or with software of another class"
        if isinstance(event, Advanced) and kept.before:
            first = int(event.table["step"][0].as_py())
            after = first + len(event.table)
            for frame in kept.before:
                low, high = max(first, frame.first), min(after, frame.first + frame.rows)
                if low < high:
                    was = self._table(frame).slice(low - frame.first, high - low)
                    row = first_difference(was, event.table.slice(low - first, high - low))
                    if row is not None:
                        return (
                            f"step {low + row} is not what it was before: the loss keeps a state that parity cannot "
                            "store, or the device is not deterministic"
                        )
            kept.before = [frame for frame in kept.before if frame.first + frame.rows > after]
        return None

    def _tables(self, name: str) -> Iterator[pa.Table]:
        return map(self._table, self._kept[name].chunks)

    def _table(self, frame: _Frame) -> pa.Table:
        event = self._journal.read(frame.offset)
        assert isinstance(event, Advanced)
        return event.table

    def _evidence(self, table: str) -> Iterator[dict[str, Any]]:
        for name, kept in self._kept.items():
            for offset in kept.found:
                event = self._journal.read(offset)
                if isinstance(event, Found) and event.table == table:
                    for row in event.rows:
                        yield {"trial": name, **{key: _storable(value) for key, value in row.items()}}

    def _final(self, kept: _Kept) -> TrialRecord:
        begun = kept.record.status == "planned" and kept.chunks
        status: TrialStatus = "interrupted" if begun else kept.record.status
        return replace(kept.record, status=status, rows=kept.rows)

    def _index(self, name: str) -> int:
        return self._names.index(name)


def forget_journal(out: StoragePath) -> None:
    """Removes the journal and the states of a run whose tables are whole."""
    if isinstance(out, Path):
        (out / JOURNAL).unlink(missing_ok=True)
    else:
        storage.remove_folder(out / JOURNAL)
    storage.remove_folder(out / "states")


def _joined(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer tables."""
    some: list[pa.Table] = []
    for table in tables:
        some.append(table)
        if sum(map(len, some)) >= GROUP_ROWS:
            yield pa.concat_tables(some).unify_dictionaries()
            some = []
    if some:
        yield pa.concat_tables(some).unify_dictionaries()


def _ended(record: TrialRecord, event: Ended) -> TrialRecord:
    return replace(
        record,
        status=event.status,
        failed_step=event.failed_step,
        failure=event.failure,
        error=_storable(event.error),
        traceback=_storable(event.traceback),
        wall_s=event.wall_s,
        began=_time(event.began_s),
        ended=_time(event.ended_s),
    )


def _record(index: int, trials: Sequence[Trial]) -> TrialRecord:
    trial = trials[index]
    settings = trial.settings
    return TrialRecord(
        trial=trial.name,
        task=settings.task.name,
        task_origin=settings.task.origin,
        task_sha256=settings.task.sha256,
        loss_name=trial.loss.name,
        loss_origin=trial.loss.origin,
        loss_sha256=trial.loss.sha256,
        oracle=trial.oracle.name,
        device=trial.device.name,
        seed=trial.seed,
        replica=trial.replica,
        noise=trial.noise,
        steps=settings.steps,
        batches=settings.batches,
        batch_size=settings.batch_size,
        lr=settings.lr,
        optimizer=None,
        audit_every=settings.audit_every,
        trace=trace_file(index, [trial.name for trial in trials]),
    )


def _storable(value: Any) -> Any:
    """The value; of a text that is no Unicode, as an exception's may be, an escape in the place of what is not."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
