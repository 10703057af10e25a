"""The runs that are compared with each other: reading them, and naming their trials after them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from parity.store import storage
from parity.store.found_runs import RANK
from parity.store.parquet import reading
from parity.store.storage import StoragePath
from parity.store.stored_run import StoredRun, read_run
from parity.store.traces import Traces, read_columns

# Step, quantity and tensor of a row of step_errors.parquet; and the rows by these three.
StepPlace = tuple[int, str, str | None]
StepErrors = Mapping[StepPlace, Mapping[str, Any]]


@dataclass(frozen=True)
class ComparedRun:
    """A run that is compared with others, or one rank of it.

    Attributes:
        run: The run, with its trials named after it.
        errors: The errors of the steps that it checked against float64: by trial, then by step, quantity and tensor.
    """

    run: StoredRun
    errors: Mapping[str, StepErrors]

    @classmethod
    def named(cls, run: StoredRun, name: str) -> ComparedRun:
        """Names a run and its trials.

        Args:
            run: The run as it was read.
            name: A name that none of the other compared runs has.
        """
        named = name_trials(run, name)
        rows: dict[str, list[Mapping[str, Any]]] = {}
        for row in named.evidence["step_errors"].to_pylist():
            rows.setdefault(row["trial"], []).append(row)
        return cls(named, {trial: errors_by_place(each) for trial, each in rows.items()})


def errors_by_place(rows: Iterable[Mapping[str, Any]]) -> StepErrors:
    """The rows of step_errors.parquet for one trial, by step, quantity and tensor."""
    return {(row["step"], row["quantity"], row["tensor"]): row for row in rows}


def read_ranks(directory: StoragePath) -> dict[str, StoredRun]:
    """The run of a directory, under the name ""; or the runs of its ranks, under "rank-0" and so on.

    Raises:
        Trouble: The directory has neither a run nor ranks, or one of them is damaged.
    """
    inside: list[str] = []
    # A path may be too long, or lead through folders that nobody may read.
    with reading(directory / "run.json"):
        # The directory of a distributed training has no run.json, but a folder for each rank; also one that was ended
        # before it had a run.json counts, so that it is missed.
        if not storage.exists(directory / "run.json") and directory.is_dir():
            inside = [path.name for path in directory.glob(f"{RANK}*")]
    if inside:
        # Sorted by length first, so that rank-10 comes after rank-9.
        return {name: read_run(directory / name) for name in sorted(inside, key=lambda name: (len(name), name))}
    return {"": read_run(directory)}


def label(directories: Sequence[StoragePath]) -> list[str]:
    """Names of the runs: as many of the last parts of their paths as make them different, else with a number."""
    parts = [[part for part in str(directory).replace("\\", "/").split("/") if part] for directory in directories]
    # The last part of a path is usually enough; each further part is tried only where names are still equal.
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    # One directory was given twice: even the whole paths are equal.
    return [f"{name}#{number}" for number, name in enumerate(names, start=1)]


def name_trials(run: StoredRun, name: str) -> StoredRun:
    """The run, with its name in front of the names of its trials in all tables.

    Args:
        run: The run as it was read.
        name: A name that none of the other compared runs has.
    """
    trials = tuple(replace(record, trial=f"{name}/{record.trial}", run=name) for record in run.trials)
    originals = {new.trial: old.trial for new, old in zip(trials, run.trials, strict=True)}
    evidence = {}
    for kind, table in run.evidence.items():
        # The column of names is a dictionary in the schema, which the cast restores.
        renamed = pa.array([f"{name}/{trial}" for trial in table["trial"].to_pylist()], pa.string())
        field = table.schema.field("trial")
        evidence[kind] = table.set_column(table.column_names.index("trial"), field, renamed.cast(field.type))
    return replace(run, trials=trials, traces=RenamedTraces(run.traces, originals), evidence=evidence)


class RenamedTraces(Traces):
    """Traces of one or several runs, under other names for their trials."""

    def __init__(self, traces: Mapping[str, pa.Table], originals: Mapping[str, str]) -> None:
        self._found = {new: (traces, old) for new, old in originals.items()}

    @classmethod
    def together(cls, several: Sequence[Mapping[str, pa.Table]]) -> RenamedTraces:
        """The traces of several runs, whose names are all different."""
        # The traces of each run have been renamed already, so each keeps the name that it has.
        joined = cls({}, {})
        joined._found = {trial: (traces, trial) for traces in several for trial in traces}
        return joined

    def __getitem__(self, trial: str) -> pa.Table:
        traces, name = self._found[trial]
        return traces[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def columns(self, trial: str, names: Sequence[str]) -> pa.Table:
        """Some columns of a trace.

        Raises:
            Trouble: The trace is damaged.
        """
        # Read through the run's own traces, so that a long trace is read column by column here too.
        traces, original = self._found[trial]
        return read_columns(traces, original, names)

    def column(self, trial: str, name: str) -> pa.ChunkedArray:
        """A column of a trace, as `columns`."""
        return self.columns(trial, [name])[name]

    def blocks(self, trial: str) -> tuple[tuple[int, int], ...] | None:
        """The blocks of a long trace, as `Traces` has them."""
        traces, original = self._found[trial]
        return traces.blocks(original) if isinstance(traces, Traces) else None

    def addresses(self, trial: str, name: str) -> tuple[bytes, ...] | None:
        """What each block of a column is known by, as `Traces` has it."""
        traces, original = self._found[trial]
        return traces.addresses(original, name) if isinstance(traces, Traces) else None

    def block(self, trial: str, names: Sequence[str], number: int) -> Mapping[str, pa.ChunkedArray]:
        """Some columns of a block, as `Traces` reads them."""
        traces, original = self._found[trial]
        assert isinstance(traces, Traces), "traces in memory have no blocks"
        return traces.block(original, names, number)

    def nulls(self, trial: str, name: str) -> int:
        """Number of steps without a value in a column, as `Traces` counts them."""
        traces, original = self._found[trial]
        return traces.nulls(original, name) if isinstance(traces, Traces) else int(traces[original][name].null_count)


def select_trials(table: pa.Table, trials: Container[str]) -> pa.Table:
    """The rows of a table that belong to some trials."""
    return table.filter(pa.array([trial in trials for trial in table["trial"].to_pylist()], pa.bool_()))
