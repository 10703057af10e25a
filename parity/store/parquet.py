"""Writes Parquet files whole or not at all, and checks what is read against its schema."""

import contextlib
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from parity.ground.errors import Trouble
from parity.ground.listing import listed
from parity.store import storage, trace
from parity.store.files import write_bytes, writing
from parity.store.footer import TooLargeError, check_groups, check_texts, check_whole, text_columns
from parity.store.schema import SCHEMA_NUMBER
from parity.store.storage import StoragePath

# Number of rows in a row group, unless so many have `GROUP_BYTES`: a row of a trace takes some 600 bytes in memory, and
# some 120 more for each tensor of the model.
GROUP_ROWS = 10_000
# Most bytes in memory of a row group that is written; one of 10,000 rows of a small model has 6 MB.
GROUP_BYTES = 64 * 2**20
# Columns added after the first release: older runs lack them, and are read with nulls.
LATER_COLUMNS = trace.LATER_COLUMNS | {
    *(
        "optimizer",
        "loss_line",
        "initial_norms",
        "initial_digests",
        "initial_sketches",
        "initial_buffer_digests",
        "first_step",
        "sharded",
        "param_shapes",
        "buffer_names",
        "unobserved",
        "optimizer_norms",
        "optimizer_sketches",
        "optimizer_inexact",
        "optimizer_error",
        "elsewhere_norms",
        "elsewhere_sketches",
        "buffer_added_norms",
        "buffer_added_sketches",
        "buffer_added_inexact",
    ),
    *("output_names", "output_dtype", "param_dtypes", "whole_error_u", "baseline_whole_error_u"),
    *("parity_sha256", "code_sha256", "imported"),
    *("candidate_whole_error_u", "unit", "exact_sketch", "computed_dtype", "exact_error"),
}


def write_table(path: StoragePath, table: pa.Table) -> None:
    """Writes a Parquet file with a checksum for each page, whole or not at all; replaces an existing file.

    Raises:
        Trouble: The file cannot be written.
    """
    sink = pa.BufferOutputStream()
    with open_writer(sink, table.schema) as writer:
        writer.write_table(table)
    write_bytes(path, sink.getvalue())


def open_writer(sink: StoragePath | pa.NativeFile, schema: pa.Schema, *, codec: str = "zstd") -> pq.ParquetWriter:
    """Opens a Parquet file for writing, in the way of all files that parity writes."""
    texts = [field.name for field in schema if pa.types.is_dictionary(field.type) or pa.types.is_string(field.type)]
    texts += [f"{field.name}.list.element" for field in schema if field.type == pa.list_(pa.string())]
    # Numbers have no dictionaries: digests, norms and sketches do not repeat, and zstd shrinks those that do. A trace
    # of 5,000 steps is written in a quarter of the time, read in less than half, and a quarter smaller than with them.
    # Parquet's checksums are optional. With them a flipped bit is found wherever it is in a page, and not only where it
    # breaks the decoding.
    return pq.ParquetWriter(sink, schema, compression=codec, write_page_checksum=True, use_dictionary=texts)


def write_tables(path: StoragePath, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Writes the rows of several tables as `write_table` does, with a row group of them in memory at a time.

    Args:
        path: The file.
        schema: The schema of each table.
        tables: The tables, in the order of their rows.

    Raises:
        Trouble: The file cannot be written.
    """
    with (
        writing(path),
        storage.written_beside(path) as beside,
        open_writer(beside, schema) as writer,
    ):
        for table in in_groups(tables):
            writer.write_table(table)


def in_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer tables, each of at least `GROUP_ROWS` or `GROUP_BYTES` but for the last."""
    collected: list[pa.Table] = []
    rows = size_bytes = 0
    for table in tables:
        collected.append(table)
        rows += len(table)
        # Not `nbytes`, which takes 0.1 ms for a table of 50 columns.
        size_bytes += table.get_total_buffer_size()
        if rows >= GROUP_ROWS or size_bytes >= GROUP_BYTES:
            yield pa.concat_tables(collected).unify_dictionaries()
            collected, rows, size_bytes = [], 0, 0
    if collected:
        yield pa.concat_tables(collected).unify_dictionaries()


def open_parquet(path: StoragePath) -> pq.ParquetFile:
    """Opens a Parquet file; a page whose checksum is wrong raises an error when it is read.

    Raises:
        Trouble: The file does not exist, is damaged, or has a row group that takes too much memory.
    """
    with reading(path), storage.on_disk(path) as copy:
        metadata = pq.read_metadata(copy)
        check_groups(metadata)
        # The copy of an object is deleted when the block ends, and stays readable while this file is open.
        return pq.ParquetFile(
            copy, metadata=metadata, read_dictionary=text_columns(metadata), page_checksum_verification=True
        )


def read_table(path: StoragePath, schema: pa.Schema) -> pa.Table:
    """Reads a Parquet file as a table of the schema.

    Raises:
        Trouble: The file does not exist, is damaged, has other columns, or takes too much memory.
    """
    with reading(path), open_parquet(path) as file:
        check_whole(file.metadata)
        table = file.read()
        check_texts(table)
        return cast(path, table, schema)


@contextlib.contextmanager
def reading(path: StoragePath) -> Iterator[None]:
    """Turns an error of the block into the `Trouble` that the file is missing or damaged.

    Raises:
        Trouble: The block raised an error of the system, of Arrow, or of a value.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise Trouble(f"{path} is missing: the run directory is damaged.") from error
    except TooLargeError as error:
        raise Trouble(
            f"{path} is not read: {error}. Write it again with smaller row groups, or judge a smaller run."
        ) from error
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:  # ValueError: a name is not UTF-8
        # Errors of Arrow may have several lines, of which the first says what is wrong.
        raise Trouble(f"{path} is damaged ({(str(error).splitlines() or [type(error).__name__])[0]}).") from error


def cast(path: StoragePath, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Casts a table to the types of the schema, with nulls in the `LATER_COLUMNS` that it lacks.

    Args:
        path: The file that the table was read from, for messages.
        table: The table, with its columns in the order of the schema.
        schema: The schema that the table has to have.

    Raises:
        Trouble: The columns are not those of the schema.
    """
    missing = {*schema.names} - {*table.column_names}
    if missing <= LATER_COLUMNS and len(table.column_names) + len(missing) == len(schema):
        for name in (name for name in schema.names if name in missing):
            # In the schema's place, since Arrow casts a table only if its columns have the same order.
            place = schema.get_field_index(name)
            table = table.add_column(place, schema.field(name), pa.nulls(len(table), schema.field(name).type))
    try:  # pandas writes the same values back in types of its own
        return table if table.schema.equals(schema) else table.cast(schema)
    except (ValueError, pa.ArrowException) as error:
        what = f"its columns are not those of schema {SCHEMA_NUMBER} ({_unlike(table, schema) or error})"
        raise Trouble(f"{path} is damaged: {what}.") from error


def _unlike(table: pa.Table, schema: pa.Schema) -> str:
    """Names the columns that a table lacks, and those that the schema does not have; empty if there are none."""
    lacks = [name for name in schema.names if name not in {*table.column_names} | LATER_COLUMNS]
    unknown = [name for name in table.column_names if name not in {*schema.names}]
    found = (("lacks", lacks), ("unknown", unknown))
    return "; ".join(f"{what}: {listed(names)}" for what, names in found if names)
