"""Traces: written row group by row group, and read back on demand."""

import contextlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from parity.ground.errors import Trouble
from parity.store import storage
from parity.store.files import writing
from parity.store.footer import MOST_BYTES, check_size, group_bytes
from parity.store.parquet import cast, open_parquet, reading
from parity.store.storage import StoragePath
from parity.store.trace import SCHEMA
from parity.store.trace_rows import find_wrong_column
from parity.store.trials import TrialRecord

# A trace of more rows, or of more bytes, is read by columns. So many rows of a small model take some 60 MB.
KEPT_ROWS = 100_000
KEPT_BYTES = 256 * 2**20
# Most bytes of traces that stay in memory after they were read: a few of the largest that are not read by columns.
KEPT_TRACES_BYTES = 8 * KEPT_BYTES
# Bytes of a row in memory, and what each parameter tensor and buffer adds: digests, norms and sketches.
_ROW_BYTES, _TENSOR_BYTES, _BUFFER_BYTES = 600, 124, 44
# Most bytes of a trace that is not read by columns, as its footer counts them: its settings may be texts of any length.
MOST_TRACE_BYTES = 4 * MOST_BYTES
# A column is read as a whole, and the judge makes one or two arrays of it.
_COLUMN_SHARE = 0.5
# Most bytes in memory of a row group that is written; one of 10,000 rows of a small model has 6 MB.
GROUP_BYTES = 64 * 2**20
# Most trace files that a run has, however many trials there are.
MOST_TRACE_FILES = 16
# Most characters of a trial's name used in a file name, since file systems limit its length (often to 255 bytes).
MOST_LETTERS = 150


class Traces(Mapping[str, pa.Table]):
    """The traces of a run by trial name, read from storage on demand; those used last stay in memory.

    Of a trace that `is_long` ask for columns, with `read_columns`: all of it may not fit into memory.

    Args:
        directory: The run directory.
        trials: The records of all trials of the run, which also say which trials share a file.
    """

    def __init__(self, directory: StoragePath, trials: Sequence[TrialRecord]) -> None:
        self._directory = directory
        self._records = {record.trial: record for record in trials}
        self._sharing: dict[str, set[str]] = {}
        for record in trials:
            self._sharing.setdefault(record.trace, set()).add(record.trial)
        self._kept: OrderedDict[str, pa.Table] = OrderedDict()
        self._kept_rows = self._kept_bytes = 0
        self._columns: OrderedDict[tuple[str, str], pa.ChunkedArray] = OrderedDict()
        # Files stay open, since one that trials share is read for each of them; there are at most `MOST_TRACE_FILES`.
        self._open: dict[StoragePath, pq.ParquetFile] = {}
        self._groups_of: dict[str, Sequence[int]] = {}

    def __getitem__(self, trial: str) -> pa.Table:
        if trial in self._kept:
            self._kept.move_to_end(trial)
            return self._kept[trial]
        self._check_memory(self._records[trial], SCHEMA.names, MOST_TRACE_BYTES)
        parts = list(self._parts(self._records[trial], SCHEMA.names))
        # The empty table gives a trace without steps its columns.
        table = self._kept[trial] = pa.concat_tables([SCHEMA.empty_table(), *parts]).combine_chunks()
        self._kept_rows += len(table)
        self._kept_bytes += table.nbytes
        # The trace that was asked for stays, even if it exceeds a limit by itself.
        while len(self._kept) > 1 and (self._kept_rows > KEPT_ROWS or self._kept_bytes > KEPT_TRACES_BYTES):
            _, dropped = self._kept.popitem(last=False)
            self._kept_rows -= len(dropped)
            self._kept_bytes -= dropped.nbytes
        return table

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def column(self, trial: str, name: str) -> pa.ChunkedArray:
        """A column of a trace, with a row for each step.

        Args:
            trial: Name of the trial.
            name: Name of the column, in `trace.SCHEMA`.

        Raises:
            Trouble: The trace is damaged.
        """
        if not is_long(self._records[trial]):
            return self[trial][name]
        key = (trial, name)
        if key not in self._columns:
            self._check_memory(self._records[trial], [name], int(_COLUMN_SHARE * psutil.virtual_memory().total))
            parts = list(self._parts(self._records[trial], [name]))
            self._columns[key] = pa.concat_tables(parts)[name]
            while len(self._columns) > 1 and sum(kept.nbytes for kept in self._columns.values()) > KEPT_BYTES:
                self._columns.popitem(last=False)
        self._columns.move_to_end(key)
        return self._columns[key]

    def check(self, trial: str) -> None:
        """Reads all of a trace once.

        Raises:
            Trouble: The trace is damaged.
        """
        if not is_long(self._records[trial]):
            self[trial]  # reading it checks it, and keeps it for the judge
        else:
            for _ in self._parts(self._records[trial], SCHEMA.names):
                pass

    def _parts(self, record: TrialRecord, names: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of a trace, one row group after the other.

        Raises:
            Trouble: The trace is damaged; or, if "step" is among the columns, its steps are not complete.
        """
        path = self._path(record)
        file, groups = self._groups(record)
        # "trial" too, to notice rows that belong elsewhere; each column once.
        wanted = list(dict.fromkeys(["trial", *names]))
        rows = 0
        for group in groups:
            assert file is not None, "a trial without a file has no row groups"
            with reading(path):
                read = file.read_row_group(group, columns=wanted)
            table = cast(path, read, pa.schema([SCHEMA.field(name) for name in wanted], SCHEMA.metadata))
            if set(table["trial"].unique().to_pylist()) - self._sharing[record.trace]:
                raise Trouble(f"{path} is damaged: it holds rows of other trials than {record.trial}.")
            if len(self._sharing[record.trace]) > 1:
                table = table.filter(pc.equal(table["trial"], record.trial))
            if wrong := find_wrong_column(table, record):
                raise Trouble(f"{path} is damaged: {wrong}.")
            begin = (record.first_step or 0) + rows
            if "step" in names and table["step"].to_pylist() != list(range(begin, begin + len(table))):
                raise Trouble(f"{path} is damaged: its steps are not {record.first_step or 0} and so on, one by one.")
            rows += len(table)
            yield table.select(names)
        if rows != record.rows:
            raise Trouble(f"{path} is damaged: it has {rows} of {record.rows} rows.")

    def _path(self, record: TrialRecord) -> StoragePath:
        return self._directory / "traces" / record.trace

    def _groups(self, record: TrialRecord) -> tuple[pq.ParquetFile | None, Sequence[int]]:
        """The file of a trace, and its row groups that may hold rows of the trial.

        Raises:
            Trouble: The file is damaged.
        """
        path = self._path(record)
        # A trial without steps has no file, unless it shares one with trials that have some.
        if not record.rows and not storage.exists(path):
            return None, ()
        file = self._open.get(path) or self._open.setdefault(path, open_parquet(path))
        if record.trial not in self._groups_of:
            # A file that several trials share is read only where the statistics of a row group allow the trial.
            alone = len(self._sharing[record.trace]) == 1
            groups = range(file.num_row_groups) if alone else _row_groups(file, record.trial)
            self._groups_of[record.trial] = groups
        return file, self._groups_of[record.trial]

    def _check_memory(self, record: TrialRecord, names: Sequence[str], most: int) -> None:
        """Raises `Trouble` if some columns of a trace take too much memory."""
        file, groups = self._groups(record)
        if file is not None:
            with reading(self._path(record)):
                size = sum(group_bytes(file.metadata, group, frozenset(names)) for group in groups)
                what = f"the column {names[0]}" if len(names) == 1 else "the trace"
                check_size(size, f"{what} of {record.trial}", most)


def is_long(record: TrialRecord) -> bool:
    """Whether a trial's trace is read column by column, since all of it may not fit into memory."""
    width = _ROW_BYTES + len(record.param_names) * _TENSOR_BYTES + len(record.buffer_names or ()) * _BUFFER_BYTES
    return record.rows > KEPT_ROWS or record.rows * width > KEPT_BYTES


def read_columns(traces: Mapping[str, pa.Table], trial: str, names: Sequence[str]) -> pa.Table:
    """Reads some columns of a trace, and no others if it is a long one.

    Args:
        traces: The traces by trial name.
        trial: Name of the trial.
        names: Names of the columns, in `trace.SCHEMA`.

    Raises:
        Trouble: The trace is damaged.
    """
    if isinstance(traces, Traces):
        return pa.table({name: traces.column(trial, name) for name in names})
    return traces[trial].select(names)


def trace_file(index: int, trials: Sequence[str]) -> str:
    """Name of a trial's file in traces/: the number and the name of the first trial in it.

    Args:
        index: Position of the trial in the plan.
        trials: Names of all trials; if there are many, several share a file.
    """
    # Rounded up; consecutive trials share a file, so that each is written in the order of the plan.
    share = -(-len(trials) // MOST_TRACE_FILES)
    first = index // share * share
    readable = re.sub(r"[^A-Za-z0-9@.-]", "_", trials[first])[:MOST_LETTERS]
    return f"{first:04d}-{readable}.parquet"


class TraceWriter:
    """Writes a file of traces row group by row group; the file gets its name once it is complete.

    Args:
        path: The file; nothing is written before the first chunk.
    """

    def __init__(self, path: StoragePath) -> None:
        self._path = path
        self._placing = contextlib.ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def append(self, chunk: pa.Table) -> None:
        """Appends rows of one trial.

        Raises:
            Trouble: They cannot be written.
        """
        with writing(self._path):
            if self._writer is None:
                beside = self._placing.enter_context(storage.written_beside(self._path))
                self._writer = pq.ParquetWriter(beside, SCHEMA, compression="zstd", write_page_checksum=True)
            # Each call makes row groups of its own, so each of them has rows of one trial; `_row_groups` relies on
            # that.
            # And none that would not be read again, however many tensors a row has.
            rows = max(1, GROUP_BYTES * len(chunk) // max(1, chunk.nbytes))
            self._writer.write_table(chunk, row_group_size=rows)

    def close(self) -> None:
        """Completes the file, and gives it its name.

        Raises:
            Trouble: It cannot be written.
        """
        with writing(self._path), self._placing:
            assert self._writer is not None, "a trace without a chunk has no file"
            # Writes the footer, and has to come before `_placing` ends and gives the file its name.
            self._writer.close()


def _row_groups(file: pq.ParquetFile, trial: str) -> list[int]:
    """The row groups that may hold rows of a trial, by their statistics."""
    column = file.schema_arrow.get_field_index("trial")
    found = []
    for number in range(file.num_row_groups):
        statistics = file.metadata.row_group(number).column(column).statistics
        # Another program may have written the file again, without statistics; then each group is read.
        if not statistics or not statistics.has_min_max or statistics.min <= trial <= statistics.max:
            found.append(number)
    return found
