"""The events kept of one trial: its record, and where its steps, its state and its findings are in the journal."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from parity.ground.quoting import MOST_STORED, cut
from parity.plan.trial import Trial
from parity.plan.user_code import code_digest
from parity.store.events import Advanced, Began, Ended, Event, Found, Restarted, Saved
from parity.store.statuses import TrialStatus
from parity.store.trials import TrialRecord


@dataclass(frozen=True)
class StepsInJournal:
    """Where the journal holds an event with steps of a trace.

    Attributes:
        offset: Where the event begins, in bytes.
        first: The first step of the trace in it.
        rows: How many steps it has.
        shared: Whether it also holds steps for other devices.
    """

    offset: int
    first: int
    rows: int
    shared: bool

    @property
    def end(self) -> int:
        """The step after the last one."""
        return self.first + self.rows


@dataclass
class KeptTrial:
    """The events kept of one trial, and the steps rolled back by a restart, which must be reproduced.

    Attributes:
        record: The trial's row of trials.parquet, as far as it is known.
        steps: The steps that count, in their order.
        rolled_back: Steps reported after the last saved state and before a restart. The trial computes them again,
            and they have to come out the same.
        portable: Whether the trial can be continued from a state with the same results.
        findings: Offsets of the `Found` events that count.
        saved: The last saved state, or None.
        saved_at: Offset of its event; -1 if there is none.
    """

    record: TrialRecord
    steps: list[StepsInJournal] = field(default_factory=list)
    rolled_back: list[StepsInJournal] = field(default_factory=list)
    portable: bool = True
    findings: list[int] = field(default_factory=list)
    saved: Saved | None = None
    # Less than any offset, so that without a saved state a restart drops everything.
    saved_at: int = -1

    @property
    def rows(self) -> int:
        """How many steps count."""
        return sum(steps.rows for steps in self.steps)

    @property
    def next_step(self) -> int:
        """The step at which the trial continues from its saved state; 0 if it begins again."""
        return self.saved.step if self.saved else 0

    def add(self, event: Event, offset: int) -> None:
        """Takes in an event of the trial, which the journal holds at the offset in bytes."""
        match event:
            case Began():
                self._learn(event.facts)
            case Advanced():
                self._learn(event.facts)
                self.steps.append(StepsInJournal(offset, event.first, event.rows, bool(event.shared)))
            case Saved():
                self.saved, self.saved_at = event, offset
            case Restarted():
                self._roll_back(event)
            case Found():
                if event.missing:
                    self.record = replace(self.record, shared_error=storable(event.missing))
                self.findings.append(offset)
            case Ended():
                self.record = _ended(self.record, event)

    def final_record(self) -> TrialRecord:
        """The record with the number of steps that are stored; a trial that began and did not end is interrupted."""
        # The status changes only with `Ended`, so a trial that was cut off is still "planned" here.
        begun = self.record.status == "planned" and self.steps
        status: TrialStatus = "interrupted" if begun else self.record.status
        return replace(self.record, status=status, rows=self.rows)

    def _learn(self, facts: Mapping[str, Any]) -> None:
        """Takes facts of the trial into its record."""
        stored = {name: storable(value) for name, value in facts.items()}
        # Each chunk brings them, nearly always the same, and a record has many fields.
        if any(getattr(self.record, name) != value for name, value in stored.items()):
            self.record = replace(self.record, **stored)

    def _roll_back(self, event: Restarted) -> None:
        """Drops what the trial reported since it was saved."""
        # This is never undone: if one state could not be trusted, another one cannot either.
        self.portable &= event.portable
        # The journal is in the order of time: what is at a larger offset than the state was reported after it.
        if event.step:
            self.rolled_back += [steps for steps in self.steps if steps.offset > self.saved_at]
        else:  # nothing is continued, so nothing has to be reproduced
            self.saved, self.saved_at, self.rolled_back = None, -1, []
        self.steps = [steps for steps in self.steps if steps.offset < self.saved_at]
        self.findings = [offset for offset in self.findings if offset < self.saved_at]
        reason = f"step {event.step}: {storable(event.reason)}"
        when = _time(event.at_s)
        # The facts of the old worker stay until the new one reports its own, with `Began`.
        self.record = replace(
            self.record,
            attempts=self.record.attempts + 1,
            restarts=[*self.record.restarts, f"{when:%Y-%m-%dT%H:%M:%SZ} {reason}" if when else reason],
        )


def planned_record(trial: Trial, trace: str) -> TrialRecord:
    """The record of a trial before it begins.

    Args:
        trial: The trial.
        trace: Name of the file that its trace will be in.

    Returns:
        The record with the status "planned", and with null for every fact that only the worker knows.
    """
    settings = trial.settings
    return TrialRecord(
        trial=trial.name,
        task=settings.task.name,
        task_origin=settings.task.origin,
        task_sha256=settings.task.sha256,
        loss_name=trial.loss.name,
        loss_origin=trial.loss.origin,
        loss_sha256=trial.loss.sha256,
        loss_line=trial.loss.line,
        oracle=trial.oracle.name,
        device=trial.device.name,
        seed=trial.seed,
        replica=trial.replica,
        noise=trial.noise,
        steps=settings.steps,
        batches=settings.batches,
        batch_size=settings.batch_size,
        lr=settings.lr,
        # Reported with the first steps: the task makes its optimizer in the worker.
        optimizer=None,
        audit_every=settings.audit_every,
        digest_kind=trial.digest_kind,
        code_sha256=code_digest(trial.loss, trial.oracle, settings.task),
        trace=trace,
    )


def storable(value: Any) -> Any:
    """The value as a table may have it: texts of at most `MOST_STORED` characters, with escapes for what is no Unicode.

    A text may be the message of an exception, or the name of somebody's module.
    """
    if isinstance(value, (list, tuple)):
        return [storable(each) for each in value] if any(isinstance(each, str) for each in value) else value
    # Arrow stores UTF-8 and would refuse the whole table for the sake of one such text.
    return cut(value, MOST_STORED).encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _ended(record: TrialRecord, event: Ended) -> TrialRecord:
    return replace(
        record,
        status=event.status,
        failed_step=event.failed_step,
        failure=event.failure,
        error=storable(event.error),
        traceback=storable(event.traceback),
        imported=storable(event.imported),
        wall_s=event.wall_s,
        began=_time(event.began_s),
        ended=_time(event.ended_s),
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
