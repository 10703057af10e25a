"""Every stored table explains itself, and is read by each library as the types that it was meant to have."""

import json
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from parity import columns
from parity.columns import TABLES
from parity.store.schema import NAME

from conftest import command

UNITS = {"", "s", "u", "ulp"}
# Of a column's name; what has such a name has this unit, and nothing else has.
SUFFIXES = {"s": "_s", "u": "_u", "ulp": "_ulp"}
# Names that tables share, and that other tables than `replays` have of the same type.
SHARED = (
    "trial",
    "baseline",
    "candidate",
    "loss_name",
    "device",
    "tensor",
    "quantity",
    "step",
    "epoch",
    "batch",
    "seed",
)


@pytest.mark.parametrize("file", TABLES)
def test_a_column_has_a_meaning_and_the_unit_of_its_name(file):
    for field in TABLES[file]:
        meaning, unit = (field.metadata[key].decode() for key in (b"meaning", b"unit"))
        assert len(meaning) >= 5 and unit in UNITS, field.name
        for other, suffix in SUFFIXES.items():
            assert (unit == other) == field.name.endswith(suffix), field.name


@pytest.mark.parametrize("file", TABLES)
def test_types_are_those_that_every_reader_has(file):
    plain = {
        pa.string(),
        pa.bool_(),
        pa.int32(),
        pa.int64(),
        pa.float32(),
        pa.float64(),
        pa.timestamp("us", tz="UTC"),
        NAME,
    }
    for field in TABLES[file]:
        digest = pa.uint64() if field.name.endswith("_digest") else None
        digests = pa.list_(pa.uint64()) if field.name.endswith("_digests") else None
        lists = {pa.list_(kind) for kind in (pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64())}
        assert field.type == (digest or digests) if digest or digests else field.type in plain | lists


def test_a_name_has_one_type_in_all_tables():
    """So that tables join by it, also in readers that will not join a categorical and a text."""
    for name in SHARED:
        found = {
            schema.field(name).type for file, schema in TABLES.items() if name in schema.names and "repl" not in file
        }
        assert len(found) == 1, name


def test_every_stored_table_is_among_them_and_says_what_it_is(reference):
    files = {path.relative_to(reference) for path in reference.rglob("*.parquet")}
    assert {file for file in files if not any(file.match(pattern) for pattern in TABLES)} == set()
    for pattern, schema in TABLES.items():
        for path in reference.glob(pattern):
            stored = pq.read_schema(path)
            assert stored.equals(schema) and stored.metadata == schema.metadata, path
            assert [field.metadata for field in stored] == [field.metadata for field in schema], path


def test_readers_that_know_nothing_of_arrow_see_it_too(reference):
    path = reference / "differences.parquet"
    rows = duckdb.execute("SELECT decode(key), decode(value) FROM parquet_kv_metadata(?)", [str(path)]).fetchall()
    for metadata in (dict(rows), pl.read_parquet_metadata(path)):
        assert metadata["parity.schema"] == "1"
        assert metadata["parity.row"] == "a step that both trials of a pair have"
        columns_json = json.loads(metadata["parity.columns"])
        assert list(columns_json) == TABLES["differences.parquet"].names
        assert columns_json["loss_ulp"]["unit"] == "ulp"


def exact(reference):
    """The columns of the traces that must arrive to the bit, read by pyarrow: names, losses, digests."""
    rows = ds.dataset(reference / "traces").to_table(columns=WANTED).to_pylist()
    return sorted(tuple(row[name] for name in WANTED) for row in rows)


WANTED = ["trial", "step", "loss", "param_digest", "param_grad_digests"]


def by_pandas(folder):
    frame = pd.read_parquet(folder)
    assert frame.trial.dtype == "category" and frame.param_digest.dtype == "uint64" and frame.loss.dtype == "float64"
    frame = frame.astype({"trial": str}).sort_values(["trial", "step"])
    return [(*row[:-1], row[-1].tolist()) for row in frame[WANTED].itertuples(index=False, name=None)]


def by_pandas_of_arrow(folder):
    frame = pd.read_parquet(folder, dtype_backend="pyarrow").astype({"trial": "string[pyarrow]"})
    frame = frame.sort_values(["trial", "step"])
    return [(*row[:-1], list(row[-1])) for row in frame[WANTED].itertuples(index=False, name=None)]


def by_polars(folder):
    frame = pl.read_parquet(folder)
    assert (frame.schema["trial"], frame.schema["param_digest"]) == (pl.Categorical, pl.UInt64)
    return frame.with_columns(pl.col("trial").cast(pl.String)).select(WANTED).sort("trial", "step").rows()


def by_lazy_polars(folder):
    frame = pl.scan_parquet(folder / "*.parquet").with_columns(pl.col("trial").cast(pl.String))
    return frame.select(WANTED).sort("trial", "step").collect().rows()


def by_duckdb(folder):
    relation = duckdb.read_parquet(str(folder / "*.parquet")).order("trial, step").select(*WANTED)
    assert [str(kind) for kind in relation.types] == ["VARCHAR", "BIGINT", "DOUBLE", "UBIGINT", "UBIGINT[]"]
    return relation.fetchall()


@pytest.mark.parametrize("read", [by_pandas, by_pandas_of_arrow, by_polars, by_lazy_polars, by_duckdb])
def test_traces_of_several_files_arrive_to_the_bit(reference, read):
    want = exact(reference)
    assert len(want) == 940 and max(row[3] for row in want) > 2**63
    assert read(reference / "traces") == want


def test_the_tables_of_the_docs_are_what_the_command_prints(capsys):
    assert columns.main([]) == 0
    page = Path("docs/reference/columns.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() in page, "run python docs/generate.py"


def test_markdown_escapes_what_would_end_a_cell():
    schema = pa.schema(
        [TABLES["traces/*.parquet"].field("grad_ratio"), TABLES["traces/*.parquet"].field("loss_error_u")]
    )
    text = columns.markdown("x.parquet", schema.with_metadata({"parity.row": "a step"}))
    assert "| &lt;g, g64> / &lt;g64, g64>: 1 is right" in text
    assert "| double | u | error of the loss: \\|loss - loss64\\| / (u \\|loss64\\|); " in text


def test_the_columns_load_neither_torch_nor_ray():
    program = "import sys, parity.columns; print(sorted({'torch', 'ray'} & sys.modules.keys()))"
    assert command("-c", program).stdout == "[]\n"
