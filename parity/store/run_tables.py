"""The tables of a run, written from its journal: the traces, what was found beside them, and trials.parquet."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from parity.store import storage
from parity.store.events import Advanced, Found
from parity.store.journal import Journal
from parity.store.kept_trial import KeptTrial, StepsInJournal, storable
from parity.store.parquet import in_groups, write_table
from parity.store.storage import StoragePath
from parity.store.tables import EVIDENCE
from parity.store.trace_files import TraceWriter
from parity.store.trials import write_trials


def write_run_tables(out: StoragePath, kept: Mapping[str, KeptTrial], journal: Journal) -> None:
    """Writes every table of a run except those that the judge writes.

    Args:
        out: The run directory.
        kept: What is kept of each trial, by its name; in the order of the plan.
        journal: The journal that holds the events.

    Raises:
        Trouble: The journal is damaged, or a table cannot be written.
    """
    _write_traces(out, kept, journal)
    for name, schema in EVIDENCE.items():
        rows = list(_evidence(name, kept, journal))
        write_table(out / f"{name}.parquet", pa.Table.from_pylist(rows, schema=schema))
    # Last: `stored_run` and `resume` take the existence of trials.parquet for that of all tables.
    write_trials(out, [each.final_record() for each in kept.values()])


def steps_table(steps: StepsInJournal, journal: Journal) -> pa.Table:
    """The steps of a trace that an event holds, in the columns of `trace.SCHEMA`.

    Args:
        steps: Where the journal holds the event.
        journal: The journal.

    Raises:
        Trouble: The journal is damaged.
    """
    event = journal.read(steps.offset)
    assert isinstance(event, Advanced)
    return event.table


def _write_traces(out: StoragePath, kept: Mapping[str, KeptTrial], journal: Journal) -> None:
    writers: dict[str, TraceWriter] = {}
    # All files are open at the same time, at most `MOST_TRACE_FILES` of them.
    for each in kept.values():
        if each.steps:
            file = each.record.trace
            writer = writers.setdefault(file, TraceWriter(out / "traces" / file))
            for table in in_groups(steps_table(steps, journal) for steps in each.steps):
                writer.append(table)
    # They get their names when all are written: an error before leaves the traces of an earlier driver as they were.
    for writer in writers.values():
        writer.close()
    for file in (each.record.trace for each in kept.values()):
        if file not in writers:  # an earlier driver wrote it before the trial began again
            storage.remove(out / "traces" / file)


def _evidence(table: str, kept: Mapping[str, KeptTrial], journal: Journal) -> Iterator[dict[str, Any]]:
    """The rows of one of the `EVIDENCE` tables."""
    for name, each in kept.items():
        for offset in each.findings:
            event = journal.read(offset)
            if isinstance(event, Found) and event.table == table:
                for row in event.rows:
                    yield {"trial": name, **{key: storable(value) for key, value in row.items()}}
