"""How much memory a Parquet file takes once it is decoded, estimated from its footer before anything is decoded.

A few kilobytes may stand for any number of values, since equal values are stored once with a count. The footer is the
writer's claim; what a page really holds is known only when it is decoded.
"""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# Most bytes of a row group, and of a table that is read as a whole, with at least 8 for each value: as objects of
# Python they take some 4 times as much. The trials of 1,000 GPUs with a model of 300 tensors take 60 MB; a row group
# that parity writes takes `parquet.GROUP_BYTES`, or twice that with 8 bytes for each of its numbers.
MOST_BYTES = 2**29
# Most times that a file grows when it is decoded, if that is much memory at all: one row group after the other, it
# takes time. A training of 1,000 tensors of which all but 10 are frozen comes to some 1,000 times.
MOST_TIMES = 10_000
# A value of Arrow has at most so many bytes; as an object of Python it has more, so that narrow ones count as much.
_VALUE_BYTES = 8


class TooLargeError(ValueError):
    """A table would take more memory than parity gives it; the message says how much."""


def text_columns(metadata: pq.FileMetaData) -> list[str]:
    """The paths of the columns of texts, which are to be read as dictionaries: each text is in memory once."""
    columns = (metadata.schema.column(number) for number in range(metadata.num_columns))
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def column_bytes(metadata: pq.FileMetaData) -> list[dict[str, int]]:
    """Bytes of memory of each column of each row group, by the footer.

    Raises:
        ValueError: The footer has negative numbers.
    """
    columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    # What is the same in all row groups: a fleet has one for each trial.
    known = [
        (each.path.split(".")[0], max(_VALUE_BYTES, each.length or 0), each.physical_type == "BYTE_ARRAY")
        for each in columns
    ]
    found = []
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        rows, sizes = row_group.num_rows, {name: 0 for name, _, _ in known}
        # A damaged footer may have fewer columns in a row group.
        for number, (name, wide, is_text) in zip(range(row_group.num_columns), known, strict=False):
            column = row_group.column(number)
            # Lists have more values than rows; a null has no value, but a place.
            values, unpacked = column.num_values, column.total_uncompressed_size
            if rows < 0 or values < 0 or unpacked < 0:
                raise ValueError("its footer has negative numbers")
            sizes[name] += max(rows, values) * wide + (unpacked if is_text else 0)
        found.append(sizes)
    return found


def check_groups(metadata: pq.FileMetaData) -> None:
    """Checks that each row group can be decoded, and that all of them together end in time.

    Raises:
        TooLargeError: One takes more than `MOST_BYTES`, or all take too much more than the file.
        ValueError: The footer has negative numbers.
    """
    sizes = [sum(each.values()) for each in column_bytes(metadata)]
    for group, size in enumerate(sizes):
        check_size(size, f"its row group {group}")
    total = sum(sizes)
    if total > 8 * MOST_BYTES:
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        stored = sum(each.column(number).total_compressed_size for each in groups for number in range(each.num_columns))
        check_size(total, "all of it", max(8 * MOST_BYTES, MOST_TIMES * (stored + metadata.serialized_size)))


def check_whole(metadata: pq.FileMetaData) -> None:
    """Checks that all of a table can be decoded at once.

    Raises:
        TooLargeError: It takes more than `MOST_BYTES`.
        ValueError: The footer has negative numbers.
    """
    check_size(sum(sum(each.values()) for each in column_bytes(metadata)), "it")


def check_texts(table: pa.Table) -> None:
    """Checks that the texts of a table can be unpacked, each of which is in memory once.

    Raises:
        TooLargeError: They take more than `MOST_BYTES`.
    """
    check_size(sum(_unpacked_bytes(chunk) for column in table.columns for chunk in column.chunks), "the texts in it")


def check_size(size: int, what: str, most: int = MOST_BYTES) -> None:
    """Raises `TooLargeError` if something takes more bytes than that."""
    if size > most:
        raise TooLargeError(f"{what} would take {size / 1e9:.1f} GB of memory, and at most {most / 1e9:.1f} GB is read")


def _unpacked_bytes(array: pa.Array) -> int:
    """Bytes of the texts of an array, if each of its values had its own."""
    return sum(
        pc.sum(pc.take(pc.binary_length(part.dictionary), part.indices)).as_py() or 0
        for part in _leaves(array)
        if pa.types.is_dictionary(part.type) and _is_text(part.type.value_type)
    )


def _leaves(array: pa.Array) -> Iterator[pa.Array]:
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(array.flatten())
    else:
        yield array


def _is_text(kind: pa.DataType) -> bool:
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(check(kind) for check in checks)
