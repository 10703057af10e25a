"""python -m parity.columns: what each column of the stored tables is, as Markdown; loads neither torch nor Ray."""

import argparse
import sys
from collections.abc import Mapping, Sequence

import pyarrow as pa

from parity.ground.command import guarded
from parity.judge.differences import SCHEMA as DIFFERENCES
from parity.store.tables import EVIDENCE
from parity.store.trace import SCHEMA
from parity.store.trials import TRIALS

# By file of the run directory.
TABLES: Mapping[str, pa.Schema] = {
    "trials.parquet": TRIALS,
    "traces/*.parquet": SCHEMA,
    "differences.parquet": DIFFERENCES,
    **{f"{name}.parquet": schema for name, schema in EVIDENCE.items()},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.columns",
        description="Prints type, unit and meaning of each column of a run's Parquet files, as Markdown. The files "
        "themselves have the same in their schemas.",
    )
    parser.parse_args(arguments)
    return guarded(_print_tables)


def markdown(file: str, schema: pa.Schema) -> str:
    """One table, folded.

    Args:
        file: Its name in the run directory.
        schema: Of `trace.describe_table`.
    """
    row = schema.metadata[b"parity.row"].decode()
    lines = [
        f"| `{field.name}` | {_kind(field.type)} | {_told(field, 'unit')} | {_told(field, 'meaning')} |"
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
    print("\n".join(markdown(file, schema) for file, schema in TABLES.items()))
    return 0


def _kind(kind: pa.DataType) -> str:
    """The type as Arrow names it, but for names and lists, whose own are long."""
    if pa.types.is_dictionary(kind):
        return "name"
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


def _told(field: pa.Field, what: str) -> str:
    """A text of the column's metadata, as Markdown has to have it."""
    text: str = field.metadata[what.encode()].decode()
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
