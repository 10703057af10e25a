"""The column chunks of a Parquet file: where the bytes of each are, and how to tell undecoded whether two are equal.

A column chunk is what a row group holds of one column. Chunks whose bytes and descriptions are equal hold equal values,
so most of two equal traces need not be decoded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq
import xxhash


@dataclass(frozen=True)
class Chunk:
    """What the footer says of a column chunk.

    Attributes:
        begin: Where its bytes begin in the file.
        end: Where they end.
        described: How its bytes are to be read.
        values: Number of its values; of a column of lists, those in all lists.
        nulls: Number of rows without a value, or None if that is not known.
    """

    begin: int
    end: int
    described: str
    values: int
    nulls: int | None


@dataclass(frozen=True)
class Footer:
    """What the footer of a file says of its row groups.

    Attributes:
        rows: Number of rows of each row group.
        chunks: The chunks of each column, one for each row group; without columns that are nested any deeper.
    """

    rows: tuple[int, ...]
    chunks: Mapping[str, tuple[Chunk, ...]]


def read_footer(metadata: pq.FileMetaData) -> Footer:
    """What the footer of a file says."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    schema = metadata.schema.to_arrow_schema().remove_metadata()
    kinds = {field.name: str(field.remove_metadata()) for field in schema}
    leaves: dict[str, list[int]] = {}
    for number in range(metadata.num_columns):
        leaves.setdefault(metadata.schema.column(number).path.split(".")[0], []).append(number)
    return Footer(
        tuple(group.num_rows for group in groups),
        {
            name: tuple(_chunk(group, numbers[0], kinds[name]) for group in groups)
            for name, numbers in leaves.items()
            if len(numbers) == 1 and name in kinds
        },
    )


def addresses(footer: Footer, digests: Mapping[tuple[int, int], bytes]) -> dict[str, tuple[bytes | None, ...]]:
    """What the chunks of each column are known by, one for each row group; None where the file has no such bytes.

    Args:
        footer: What the footer says.
        digests: The digests of the bytes, by where they begin and end.
    """
    return {
        name: tuple(_address(chunk, digests.get((chunk.begin, chunk.end))) for chunk in chunks)
        for name, chunks in footer.chunks.items()
    }


def places(footer: Footer) -> Sequence[tuple[int, int]]:
    """Where the bytes of the chunks are, in their order; empty where some overlap."""
    found = sorted({(chunk.begin, chunk.end) for chunks in footer.chunks.values() for chunk in chunks})
    ordered = [0, *(place for each in found for place in each)]
    return found if ordered == sorted(ordered) else ()


def _address(chunk: Chunk, digest: bytes | None) -> bytes | None:
    # Hashed again together with the description, so that an address is short.
    return None if digest is None else xxhash.xxh3_128_digest(digest + chunk.described.encode())


def _chunk(group: pq.RowGroupMetaData, number: int, kind: str) -> Chunk:
    column = group.column(number)
    # As Arrow finds it: dictionary_page_offset may be anything where the column has no dictionary.
    begin, dictionary = column.data_page_offset, column.dictionary_page_offset
    if dictionary is not None and 0 < dictionary < begin:
        begin = dictionary
    statistics = column.statistics
    facts = (kind, column.physical_type, column.compression, column.num_values, group.num_rows)
    return Chunk(
        begin,
        begin + column.total_compressed_size,
        repr((*facts, column.data_page_offset - begin)),
        column.num_values,
        statistics.null_count if statistics is not None and statistics.has_null_count else None,
    )


def only_texts(metadata: pq.FileMetaData, name: str) -> list[str | None]:
    """The only text that a column has in each row group, by the statistics; None where these do not say so."""
    numbers = [n for n in range(metadata.num_columns) if metadata.schema.column(n).path == name]
    found = [metadata.row_group(n).column(numbers[0]) for n in range(metadata.num_row_groups)] if numbers else []
    return [_only(chunk) for chunk in found] if numbers else [None] * metadata.num_row_groups


def _only(column: pq.ColumnChunkMetaData) -> str | None:
    statistics = column.statistics
    if statistics is None or not statistics.has_min_max or statistics.null_count:
        return None
    return statistics.min if statistics.min == statistics.max and isinstance(statistics.min, str) else None
