import io
import json
import re
from dataclasses import fields
from typing import get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from parity.ground.errors import Trouble
from parity.judge.judging import differences_tables, judge
from parity.render import terminal
from parity.render.summary import summarize
from parity.store.directory import complete, create, discard, hold
from parity.store.files import write_json
from parity.store.parquet import write_table
from parity.store.statuses import Failure, TrialStatus
from parity.store.storage import parse_path
from parity.store.stored_run import read_info, read_run
from parity.store.trace import SCHEMA
from parity.store.trace_files import trace_file
from parity.store.trials import TRIALS, TrialRecord, write_trials

from conftest import plant


def trouble(directory):
    with pytest.raises(Trouble) as caught:
        read_run(directory)
    return str(caught.value)


def test_a_record_has_the_columns_of_the_table():
    assert [field.name for field in fields(TrialRecord)] == [*TRIALS.names, "run"]


def test_every_column_explains_itself():
    for field in (*TRIALS, *SCHEMA):
        assert field.metadata[b"meaning"]


@pytest.mark.parametrize(("column", "kind"), [("status", TrialStatus), ("failure", Failure)])
def test_a_column_of_words_names_each_of_them(column, kind):
    meaning = TRIALS.field(column).metadata[b"meaning"].decode()
    for word in (word for words in get_args(kind) for word in get_args(words)):
        assert re.search(rf"\b{word}\b", meaning)


def test_a_run_directory_holds_every_file(reference):
    files = {str(path.relative_to(reference)) for path in reference.rglob("*") if path.is_file()}
    assert files == {
        "run.json",
        "trials.parquet",
        "traces/0000-builtin_cpu-s0.parquet".replace("_", "@"),
        "traces/0001-numpy_cpu-s0.parquet".replace("_", "@"),
        "differences.parquet",
        "shared_steps.parquet",
        "contract.parquet",
        "step_errors.parquet",
        "findings.parquet",
        "replays.parquet",
        "summary.json",
        "report.html",
    }


def test_pandas_reads_470_full_precision_rows_a_trial(reference):
    traces = pd.read_parquet(reference / "traces")
    assert traces.groupby("trial", observed=True).size().to_dict() == {"builtin@cpu-s0": 470, "numpy@cpu-s0": 470}
    assert traces["loss"].dtype == "float64"
    assert traces["param_digest"].dtype == "uint64"
    assert len(pd.read_parquet(reference / "differences.parquet")) == 470
    assert list(pd.read_parquet(reference / "trials.parquet")["status"]) == ["complete", "complete"]


def test_a_trial_comes_with_the_facts_of_its_machine(reference):
    for record in read_run(reference).trials:
        for name in ("host", "os", "cpu_model", "cpu_capability", "blas", "python", "torch", "numpy", "parity"):
            assert getattr(record, name)
        assert (record.threads, record.attempts, record.loss_dtype) == (1, 1, "float32")
        assert record.param_names[0] == "0.0.weight" and len(record.param_names) == 16
        assert record.began < record.ended
        assert record.gpu_name is None


def test_metadata_of_the_columns_is_stored(reference):
    path = next((reference / "traces").iterdir())
    assert pq.read_schema(path).field("grad_error_u").metadata[b"unit"] == b"u"


def test_a_trace_that_pandas_wrote_back_is_read(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    (path,) = [path for path in (directory / "traces").iterdir() if "builtin" in path.name]
    pd.read_parquet(path).to_parquet(path)
    assert read_run(directory).traces["builtin@cpu-s0"].equals(read_run(equal_pair).traces["builtin@cpu-s0"])


def test_a_run_of_plain_strings_without_metadata_is_read(reference, copy_of):
    """The first versions stored names so, except those of traces."""
    directory = copy_of(reference)
    for path in directory.rglob("*.parquet"):
        table = pq.read_table(path)
        plain = [
            field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field for field in table.schema
        ]
        pq.write_table(table.cast(pa.schema(plain)), path)
        assert pq.read_schema(path).metadata is None and "dictionary" not in str(pq.read_schema(path).types)
    info = read_info(directory)
    del info["seal"]
    complete(directory, info)  # so that nothing counts as altered
    assert judged(directory) == judged(reference)


def test_an_existing_run_is_not_overwritten(equal_pair):
    with pytest.raises(Trouble) as caught:
        create(equal_pair)
    assert (
        str(caught.value)
        == f"{equal_pair} already holds a run. Choose another --out, or continue it with --resume {equal_pair}."
    )


def test_an_existing_folder_is_not_filled(tmp_path):
    with pytest.raises(Trouble) as caught:
        create(tmp_path)
    assert str(caught.value) == f"{tmp_path} already exists. Choose another --out, a new directory."


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    with pytest.raises(Trouble) as caught:
        create(out)
    assert str(caught.value) == f"--out {out} cannot be made (Not a directory). Choose a folder that you can write to."


def test_an_endpoint_that_is_not_an_address_is_reported(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(Trouble) as caught:
        create(parse_path("s3://bucket/run"))
    s3fs.S3FileSystem.clear_instance_cache()
    message = "--out s3://bucket/run cannot be made (Invalid endpoint: nonsense). Check the settings of the store."
    assert str(caught.value) == message


def test_an_unused_folder_is_removed(tmp_path):
    create(tmp_path / "run")
    discard(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_trace_file_is_named_for_its_trial():
    names = ["a", "b", "c", "numpy@cpu:threads=2-s0-r1"]
    assert trace_file(3, names) == "0003-numpy@cpu_threads_2-s0-r1.parquet"


@pytest.mark.parametrize("count", [1, 16, 17, 40, 1000, 2001])
def test_many_trials_share_few_trace_files(count):
    names = [f"builtin@cpu-s{seed}" for seed in range(count)]
    files = [trace_file(index, names) for index in range(count)]
    assert len(set(files)) == min(count, 16) or 8 < len(set(files)) < 16
    assert files == sorted(files)  # the trials of a file follow each other
    assert files[0] == "0000-builtin@cpu-s0.parquet"


def test_a_directory_is_used_by_one_driver(tmp_path):
    with hold(tmp_path):
        with pytest.raises(Trouble) as caught, hold(tmp_path):
            pass
        assert str(caught.value) == f"{tmp_path} is in use by another driver. Wait until it has ended, or stop it."
    with hold(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_json_is_strict(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Trouble) as caught:
        write_json(path, {"a": 2})
    assert str(caught.value) == f"{path} cannot be written (No space left on device). What was written before is kept."
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_foreign_folder_is_reported(tmp_path):
    assert trouble(tmp_path) == f"{tmp_path} is not a run directory: it has no run.json. Give the --out of a run."
    assert trouble(tmp_path / "nowhere") == f"{tmp_path}/nowhere does not exist. Give the --out of a run."


def test_a_foreign_run_json_is_reported(tmp_path):
    for text in ("{}", "[1]"):
        (tmp_path / "run.json").write_text(text)
        assert trouble(tmp_path) == (
            f"{tmp_path}/run.json was not written by parity: it has no schema number. Give the --out of a run."
        )


def test_another_schema_is_reported(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    path = directory / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    assert trouble(directory) == (
        f"{directory} has schema 99, and this parity reads schema 1. Use the version of parity that wrote it."
    )


def test_a_truncated_run_json_is_reported(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    path = directory / "run.json"
    path.write_text(path.read_text()[:20])
    assert trouble(directory).startswith(f"{path} is damaged (")


@pytest.mark.parametrize("name", ["trials.parquet", "traces/0001-functional@cpu-s0.parquet"])
def test_a_missing_file_is_reported(equal_pair, copy_of, name):
    directory = copy_of(equal_pair)
    (directory / name).unlink()
    assert trouble(directory) == f"{directory / name} is missing: the run directory is damaged."


@pytest.mark.parametrize("name", ["trials.parquet", "traces/0001-functional@cpu-s0.parquet"])
def test_a_truncated_file_is_reported(equal_pair, copy_of, name):
    directory = copy_of(equal_pair)
    path = directory / name
    path.write_bytes(path.read_bytes()[:-100])
    assert trouble(directory).startswith(f"{path} is damaged (")


def test_a_flipped_bit_in_the_bytes_of_a_trace_is_reported(equal_pair, copy_of):
    """Wherever it is: the checksums of the pages detect it."""
    directory = copy_of(equal_pair)
    path = directory / "traces" / "0001-functional@cpu-s0.parquet"
    whole = path.read_bytes()
    pages = pq.ParquetFile(path).metadata.row_group(0)
    columns = [pages.column(index) for index in range(pages.num_columns)]
    for column in columns:
        damaged = bytearray(whole)
        begin = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        damaged[begin + column.total_compressed_size - 4] ^= 1
        path.write_bytes(damaged)
        assert trouble(directory).startswith(f"{path} is damaged ("), column.path_in_schema


def test_missing_columns_are_reported(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    path = directory / "traces" / "0001-functional@cpu-s0.parquet"
    write_table(path, pq.read_table(path).drop_columns(["loss", "step_s"]))
    what = "its columns are not those of schema 1 (lacks: loss and step_s)"
    assert trouble(directory) == f"{path} is damaged: {what}."


def test_unknown_columns_and_other_types_are_reported(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    path = directory / "contract.parquet"
    table = pq.read_table(path)
    write_table(path, table.append_column("mine", table["item"]))
    what = "its columns are not those of schema 1 (unknown: mine)"
    assert trouble(directory) == f"{path} is damaged: {what}."
    write_table(path, table)
    path = directory / "traces" / "0001-functional@cpu-s0.parquet"
    table = pq.read_table(path)
    write_table(path, table.set_column(table.column_names.index("loss"), "loss", pa.array(["none"] * len(table))))
    assert trouble(directory).startswith(f"{path} is damaged: its columns are not those of schema 1 (Failed to parse")


def test_missing_rows_are_reported(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    path = directory / "traces" / "0001-functional@cpu-s0.parquet"
    table = pq.read_table(path)
    write_table(path, table.slice(0, 7))
    assert trouble(directory) == f"{path} is damaged: it has 7 of 8 rows."
    write_table(path, pa.concat_tables([table.slice(0, 3), table.slice(4)]))
    assert trouble(directory) == f"{path} is damaged: its steps are not 0 and so on, one by one."


def test_rows_of_another_trial_are_reported(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    path = directory / "traces" / "0001-functional@cpu-s0.parquet"
    path.write_bytes((directory / "traces" / "0000-builtin@cpu-s0.parquet").read_bytes())
    assert trouble(directory) == f"{path} is damaged: it holds rows of other trials than functional@cpu-s0."


def test_other_trials_than_planned_are_reported(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    path = directory / "trials.parquet"
    write_table(path, pq.read_table(path).slice(0, 1))
    assert trouble(directory) == f"{path} is damaged: its trials are not those of run.json."


@pytest.mark.parametrize("other", ["contract", "findings", "step_errors", "replays", "differences", "trials"])
def test_a_trace_that_is_another_table_is_reported(equal_pair, copy_of, other):
    directory = copy_of(equal_pair)
    path = sorted((directory / "traces").iterdir())[0]
    path.write_bytes((directory / f"{other}.parquet").read_bytes())
    assert trouble(directory).startswith(f"{path} is damaged: its columns are not those of schema 1 (lacks: ")


def judged(directory):
    """Everything that is reported about a run: the printed report, the summary and the differences."""
    run = read_run(directory)
    judgement = judge(run)
    console = Console(file=io.StringIO(), width=200)
    terminal.render(run, judgement, console)
    return console.file.getvalue(), summarize(judgement), [*differences_tables(judgement)]


@given(st.text(), st.none() | st.text(), st.none() | st.floats(), st.lists(st.text()), st.integers(0, 2**63 - 1))
def test_a_record_is_read_back_to_the_bit(tmp_path_factory, name, text, number, names, steps):
    kept = {field.name: None for field in fields(TrialRecord)} | {"trial": name, "error": text, "wall_s": number}
    kept |= {"param_names": names, "restarts": names, "steps": steps, "trace": name, "run": ""}
    record = TrialRecord(**kept)
    folder = tmp_path_factory.getbasetemp()
    write_trials(folder, [record])
    (row,) = pq.read_table(folder / "trials.parquet").to_pylist()
    assert repr(TrialRecord(**row)) == repr(record)  # a NaN is not equal to itself


@pytest.fixture
def _long(monkeypatch):
    """Makes each trace count as a long one, which is read by columns."""
    monkeypatch.setattr("parity.store.traces.KEPT_ROWS", 3)
    monkeypatch.setattr("parity.store.traces.KEPT_BYTES", 100)


def in_groups(path, rows):
    """Writes the file again, in row groups of a given number of rows."""
    pq.write_table(pq.read_table(path), path, row_group_size=rows, write_page_checksum=True)


def test_long_traces_give_the_same_report(reference, copy_of, request):
    directory = copy_of(reference)
    for path in (directory / "traces").iterdir():
        in_groups(path, 100)
    want = judged(directory)
    request.getfixturevalue("_long")
    assert judged(directory) == want


@pytest.mark.usefixtures("_long")
@pytest.mark.parametrize("step", [0, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("quantity", ["output", "param_grad"])
def test_a_difference_is_found_at_every_edge_of_a_row_group(equal_pair, copy_of, step, quantity):
    directory = copy_of(equal_pair)
    plant(directory, "functional", f"{quantity}_digest", step, lambda digest: digest ^ 1)
    if quantity == "param_grad":
        plant(directory, "functional", "param_grad_digests", step, lambda each: [each[0] ^ 1, *each[1:]])
    for path in (directory / "traces").iterdir():
        in_groups(path, 3)
    (verdict,) = judge(read_run(directory)).pairs
    assert (verdict.first.step, verdict.first.quantity) == (step, quantity)
    assert verdict.first.tensor == ("0.0.weight" if quantity == "param_grad" else None)


@pytest.mark.usefixtures("_long")
def test_a_damaged_row_group_of_a_long_trace_is_reported(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    path = directory / "traces" / "0001-functional@cpu-s0.parquet"
    in_groups(path, 3)
    group = pq.ParquetFile(path).metadata.row_group(2).column(SCHEMA.names.index("loss"))
    content = bytearray(path.read_bytes())
    content[group.data_page_offset + group.total_compressed_size - 2] ^= 1
    path.write_bytes(content)
    assert trouble(directory).startswith(f"{path} is damaged (")


@pytest.mark.usefixtures("_long")
def test_rows_that_a_long_trace_lacks_are_reported(equal_pair, copy_of):
    test_missing_rows_are_reported(equal_pair, copy_of)
