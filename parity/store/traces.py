"""Traces: read back on demand, and long ones by columns or row groups."""

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, groupby, pairwise

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from parity.ground.errors import Trouble
from parity.store import storage
from parity.store.footer import MOST_BYTES, check_size
from parity.store.last_used import LastUsed
from parity.store.parquet import reading
from parity.store.storage import StoragePath
from parity.store.trace import SCHEMA
from parity.store.trace_batches import batches, read_together
from parity.store.trace_chunks import TraceFile
from parity.store.trace_rows import find_wrong_chunks, find_wrong_column
from parity.store.trials import TrialRecord

# A trace of more rows, or of more bytes, is read by columns. So many rows of a small model take some 60 MB.
KEPT_ROWS = 100_000
KEPT_BYTES = 256 * 2**20
# Most bytes of traces that stay in memory after they were read: a few of the largest that are not read by columns.
KEPT_TRACES_BYTES = 8 * KEPT_BYTES
# Most bytes of columns of long traces that stay in memory, and of single row groups of them.
KEPT_COLUMNS_BYTES, KEPT_BLOCKS_BYTES = KEPT_BYTES // 2, KEPT_BYTES // 8
# Bytes of a row in memory, and what each parameter tensor and buffer adds: digests, norms and sketches.
_ROW_BYTES, _TENSOR_BYTES, _BUFFER_BYTES = 600, 124, 44
# Most bytes of a trace that is not read by columns, as its footer counts them: its settings may be texts of any length.
MOST_TRACE_BYTES = 4 * MOST_BYTES
# A column is read as a whole, and the judge makes one or two arrays of it.
_COLUMN_SHARE = 0.5


class Traces(Mapping[str, pa.Table]):
    """The traces of a run by trial name, read from storage on demand; those used last stay in memory.

    Of a trace that `is_long` ask for columns, with `read_columns`, or for blocks, which are its row groups: all of it
    may not fit into memory.

    Args:
        directory: The run directory.
        trials: The records of all trials of the run, which also say which trials share a file.
        sealed: The digests of files that the seal of the run holds, by their names in the directory.
    """

    def __init__(
        self, directory: StoragePath, trials: Sequence[TrialRecord], *, sealed: Mapping[str, str] | None = None
    ) -> None:
        self._directory = directory
        self._sealed = sealed or {}
        self._records = {record.trial: record for record in trials}
        self._sharing: dict[str, set[str]] = {}
        for record in trials:
            self._sharing.setdefault(record.trace, set()).add(record.trial)
        self._kept: OrderedDict[str, pa.Table] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._kept_rows = self._kept_bytes = 0
        # By what they are known by, which equal columns of several trials share.
        self._columns, self._blocks = LastUsed(), LastUsed()
        # Files stay open, since one that trials share is read for each of them; there are at most `MOST_TRACE_FILES`.
        self._open: dict[StoragePath, TraceFile] = {}
        self._groups_of: dict[str, Sequence[int]] = {}
        self._blocks_of: dict[str, tuple[tuple[int, int], ...] | None] = {}
        self._addresses: dict[tuple[str, str], tuple[bytes, ...] | None] = {}

    def __getitem__(self, trial: str) -> pa.Table:
        if trial in self._kept:
            self._kept.move_to_end(trial)
            return self._kept[trial]
        self._check_memory(self._records[trial], SCHEMA.names, MOST_TRACE_BYTES)
        parts = list(self._parts(self._records[trial], SCHEMA.names))
        # The empty table gives a trace without steps its columns.
        table = pa.concat_tables([SCHEMA.empty_table(), *parts]).combine_chunks()
        self._keep(trial, table, table.get_total_buffer_size())
        return table

    def _keep(self, trial: str, table: pa.Table, size_bytes: int) -> None:
        """Keeps a trace in memory, in the place of those that were used longest ago."""
        self._kept[trial], self._sizes[trial] = table, size_bytes
        self._kept_rows += len(table)
        self._kept_bytes += size_bytes
        # The trace that was asked for stays, even if it exceeds a limit by itself.
        while len(self._kept) > 1 and (self._kept_rows > KEPT_ROWS or self._kept_bytes > KEPT_TRACES_BYTES):
            longest_ago, dropped = self._kept.popitem(last=False)
            self._kept_rows -= len(dropped)
            self._kept_bytes -= self._sizes.pop(longest_ago)

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def columns(self, trial: str, names: Sequence[str]) -> pa.Table:
        """Some columns of a trace, and no others if it is a long one: see `column`.

        Raises:
            Trouble: The trace is damaged.
        """
        if not is_long(self._records[trial]):
            return self[trial].select(names)
        return pa.table({name: self.column(trial, name) for name in names})

    def column(self, trial: str, name: str) -> pa.ChunkedArray:
        """A column of a trace, with a row for each step.

        Args:
            trial: Name of the trial.
            name: Name of the column, in `trace.SCHEMA`.

        Raises:
            Trouble: The trace is damaged.
        """
        record = self._records[trial]
        if not is_long(record):
            return self[trial][name]
        known_by = self.addresses(trial, name)
        key = (name, known_by or trial, _checks(record))
        if key not in self._columns:
            self._check_memory(record, [name], int(_COLUMN_SHARE * psutil.virtual_memory().total))
            parts = list(self._parts(record, [name]))
            column = pa.concat_tables(parts)[name]
            if not pa.types.is_list(column.type):
                # In one piece, which NumPy can look at without a copy.
                column = pa.chunked_array([column.combine_chunks()])
            self._columns.keep(key, column)
            self._columns.drop(KEPT_COLUMNS_BYTES)
        return self._columns[key]

    def blocks(self, trial: str) -> tuple[tuple[int, int], ...] | None:
        """The first row of each row group of a long trace, and that after its last; None where they are not known.

        Raises:
            Trouble: The trace is damaged.
        """
        if trial not in self._blocks_of:
            record = self._records[trial]
            file, groups = self._groups(record) if is_long(record) else (None, ())
            # Each of them has to be all the trial's.
            known = file is not None and all(file.trials[group] == trial for group in groups)
            ends = [0, *accumulate(file.footer.rows[group] for group in groups)] if file and known else []
            self._blocks_of[trial] = tuple(pairwise(ends)) if known else None
        return self._blocks_of[trial]

    def addresses(self, trial: str, name: str) -> tuple[bytes, ...] | None:
        """Digests that identify the content of the blocks of a column: blocks with equal digests are equal.

        Blocks with other digests may be equal, too: their values may be stored in another way.

        Returns:
            A digest of 128 bits for each of `blocks`; None where they are not known.

        Raises:
            Trouble: The trace is damaged.
        """
        if (trial, name) not in self._addresses:
            file, groups = self._groups(self._records[trial])
            found = file.addresses(name, groups) if file and self.blocks(trial) is not None else (None,)
            known = tuple(each for each in found if each is not None)
            self._addresses[trial, name] = known if len(known) == len(found) else None
        return self._addresses[trial, name]

    def block(self, trial: str, names: Sequence[str], number: int) -> Mapping[str, pa.ChunkedArray]:
        """Some columns of one of the `blocks` of a trace.

        Raises:
            Trouble: The trace is damaged.
        """
        record, (begin, end) = self._records[trial], (self.blocks(trial) or ())[number]
        known_by = {name: self.addresses(trial, name) for name in names}
        keys = {
            name: (name, each[number] if each else (trial, number), _checks(record)) for name, each in known_by.items()
        }
        lacking = [name for name, key in keys.items() if key not in self._blocks]
        # All of a column may be in memory already. A slice of it is not kept, which would keep the whole of it.
        wholes = {name: (name, known_by[name] or trial, _checks(record)) for name in lacking}
        sliced = {
            name: self._columns[whole].slice(begin, end - begin)
            for name, whole in wholes.items()
            if whole in self._columns
        }
        lacking = [name for name in lacking if name not in sliced]
        if lacking:
            groups = self._groups(record)[1]
            table = self._rows(record, self._open[self._path(record)], [groups[number]], lacking)
            for name in lacking:
                self._blocks.keep(keys[name], table[name])
        found = {name: sliced[name] if name in sliced else self._blocks[key] for name, key in keys.items()}
        self._blocks.drop(KEPT_BLOCKS_BYTES)
        return found

    def nulls(self, trial: str, name: str) -> int:
        """Number of steps without a value in a column of a long trace.

        Raises:
            Trouble: The trace is damaged.
        """
        record = self._records[trial]
        file, groups = self._groups(record)
        known = file.nulls(name, groups) if file and self.blocks(trial) is not None else None
        return int(self.column(trial, name).null_count) if known is None else known

    def check_all(self) -> None:
        """Looks at each trace once, as `check` does; short ones that share a file are read together.

        Raises:
            Trouble: A trace is damaged.
        """
        for _, sharing in groupby(self._records.values(), key=lambda record: record.trace):
            records = list(sharing)
            read = self._keep_together(records) if len(records) > 1 else set()
            for record in records:
                if record.trial not in read:
                    self.check(record.trial)

    def _keep_together(self, records: Sequence[TrialRecord]) -> set[str]:
        """Reads, checks and keeps what is whole of the short traces of a file; returns their trials."""
        read: set[str] = set()
        file = self._groups(records[0])[0]
        if file is None:
            return read
        places = [(record, self._groups(record)[1]) for record in records if record.rows and not is_long(record)]
        # One that is too large by itself is left to `check`, which says so.
        for together in batches(file, places, MOST_TRACE_BYTES):
            tables = read_together(file, together) or []
            # They are slices of one table, and its buffers are counted once.
            of_all = tables[0].get_total_buffer_size() if tables else 0
            rows = sum(map(len, tables))
            for (record, _), table in zip(together, tables, strict=False):
                self._keep(record.trial, table, of_all * len(table) // rows)
                read.add(record.trial)
        return read

    def check(self, trial: str) -> None:
        """Looks at all of a trace once: that its bytes are those that were sealed, else that all of it can be decoded.

        Raises:
            Trouble: The trace is damaged.
        """
        record = self._records[trial]
        if not is_long(record):
            self[trial]  # reading it checks it, and keeps it for the judge
            return
        file, groups = self._groups(record)
        if file and self.blocks(trial) is not None and self._sealed.get(f"traces/{record.trace}") == file.digest:
            if wrong := find_wrong_chunks(file.chunks(groups), record):
                raise Trouble(f"{file.path} is damaged: {wrong}.")
            self.column(trial, "step")  # which checks that there are as many as there have to be, and in their order
            self.column(trial, "settings")  # which checks that its texts describe settings
        else:
            deque(self._parts(record, SCHEMA.names), maxlen=0)

    @property
    def digests(self) -> dict[StoragePath, str]:
        """Digests of the files whose bytes were read for them."""
        return {path: file.digest for path, file in self._open.items() if file.is_digested}

    def _parts(self, record: TrialRecord, names: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of a trace, one row group after the other.

        Raises:
            Trouble: The trace is damaged; or, if "step" is among the columns, its steps are not complete.
        """
        file, groups = self._groups(record)
        rows = 0
        # One column of numbers is read at once: most of the time goes into the calls.
        once = len(names) == 1 and not pa.types.is_list(SCHEMA.field(names[0]).type)
        for together in [groups] if once and groups else [[group] for group in groups]:
            assert file is not None, "a trial without a file has no row groups"
            table = self._rows(record, file, together, names)
            begin = (record.first_step or 0) + rows
            end = begin + len(table)
            if "step" in names and not np.array_equal(table["step"].to_numpy(), np.arange(begin, end)):
                raise Trouble(f"{file.path} is damaged: its steps are not {begin - rows} and so on, one by one.")
            rows += len(table)
            yield table
        if rows != record.rows:
            raise Trouble(f"{self._path(record)} is damaged: it has {rows} of {record.rows} rows.")

    def _rows(self, record: TrialRecord, file: TraceFile, groups: Sequence[int], names: Sequence[str]) -> pa.Table:
        """The rows of a trial in some row groups."""
        # "trial" too, to notice rows that belong elsewhere.
        table = file.read(groups, ["trial", *names])
        if set(table["trial"].unique().to_pylist()) - self._sharing[record.trace]:
            raise Trouble(f"{file.path} is damaged: it holds rows of other trials than {record.trial}.")
        if len(self._sharing[record.trace]) > 1:
            table = table.filter(pc.equal(table["trial"], record.trial))
        if wrong := find_wrong_column(table, record):
            raise Trouble(f"{file.path} is damaged: {wrong}.")
        return table.select(names)

    def _path(self, record: TrialRecord) -> StoragePath:
        return self._directory / "traces" / record.trace

    def _groups(self, record: TrialRecord) -> tuple[TraceFile | None, Sequence[int]]:
        """The file of a trace, and its row groups that may hold rows of the trial.

        Raises:
            Trouble: The file is damaged.
        """
        path = self._path(record)
        if path not in self._open:
            # A trial without steps has no file, unless it shares one with trials that have some.
            if not record.rows and not storage.exists(path):
                return None, ()
            self._open[path] = TraceFile(path)
        file = self._open[path]
        if record.trial not in self._groups_of:
            # A file that several trials share is read only where the statistics of a row group allow the trial.
            alone = len(self._sharing[record.trace]) == 1
            groups = range(file.metadata.num_row_groups) if alone else file.groups_of(record.trial)
            self._groups_of[record.trial] = groups
        return file, self._groups_of[record.trial]

    def _check_memory(self, record: TrialRecord, names: Sequence[str], most: int) -> None:
        """Raises `Trouble` if some columns of a trace take too much memory."""
        file, groups = self._groups(record)
        if file is not None:
            what = f"the column {names[0]}" if len(names) == 1 else "the trace"
            with reading(file.path):
                check_size(file.size(names, groups), f"{what} of {record.trial}", most)


def is_long(record: TrialRecord) -> bool:
    """Whether a trial's trace is read column by column, since all of it may not fit into memory."""
    return record.rows > KEPT_ROWS or estimated_bytes(record) > KEPT_BYTES


def estimated_bytes(record: TrialRecord) -> int:
    """Bytes of a trial's trace in memory, nearly; Arrow takes 0.1 ms to count those of so many columns."""
    width = _ROW_BYTES + len(record.param_names) * _TENSOR_BYTES + len(record.buffer_names or ()) * _BUFFER_BYTES
    return record.rows * width


def read_columns(traces: Mapping[str, pa.Table], trial: str, names: Sequence[str]) -> pa.Table:
    """Reads some columns of a trace, and no others if it is a long one.

    Args:
        traces: The traces by trial name.
        trial: Name of the trial.
        names: Names of the columns, in `trace.SCHEMA`.

    Raises:
        Trouble: The trace is damaged.
    """
    return traces.columns(trial, names) if isinstance(traces, Traces) else traces[trial].select(names)


def _checks(record: TrialRecord) -> tuple[object, ...]:
    """What the columns of a trace are checked against when they are read."""
    buffers = None if record.buffer_names is None else len(record.buffer_names)
    return record.first_step, record.rows, len(record.param_names), buffers
