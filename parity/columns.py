"""python -m parity.columns: prints what each column of the stored tables means; needs neither torch nor Ray."""

import sys
from collections.abc import Mapping, Sequence

import pyarrow as pa

from parity.ground.command import guarded
from parity.judge.differences_table import SCHEMA as DIFFERENCES
from parity.plan.command_options import make_columns_parser
from parity.store.tables import EVIDENCE
from parity.store.trace import SCHEMA
from parity.store.trials import TRIALS

# The schema of each file in the run directory. The files are written with the same objects, so the texts cannot become
# outdated.
TABLES: Mapping[str, pa.Schema] = {
    "trials.parquet": TRIALS,
    "traces/*.parquet": SCHEMA,
    "differences.parquet": DIFFERENCES,
    **{f"{name}.parquet": schema for name, schema in EVIDENCE.items()},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return guarded(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    make_columns_parser().parse_args(arguments)
    return _print_tables()


def markdown(file: str, schema: pa.Schema) -> str:
    """Formats the columns of one file as a folded Markdown table.

    Args:
        file: Name of the file in the run directory, or a pattern of names.
        schema: The file's schema, with the metadata that `schema.describe_table` adds.

    Returns:
        A `<details>` element with a row for each column.
    """
    # Arrow stores metadata as bytes.
    row = schema.metadata[b"parity.row"].decode()
    lines = [
        f"| `{field.name}` | {_kind(field.type)} | {_text(field, 'unit')} | {_text(field, 'meaning')} |"
        for field in schema
    ]
    return "\n".join(
        [
            f"<details><summary><code>{file}</code>: a row is {row}</summary>",
            "",
            "| column | type | unit | meaning |",
            "|---|---|---|---|",
            *lines,
            "",
            "</details>",
        ]
    )


def _print_tables() -> int:
    """Prints all tables; returns the exit status."""
    print("\n".join(markdown(file, schema) for file, schema in TABLES.items()))
    return 0


def _kind(kind: pa.DataType) -> str:
    """The type as Arrow names it, or a shorter name for dictionaries and lists."""
    if pa.types.is_dictionary(kind):
        # Dictionary encoding is a matter of storage: a reader gets names.
        return "name"
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


def _text(field: pa.Field, key: str) -> str:
    """A text of the column's metadata, escaped for a cell of a Markdown table."""
    text: str = field.metadata[key.encode()].decode()
    # A pipe would end the cell, and `<` would begin an HTML element.
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
