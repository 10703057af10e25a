"""Short traces of one file that are read and checked together: most of the time goes into the calls, not the rows."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from parity.ground.errors import Trouble
from parity.store.trace import SCHEMA
from parity.store.trace_chunks import TraceFile
from parity.store.trace_rows import find_wrong_column
from parity.store.trials import TrialRecord

# Most bytes of memory that row groups take which are read together, by the footer. Chosen: a few hundred short trials.
MOST_TOGETHER_BYTES = 16 * 2**20

# A trial, and the row groups that may hold its rows.
Places = Sequence[tuple[TrialRecord, Sequence[int]]]


def batches(file: TraceFile, places: Places, most: int) -> Iterator[Places]:
    """Yields those neighbours among the trials of a file that can be read together, at least two at a time.

    Args:
        file: The file.
        places: Its trials, with the row groups of each.
        most: Most bytes of memory that a trace may take.

    Raises:
        Trouble: The file is damaged.
    """
    together: list[tuple[TrialRecord, Sequence[int]]] = []
    size, most = 0, min(most, MOST_TOGETHER_BYTES)
    for record, groups in places:
        # Of a row group that the statistics do not give to one trial, other trials may have rows, too.
        own = bool(record.rows) and bool(groups) and all(file.trials[group] == record.trial for group in groups)
        more = file.size(SCHEMA.names, groups)
        if together and not (own and size + more <= most and _alike(together[0][0], record)):
            if len(together) > 1:
                yield together
            together, size = [], 0
        if own and more <= most:
            together.append((record, groups))
            size += more
    if len(together) > 1:
        yield together


def read_together(file: TraceFile, places: Places) -> list[pa.Table] | None:
    """The whole traces of some trials, in the types and the order of the schema.

    Args:
        file: The file.
        places: What `batches` yields.

    Returns:
        A table for each trial; None where anything is wrong with one of them, or the file cannot be read: each is then
        to be read by itself, which says what is wrong.
    """
    records = [record for record, _ in places]
    try:
        found = file.read([group for _, groups in places for group in groups], SCHEMA.names)
    except Trouble:
        return None
    # The empty table gives the fields the metadata of the schema.
    table = pa.concat_tables([SCHEMA.empty_table(), found]).combine_chunks()
    rows = [record.rows for record in records]
    if len(table) != sum(rows) or find_wrong_column(table, records[0]):
        return None
    steps = [np.arange(record.rows) + (record.first_step or 0) for record in records]
    if not np.array_equal(table["step"].to_numpy(), np.concatenate(steps)):
        return None
    if table["trial"].to_pylist() != [record.trial for record in records for _ in range(record.rows)]:
        return None
    ends = np.cumsum(rows).tolist()
    shared = [
        number
        for number, column in enumerate(table.columns)
        if pa.types.is_dictionary(column.type) and _has_more(column)
    ]
    return [_own_texts(table.slice(end - count, count), shared) for end, count in zip(ends, rows, strict=True)]


def _has_more(column: pa.ChunkedArray) -> bool:
    """Whether the trials may have different texts."""
    return any(len(chunk.dictionary) > 1 for chunk in column.chunks)


def _own_texts(table: pa.Table, columns: Sequence[int]) -> pa.Table:
    """The table with the texts that it has, and not those of all that it was read with."""
    for number in columns:
        field, column = table.schema.field(number), table.column(number)
        own = column.cast(field.type.value_type).dictionary_encode()
        table = table.set_column(number, field, own)
    return table


def _alike(one: TrialRecord, other: TrialRecord) -> bool:
    """Whether the rows of both are held against the same numbers by `find_wrong_column`."""
    buffers = [None if each.buffer_names is None else len(each.buffer_names) for each in (one, other)]
    return len(one.param_names) == len(other.param_names) and buffers[0] == buffers[1]
