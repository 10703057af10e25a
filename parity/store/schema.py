"""Schemas of stored tables: each column has a type, a unit and a meaning, which are stored in the file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import get_type_hints

import pyarrow as pa

# Number of the layout of run directories; a reader refuses any other.
SCHEMA_NUMBER = 1
# Type of a name that repeats from row to row: each text is stored once. pandas reads it as a categorical.
NAME = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Column:
    """Annotation that makes a dataclass field a column of a stored table; see `describe_record`.

    Attributes:
        kind: The Arrow type.
        meaning: What the values are.
        unit: Their unit; empty for a name, count, ratio or digest.
    """

    kind: pa.DataType
    meaning: str
    unit: str = ""


def column(name: str, kind: pa.DataType, meaning: str, *, unit: str = "") -> pa.Field:
    """An Arrow field with its meaning and unit in its metadata; a name, count, ratio or digest has an empty unit."""
    return pa.field(name, kind, metadata={"meaning": meaning, "unit": unit})


def describe_table(row: str, columns: Sequence[pa.Field]) -> pa.Schema:
    """A schema whose own metadata has the meaning and unit of each column, for readers other than Arrow's.

    Args:
        row: What a row of the table is.
        columns: The columns, from `column`.
    """
    explained = {field.name: {key.decode(): text.decode() for key, text in field.metadata.items()} for field in columns}
    metadata = {"parity.schema": str(SCHEMA_NUMBER), "parity.row": row, "parity.columns": json.dumps(explained)}
    return pa.schema(columns, metadata=metadata)


def describe_record(row: str, record: type) -> pa.Schema:
    """The schema of a table whose rows are instances of a dataclass.

    Args:
        row: What a row of the table is.
        record: The dataclass; each field that is annotated with a `Column` is a column, in the order of the fields.
    """
    hints = get_type_hints(record, include_extras=True)  # without the extras the `Column`s would be dropped
    columns = [
        column(field.name, note.kind, note.meaning, unit=note.unit)
        for field in fields(record)
        for note in getattr(hints[field.name], "__metadata__", ())
        if isinstance(note, Column)
    ]
    return describe_table(row, columns)
