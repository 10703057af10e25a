"""What the trials tell, kept: a record of each, and its trace once it has ended."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from parity.events import Advanced, Began, Ended, Event, Found, Restarted
from parity.evidence import EVIDENCE
from parity.progress import TrialProgress
from parity.store import TrialRecord, trace_file, write_table, write_trials
from parity.trial import Trial


class Gatherer:
    """Takes the events of a run's trials; stores each trace when its trial ends, and at `close` what is left."""

    def __init__(self, trials: Sequence[Trial], out: Path, progress: TrialProgress) -> None:
        self._out = out
        self._progress = progress
        self._records = {trial.name: _record(index, trial) for index, trial in enumerate(trials)}
        self._tables: dict[str, list[pa.Table]] = {trial.name: [] for trial in trials}
        self._evidence: dict[str, list[dict[str, Any]]] = {name: [] for name in EVIDENCE}
        self._write_evidence()
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
                for rows in self._evidence.values():
                    rows[:] = [row for row in rows if row["trial"] != name]
                self._progress.say(f"{name} begins again: {event.reason}")
                self._progress.show(name, 0)
            case Found():
                if event.missing:
                    self._records[name] = replace(self._records[name], shared_error=event.missing)
                self._evidence[event.table] += [{"trial": name, **row} for row in event.rows]
            case Ended():
                self._end(event)

    def close(self) -> None:
        """Stores the trials that did not end as interrupted."""
        self._write_evidence()
        for name, record in self._records.items():
            if record.status == "planned" and self._tables[name]:
                self._store(name, replace(record, status="interrupted"))

    def _end(self, event: Ended) -> None:
        record = replace(
            self._records[event.trial],
            status=event.status,
            failed_step=event.failed_step,
            failure=event.failure,
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
        self._write_evidence()
        write_trials(self._out, list(self._records.values()))

    def _write_evidence(self) -> None:
        for name, schema in EVIDENCE.items():
            write_table(self._out / f"{name}.parquet", pa.Table.from_pylist(self._evidence[name], schema=schema))

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
