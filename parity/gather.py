"""What the trials tell, kept: a record of each, and its trace once it has ended."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from parity.events import Advanced, Began, Ended, Event, Restarted, Shared
from parity.progress import TrialProgress
from parity.store import SHARED_STEPS, TrialRecord, trace_file, write_table, write_trials
from parity.trial import Trial


class Gatherer:
    """Takes the events of a run's trials; stores each trace when its trial ends, and at `close` what is left."""

    def __init__(self, trials: Sequence[Trial], out: Path, progress: TrialProgress) -> None:
        self._out = out
        self._progress = progress
        self._records = {trial.name: _record(index, trial) for index, trial in enumerate(trials)}
        self._tables: dict[str, list[pa.Table]] = {trial.name: [] for trial in trials}
        self._shared: list[dict[str, Any]] = []
        self._write_shared()
        write_trials(out, list(self._records.values()))

    def take(self, event: Event) -> None:
        """Keeps what a trial told.

        Raises:
            Trouble: It cannot be written.
        """
        name = event.trial
        match event:
            case Began():
                self._records[name] = replace(self._records[name], **event.facts)
                self._progress.show(name, 0)
            case Advanced():
                self._records[name] = replace(self._records[name], **event.facts)
                self._tables[name].append(event.table)
                self._progress.show(name, self._rows(name))
            case Restarted():
                self._records[name] = replace(self._records[name], attempts=self._records[name].attempts + 1)
                self._tables[name].clear()
                self._progress.say(f"{name} begins again: {event.reason}")
                self._progress.show(name, 0)
            case Shared():
                self._records[name] = replace(self._records[name], shared_error=event.reason)
                self._shared += event.errors
                self._write_shared()
            case Ended():
                self._end(event)

    def close(self) -> None:
        """Stores the trials that did not end as interrupted."""
        for name, record in self._records.items():
            if record.status == "planned" and self._tables[name]:
                self._store(name, replace(record, status="interrupted"))

    def _end(self, event: Ended) -> None:
        record = replace(
            self._records[event.trial],
            status=event.status,
            failed_step=event.failed_step,
            error=event.error,
            traceback=event.traceback,
            wall_s=event.wall_s,
            began=_time(event.began_s),
            ended=_time(event.ended_s),
        )
        self._store(event.trial, record)
        self._progress.show(event.trial, self._rows(event.trial), state=event.status)

    def _store(self, name: str, record: TrialRecord) -> None:
        if self._rows(name):
            write_table(self._out / "traces" / record.trace, pa.concat_tables(self._tables[name]))
        self._records[name] = record
        write_trials(self._out, list(self._records.values()))

    def _write_shared(self) -> None:
        write_table(self._out / "shared_steps.parquet", pa.Table.from_pylist(self._shared, schema=SHARED_STEPS))

    def _rows(self, name: str) -> int:
        return sum(len(table) for table in self._tables[name])


def _record(index: int, trial: Trial) -> TrialRecord:
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
        audit_every=settings.audit_every,
        trace=trace_file(index, trial.name),
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
