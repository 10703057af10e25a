"""Takes the events of a run's trials: writes them to the journal as they come, and to tables at the end of the run."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from parity.ground.errors import Trouble
from parity.plan.trial import Trial
from parity.store import storage
from parity.store.events import Advanced, Began, Ended, Event, Found, Restarted, Saved
from parity.store.journal import JOURNAL, Journal
from parity.store.kept_trial import KeptTrial, planned_record
from parity.store.lease import check_held
from parity.store.position import Position, SharedSteps
from parity.store.run_tables import steps_table, write_run_tables
from parity.store.states import read_state, remove_state, write_state
from parity.store.storage import StoragePath
from parity.store.trace import DIGESTS, first_difference
from parity.store.trace_files import trace_file
from parity.store.trials import HARDWARE, SOFTWARE

# A trial continues from a state only where these facts are the same: other code would give other bits.
CLASS = (*HARDWARE, *SOFTWARE)


class Progress(Protocol):
    """Shows how far the trials are; `render.progress.TrialProgress` is one."""

    def show(self, trial: str, done: int, *, state: str = "") -> None:
        """Shows how many steps of a trial are done, and the trial's status once it has ended."""

    def say(self, line: str) -> None:
        """Prints a line."""


class Gatherer:
    """Takes the events of a run's trials, and answers where each trial continues; the `Past` of a run.

    Of each event it keeps only the place in the journal, and of the traces no more than the chunk that it is taking.

    Args:
        trials: The trials of the plan.
        out: The run directory; a journal in it is continued.
        progress: Shows how far the trials are.

    Raises:
        Trouble: The journal is damaged, or cannot be written.
    """

    def __init__(self, trials: Sequence[Trial], out: StoragePath, progress: Progress) -> None:
        self._out = out
        self._progress = progress
        self._names = [trial.name for trial in trials]
        self._kept = {
            trial.name: KeptTrial(planned_record(trial, trace_file(index, self._names)))
            for index, trial in enumerate(trials)
        }
        # Trials that have to begin again, until the executor has asked `void` about them.
        self._void: set[str] = set()
        self._journal = Journal(out / JOURNAL)
        try:
            for offset, event in self._journal.replay():
                self._apply(event, offset)
        except Trouble:
            # The caller gets no Gatherer that it could close.
            self._journal.close()
            raise
        if self._journal.left_out:
            progress.say(
                f"The driver was stopped while it was writing: the last {self._journal.left_out} bytes of {JOURNAL} "
                "are incomplete and are dropped"
            )

    @property
    def unfinished(self) -> list[str]:
        """Names of the trials that have not ended."""
        return [name for name, kept in self._kept.items() if kept.record.status == "planned"]

    @property
    def rows(self) -> int:
        """Number of steps that count, over all trials."""
        return sum(kept.rows for kept in self._kept.values())

    def take(self, events: Sequence[Event]) -> None:
        """Stores events of trials; they are durable when this returns.

        An event that contradicts what the trial reported before is replaced by a restart of the trial; see `void`.

        Raises:
            Trouble: They cannot be written.
        """
        older = []
        for event in events:
            kept = self._kept[event.trial]
            if isinstance(event, Saved):
                if not kept.portable:  # a state that must not be used is not stored
                    continue
                assert event.state is not None
                # Before the journal names it: a name without its file would cost the trial its steps, while a file that
                # is not named costs nothing and is removed with the others once the run is complete.
                write_state(self._out, self._index(event.trial), event.step, event.state)
                older += [(event.trial, kept.saved.step)] if kept.saved else []
                event = replace(event, state=None)
            elif isinstance(event, Restarted) and event.at_s is None:
                # The executor, which lost the worker, does not know which state was stored last.
                event = replace(event, step=self.step(event.trial), at_s=time.time())
            elif reason := self._contradiction(kept, event):
                self._void.add(event.trial)
                # Another class of hardware says nothing against states: those saved on it can be used later.
                event = Restarted(event.trial, reason, 0, time.time(), portable=isinstance(event, Began))
            self._apply(event, self._journal.add(event))
            # Here rather than in `_apply`: of a run that is continued, it was said before.
            if isinstance(event, Found) and event.progress:
                self._progress.say(f"{event.trial}: {event.progress}")
        # Once for all events: syncing is what costs time.
        self._journal.sync()
        # Only now: until the journal says that the newer state counts, a killed driver needs the older one.
        for name, step in older:
            remove_state(self._out, self._index(name), step)

    def go_on(self, reason: str) -> None:
        """Records that each trial that began and has not ended continues from where it was saved last.

        Args:
            reason: What ended its worker.
        """
        # A trial that has not begun has nothing to roll back, and is not charged with an attempt.
        begun = [name for name in self.unfinished if self._kept[name].steps or self._kept[name].record.host]
        self.take([Restarted(name, reason) for name in begun])

    def void(self, trial: str) -> bool:
        """Whether the trial's last event contradicted earlier ones, so that it has to begin again; True only once."""
        void = trial in self._void
        self._void.discard(trial)
        return void

    def position(self, trial: str) -> Position | None:
        """Where the trial continues; None if it begins with step 0.

        Raises:
            Trouble: The journal is damaged.
        """
        kept = self._kept[trial]
        if kept.saved is None:
            return None
        try:
            state = read_state(self._out, self._index(trial), kept.saved.step)
        except Trouble as trouble:  # the trial can do without its state, at the price of its steps
            self._progress.say(f"{trial} begins again: {trouble}")
            self.take([Restarted(trial, str(trouble), 0, time.time())])
            return None
        digests = pa.concat_tables(self._digests(trial))
        return Position(kept.saved.step, state, digests, kept.saved.wall_s, kept.saved.began_s)

    def step(self, trial: str) -> int:
        """The step at which the trial continues; 0 if it begins again."""
        return self._kept[trial].next_step

    def shared(self, trial: str) -> SharedSteps:
        """The steps and digests that the trial left for trials on other devices.

        Raises:
            Trouble: The journal is damaged.
        """
        shared = SharedSteps(tables=list(self._digests(trial)))
        for steps in self._kept[trial].steps:
            if steps.shared:
                # Read when they are asked for, and not kept: each shared step holds a whole state of the baseline.
                event = self._journal.read(steps.offset)
                assert isinstance(event, Advanced)
                shared.steps += event.shared
        return shared

    def write_tables(self) -> None:
        """Writes the tables of the run; a trial that did not end is stored as interrupted, with the steps it has.

        Raises:
            Trouble: The journal is damaged, a table cannot be written, or another driver has taken over the run.
        """
        check_held(self._out, certainly=True)
        write_run_tables(self._out, self._kept, self._journal)

    def close(self) -> None:
        """Closes the journal."""
        self._journal.close()

    def _apply(self, event: Event, offset: int) -> None:
        """Adds an event to what is kept of its trial, and shows what it changes."""
        name = event.trial
        kept = self._kept.get(name)
        if kept is None:
            raise Trouble(f"{self._out / JOURNAL} has events of the trial {name}, which run.json does not list.")
        kept.add(event, offset)
        match event:
            case Restarted():
                how = f"continues at step {event.step}" if event.step else "begins again"
                self._progress.say(f"{name} {how}: {event.reason}")
                self._progress.show(name, kept.rows)
            case Began() | Advanced():
                self._progress.show(name, kept.rows)
            case Ended():
                self._progress.show(name, kept.rows, state=event.status)

    def _contradiction(self, kept: KeptTrial, event: Event) -> str | None:
        """Why a trial that continued from a state has to begin again, or None."""
        # Without a saved state a trial begins with step 0, which it may do on any hardware.
        if isinstance(event, Began) and kept.saved:
            before, now = ([facts.get(name) for name in CLASS] for facts in (vars(kept.record), event.facts))
            if before != now:
                return "its state was saved on another class of hardware or with other software"
            # Null in a run that an earlier version began.
            if kept.record.parity_sha256 not in (None, event.facts.get("parity_sha256")):
                return "its state was saved with other code of parity"
        if isinstance(event, Advanced) and kept.rolled_back:
            step = self._not_reproduced(kept, event)
            if step is not None:
                return (
                    f"step {step} differs from what it was before the restart: the loss keeps a state that parity "
                    "cannot store, or the device is not deterministic"
                )
        return None

    def _not_reproduced(self, kept: KeptTrial, event: Advanced) -> int | None:
        """The first step that differs from what it was before it was rolled back, or None; forgets those compared."""
        first, end, table = event.first, event.end, event.table
        # Chunks end by time, so those of the two attempts seldom cover the same steps: they are compared where they
        # overlap.
        for steps in kept.rolled_back:
            low, high = max(first, steps.first), min(end, steps.end)
            if low < high:
                before = steps_table(steps, self._journal).slice(low - steps.first, high - low)
                row = first_difference(before, table.slice(low - first, high - low))
                if row is not None:
                    return low + row
        kept.rolled_back = [steps for steps in kept.rolled_back if steps.end > end]
        return None

    def _digests(self, trial: str) -> Iterator[pa.Table]:
        """The digests of the trial's steps, a table for each event."""
        return (steps_table(steps, self._journal).select(DIGESTS) for steps in self._kept[trial].steps)

    def _index(self, name: str) -> int:
        return self._names.index(name)


def forget_journal(out: StoragePath) -> None:
    """Removes the journal and the saved states of a run whose tables are complete."""
    # Killed in here, a driver leaves a run that is complete all the same; --resume then removes what is left.
    if isinstance(out, Path):
        (out / JOURNAL).unlink(missing_ok=True)
    else:
        storage.remove_folder(out / JOURNAL)
    storage.remove_folder(out / "states")
