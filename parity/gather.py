"""What the trials tell, kept: traces go to storage as they come, records and evidence now and then."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from parity.events import Advanced, Began, Ended, Event, Found, Restarted
from parity.evidence import EVIDENCE
from parity.progress import TrialProgress
from parity.store import TraceWriter, TrialRecord, trace_file, write_table, write_trials
from parity.trial import Trial

# Records and evidence are written anew when so many times has passed what the last writing took.
WRITE_SHARE = 200.0


class Gatherer:
    """Takes the events of a run's trials. Holds no more of a trace than the chunk that it was just given."""

    def __init__(self, trials: Sequence[Trial], out: Path, progress: TrialProgress) -> None:
        self._out = out
        self._progress = progress
        self._records = {trial.name: _record(index, trial) for index, trial in enumerate(trials)}
        self._writers: dict[str, TraceWriter] = {}
        self._rows: dict[str, int] = {}
        # Of the trials that run, rows; of those that have ended, compact tables.
        self._found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self._evidence: dict[str, list[pa.Table]] = {name: [] for name in EVIDENCE}
        self._changed = set(EVIDENCE)
        self._write_tables()

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
                self._append(name, event.table)
                self._progress.show(name, self._rows[name])
            case Restarted():
                self._records[name] = replace(self._records[name], attempts=self._records[name].attempts + 1)
                if name in self._writers:
                    self._writers.pop(name).discard()
                self._rows.pop(name, None)
                self._found.pop(name, None)
                self._progress.say(f"{name} begins again: {event.reason}")
                self._progress.show(name, 0)
            case Found():
                if event.missing:
                    self._records[name] = replace(self._records[name], shared_error=event.missing)
                rows = self._found.setdefault(name, {}).setdefault(event.table, [])
                rows += [{"trial": name, **row} for row in event.rows]
            case Ended():
                self._end(event)

    def close(self) -> None:
        """Stores what there is of the trials that did not end as interrupted."""
        for name in list(self._writers):
            self._store(name, replace(self._records[name], status="interrupted"))
        for name in list(self._found):
            self._keep_evidence(name)
        self._write_tables()

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
        self._progress.show(event.trial, self._rows.pop(event.trial, 0), state=event.status)
        if time.monotonic() - self._wrote_s > WRITE_SHARE * self._writing_s:
            self._write_tables()

    def _append(self, name: str, table: pa.Table) -> None:
        if name not in self._writers:
            self._writers[name] = TraceWriter(self._out / "traces" / self._records[name].trace)
        self._writers[name].append(table)
        self._rows[name] = self._rows.get(name, 0) + len(table)

    def _store(self, name: str, record: TrialRecord) -> None:
        if name in self._writers:
            self._writers.pop(name).close()
        self._records[name] = record
        self._keep_evidence(name)

    def _keep_evidence(self, name: str) -> None:
        for kind, rows in self._found.pop(name, {}).items():
            self._evidence[kind].append(pa.Table.from_pylist(rows, schema=EVIDENCE[kind]))
            self._changed.add(kind)

    def _write_tables(self) -> None:
        """Writes the records, and the evidence that came since the last time."""
        began_s = time.monotonic()
        for name in sorted(self._changed):
            tables = [EVIDENCE[name].empty_table(), *self._evidence[name]]
            write_table(self._out / f"{name}.parquet", pa.concat_tables(tables))
        self._changed.clear()
        write_trials(self._out, list(self._records.values()))
        self._wrote_s = time.monotonic()
        self._writing_s = self._wrote_s - began_s


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
