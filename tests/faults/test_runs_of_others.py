"""A run directory that somebody else made: whatever is in it, the report is a report or a sentence, soon."""

import base64
import json
import os
import re
import shutil
import stat
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_runs import ROUNDING, Planted, make_run, write_run

from parity import report
from parity.ground.errors import Trouble
from parity.judge.judging import judge
from parity.store import footer, seal
from parity.store.directory import complete
from parity.store.files import write_text
from parity.store.parquet import open_parquet, write_table
from parity.store.stored_run import read_info, read_run

from conftest import command, rewrite


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A sealed run of two losses and two replicas. Read-only."""
    out = tmp_path_factory.mktemp("others") / "run"
    replicas = [Planted("builtin", replica=1), Planted("mine", replica=1, differs=ROUNDING)]
    write_run(make_run(Planted(differs=ROUNDING), *replicas, steps=6), out)
    complete(out, read_info(out))
    return out


@pytest.fixture
def directory(stored, copy_of):
    return copy_of(stored)


def refusal(directory):
    """What the report says instead of a verdict."""
    with pytest.raises(Trouble) as caught:
        judge(read_run(directory))
    return str(caught.value)


def test_as_it_is_the_run_is_judged(directory):
    assert judge(read_run(directory)).verdict == "rounding"


# In a process of its own, which a file that is opened and never ends would keep for ever.
READ = """
import sys
from pathlib import Path
from parity.ground.errors import Trouble
from parity.store.stored_run import read_run
for each in sys.argv[1:]:
    try:
        print("read", *read_run(Path(each)).altered)
    except Trouble as trouble:
        print(trouble)
"""
NOT_REGULAR = {
    "pipe": ("a named pipe", os.mkfifo),
    "device": ("a device", lambda path: path.symlink_to("/dev/zero")),
    "folder": ("a folder", os.mkdir),
    "socket": ("a socket", lambda path: os.mknod(path, stat.S_IFSOCK | 0o600)),
}


def test_what_is_no_regular_file_is_not_opened(stored, tmp_path):
    """A named pipe waits for a writer, and a device has no end."""
    made, expected = [], []
    for name in ("run.json", "trials.parquet", "traces/0000.parquet", "contract.parquet"):
        for kind, (words, plant) in NOT_REGULAR.items():
            made.append(shutil.copytree(stored, tmp_path / f"{kind}-{len(made)}"))
            path = made[-1] / name
            path.unlink()
            plant(path)
            expected.append(f"{path} is damaged (it is {words}, not a regular file).")
    ended = command("-c", READ, *made, timeout_s=60)
    assert ended.stdout.splitlines() == expected, ended.stderr


def test_names_of_files_in_the_seal_lead_nowhere_else(stored, tmp_path):
    made = []
    for name in ("/dev/zero", "../../etc/passwd", "traces/../../x.parquet", "traces//x.parquet", "/x.parquet"):
        made.append(shutil.copytree(stored, tmp_path / f"{len(made)}"))
        info = json.loads((made[-1] / "run.json").read_text())
        (made[-1] / "run.json").write_text(json.dumps(info | {"files": info["files"] | {name: "0"}}))
    ended = command("-c", READ, *made, timeout_s=60)
    lines = ended.stdout.splitlines()
    assert len(lines) == len(made), ended.stderr
    for each, line in zip(made, lines, strict=True):
        assert re.fullmatch(
            rf"{each}/run.json is damaged: its 'files' have '[^']+', which is not a Parquet file in the run "
            r"directory\.",
            line,
        )


def test_a_sealed_file_that_is_no_longer_one_is_named_and_not_opened(stored, tmp_path):
    """One that the report does not need."""
    directory = shutil.copytree(stored, tmp_path / "run")
    (directory / "own.parquet").write_bytes(b"notes")
    complete(directory, {name: value for name, value in read_info(directory).items() if name not in ("files", "seal")})
    (directory / "own.parquet").unlink()
    os.mkfifo(directory / "own.parquet")
    assert command("-c", READ, directory, timeout_s=60).stdout == "read own.parquet\n"


def test_a_file_with_many_names_is_read_once_for_the_seal(directory, monkeypatch):
    """Links to folders give one file any number of names, and a short run.json hours of reading."""
    (directory / "traces" / "again").symlink_to(".")
    info = read_info(directory)
    names = {f"traces/{'again/' * count}0000.parquet": "0" for count in range(30)}
    (directory / "run.json").write_text(json.dumps(info | {"files": info["files"] | names}))
    read, digest = [], seal._digest
    monkeypatch.setattr(seal, "_digest", lambda path: read.append(path) or digest(path))
    assert len(read_run(directory).altered) == 31
    assert len(read) == len(info["files"])


@pytest.mark.parametrize(
    "name", ["../../../../etc/passwd", "/etc/passwd", "a/b.parquet", "..", "", "a\0.parquet", "a" * 300 + ".parquet"]
)
def test_the_name_of_a_trace_is_a_bare_name(directory, name):
    rewrite(directory, trace=name)
    said = refusal(directory)
    wrong = f"its trial builtin@cpu-s0 has the trace {name!r}, which is not the name of a file in traces/"
    assert said == f"{directory}/trials.parquet is damaged: {wrong}."


def test_what_is_stored_behind_links_is_read(directory, tmp_path):
    """As git-annex and DVC keep large files."""
    for path in [*directory.rglob("*.parquet"), directory / "run.json"]:
        kept = tmp_path / f"{path.name}.kept"
        path.rename(kept)
        path.symlink_to(kept)
    assert judge(read_run(directory)).verdict == "rounding" and read_run(directory).altered == ()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, '{"schema": 1, "x": ' + "[" * 40]
)
def test_a_deeply_nested_run_json_is_refused(directory, text):
    opened = text.count("[") + text.count("{")
    (directory / "run.json").write_text(text + "]" * (opened if text.endswith("[") else 0))
    said = refusal(directory)
    assert said.startswith(f"{directory}/run.json is damaged (") and len(said) < 500


def test_a_nested_run_json_says_how_deep_is_allowed(directory):
    (directory / "run.json").write_text("[" * 40 + "]" * 40)
    assert refusal(directory) == f"{directory}/run.json is damaged (its JSON has more than 32 levels)."


def test_a_run_json_of_any_length_is_not_read(directory):
    with (directory / "run.json").open("r+b") as file:
        file.truncate(2**40)
    size = f"{2**40:,}"
    assert refusal(directory) == (
        f"{directory}/run.json is damaged (it has {size} bytes, and at most 16,777,216 are read)."
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("created", 5, "its 'created' is 5"),
        ("versions", ["torch"], "its 'versions' is ['torch']"),
        ("arguments", [1, {}], "its 'arguments' are not all texts"),
        ("files", "all", "its 'files' is 'all'"),
        ("recorded", 1, "its 'recorded' is 1"),
        ("command", {}, "its 'command' is {}"),
        ("quick", "no", "its 'quick' is 'no'"),
        ("versions", {"torch": {}}, "its version of 'torch' is {}"),
        ("parity_sha256", 5, "its 'parity_sha256' is 5"),
        ("task_code", {"sha256": None}, "its 'task_code' is {'sha256': None}"),
        ("losses", {"mine": 5}, "its code of the loss 'mine' is 5"),
        (
            "losses",
            {"mine": {"origin": "mine.py", "sha256": 7}},
            "its code of the loss 'mine' is {'origin': 'mine.py', 'sha256': 7}",
        ),
        # What only several runs have that are judged together: notes, printed before the verdict.
        ("notes", ["Everything was verified."], "its 'notes' is ['Everything was verified.']"),
    ],
)
def test_a_value_of_run_json_of_another_kind_is_refused(directory, name, value, said):
    info = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps(info | {name: value}))
    assert refusal(directory) == f"{directory}/run.json is damaged: {said}."


@pytest.mark.parametrize("number", ["1" * 4000, "1" * 5000, "-" + "9" * 30])
def test_a_number_of_run_json_without_end_is_refused(directory, number):
    text = (directory / "run.json").read_text()
    (directory / "run.json").write_text(text.replace('"schema": 1,', f'"schema": {number},'))
    said = refusal(directory)
    assert said.startswith(f"{directory}/run.json is damaged (") and len(said) < 300


def without(directory, *trials):
    """Takes trials out of the run's tables."""
    table = pq.read_table(directory / "trials.parquet")
    kept = table.filter(pa.array([name not in trials for name in table["trial"].to_pylist()]))
    write_table(directory / "trials.parquet", kept)
    path = directory / "traces" / "0000.parquet"
    rows = pq.read_table(path)
    write_table(path, rows.filter(pa.array([name not in trials for name in rows["trial"].to_pylist()])))
    info = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps(info | {"trials": kept["trial"].to_pylist()}))


@pytest.mark.parametrize(
    ("trial", "lacking"),
    [
        ("mine@cpu-s0", "mine on cpu with seed 0 in replica 0"),
        ("builtin@cpu-s0-r1", "builtin on cpu with seed 0 in replica 1"),
    ],
)
def test_a_run_without_a_trial_that_others_are_compared_with_is_refused(directory, trial, lacking):
    without(directory, trial)
    said = f"trials.parquet is damaged: it lacks the trial of {lacking}, which others are compared with."
    assert refusal(directory) == said
    assert report.main([str(directory)]) == 2


def test_two_trials_of_one_place_are_refused(directory):
    """The judge would compare one of them, and nobody the other."""
    rewrite(directory, replica=0)
    wrong = "two of its trials have the same loss, device, seed and replica"
    assert refusal(directory) == f"{directory}/trials.parquet is damaged: {wrong}."


def test_a_run_without_trials_is_refused(directory):
    without(directory, *read_info(directory)["trials"])
    assert refusal(directory) == f"{directory}/trials.parquet is damaged: it has no trials."


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("loss_name", None, "has no loss_name"),
        ("status", "verified", "has the status 'verified'"),
        ("failure", "none", "has the failure 'none'"),
        ("device", "gpu", "has the device 'gpu', which is not a device"),
        ("loss_dtype", "int3", "has the loss_dtype 'int3'"),
        ("rows", -1, "has -1 steps from step 0 on"),
        ("first_step", 2**62, f"has 6 steps from step {2**62} on"),
        ("initial_norms", [1.0], "has 1 values of initial_norms, and its 16 parameters have 16"),
        ("param_names", [None] * 16, "has a list param_names that lacks values"),
    ],
)
def test_a_trial_that_parity_does_not_write_is_refused(directory, column, value, said):
    rewrite(directory, **{column: value})
    assert refusal(directory) == f"{directory}/trials.parquet is damaged: its trial builtin@cpu-s0 {said}."


def changed_trace(directory, column, value):
    path = directory / "traces" / "0000.parquet"
    table = pq.read_table(path)
    field = table.schema.field(column)
    plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    values = pa.array([value, *table[column].to_pylist()[1:]], plain).cast(field.type)
    write_table(path, table.set_column(table.schema.get_field_index(column), field, values))


SETTINGS = {"optimizers": [{"class": "Adam", "groups": [{"params": "0-99999999999999", "lr": 1}]}]}


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("loss", None, "its column loss lacks values"),
        ("elements", -1, "its column elements has -1, and must not be negative"),
        ("grad_error_u", -0.5, "its column grad_error_u has -0.5, and must not be negative"),
        ("grad_unit", 0.0, "its column grad_unit has 0.0, and must be above 0"),
        ("param_digests", [1], "its param_digests are not 16 in each row"),
        ("param_grad_norms", [None] * 16, "the lists of its column param_grad_norms lack values"),
        ("output_sketches", [1.0] * 3, "its output_sketches are not 8 sums for each tensor"),
        ("output_sketches", [1.0] * 16, "its output_sketches are of other tensors than its norms"),
        ("state_counts", [1], "its state_counts are not 3 for each optimizer"),
        ("settings", "[" * 99_999, "its JSON has more than 32 levels"),
        ("settings", "[]", "it is not an object"),
        ("settings", "", "Expecting value: line 1 column 1 (char 0)"),
        ("settings", json.dumps(SETTINGS), "it has the parameters '0-99999999999999', and the model has 16"),
        ("settings", '{"optimizers": [{"class": 1}]}', "its optimizers is [{'class': 1}]"),
    ],
)
def test_a_row_of_a_trace_that_parity_does_not_write_is_refused(directory, column, value, said):
    changed_trace(directory, column, value)
    if column == "settings":
        said = f"its column settings has a text that does not describe settings: {said}"
    assert refusal(directory) == f"{directory}/traces/0000.parquet is damaged: {said}."


def test_an_audit_without_the_error_of_any_loss_is_reported(directory):
    path = directory / "traces" / "0000.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("loss_error_u")
    nothing = pa.nulls(len(table), table.schema.field(place).type)
    write_table(path, table.set_column(place, table.schema.field(place), nothing))
    assert "Traceback" not in command("-m", "parity.report", directory).stderr


CONTRACT = {"trial": "mine@cpu-s0", "item": "value", "status": "passed", "reason": ""}
STEP_ERROR = {"trial": "mine@cpu-s0", "step": 0, "quantity": "output", "error_u": 1.0, "exact_norm": 1.0}


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("contract", {**CONTRACT, "status": "fine"}, "its column status has 'fine'"),
        ("contract", {**CONTRACT, "reason": None}, "its column reason lacks values"),
        ("contract", {**CONTRACT, "trial": "theirs"}, "its column trial has 'theirs'"),
        ("step_errors", {**STEP_ERROR, "quantity": "speed"}, "its column quantity has 'speed'"),
        (
            "step_errors",
            {**STEP_ERROR, "exact_sketch": [1.0]},
            "its column exact_sketch has other numbers of sums than 8",
        ),
        ("step_errors", {**STEP_ERROR, "exact_sketch": [None] * 8}, "the lists of its column exact_sketch lack values"),
    ],
)
def test_a_row_beside_the_traces_that_parity_does_not_write_is_refused(directory, name, row, said):
    path = directory / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist([row], pq.read_schema(path)), path)
    assert refusal(directory) == f"{path} is damaged: {said}."


def many_rows(count):
    """A table of so many rows that takes nothing to make: bits that are all equal."""
    values = pa.Array.from_buffers(pa.bool_(), count, [None, pa.py_buffer(bytes(count // 8 + 1))])
    return pa.table(dict.fromkeys("abcd", values))


@pytest.mark.parametrize("name", ["traces/0000.parquet", "trials.parquet", "contract.parquet", "step_errors.parquet"])
def test_a_row_group_that_takes_gigabytes_is_refused_by_its_footer(directory, monkeypatch, name):
    """Twenty million rows in 260 kB."""
    path = directory / name
    pq.write_table(many_rows(20_000_000), path, row_group_size=2**31 - 1, compression="zstd")
    assert path.stat().st_size < 300_000
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("it was decoded"))
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(Trouble) as caught:
        open_parquet(path).read()
    assert str(caught.value) == (
        f"{path} is not read: its row group 0 would take 0.6 GB of memory, and at most 0.5 GB is read. Write it again "
        "with smaller row groups, or judge a smaller run."
    )


def test_a_table_of_small_row_groups_that_takes_gigabytes_is_refused(directory):
    path = directory / "contract.parquet"
    pq.write_table(many_rows(20_000_000), path, row_group_size=2**22, compression="zstd")
    assert refusal(directory).startswith(
        f"{path} is not read: it would take 0.6 GB of memory, and at most 0.5 GB is read."
    )


def test_a_text_that_is_stored_once_for_many_rows_is_not_unpacked(directory):
    """As objects of Python, which the trials become, each row would have one of its own: here 1.2 GB."""
    path = directory / "trials.parquet"
    table = pq.read_table(path)
    many = table.take(pa.array(np.zeros(300, np.int64)))
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(300, np.int32)), pa.array(["x" * 2**22]))
    pq.write_table(many.set_column(many.schema.get_field_index("error"), "error", texts), path, compression="zstd")
    assert refusal(directory).startswith(f"{path} is not read: the texts in it would take 1.3 GB of memory")


@pytest.mark.parametrize("column", ["settings", "loss_name"])
def test_a_text_that_is_not_utf_8_is_refused(directory, column):
    path = directory / "traces" / "0000.parquet"
    table = pq.read_table(path)
    text = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe"))
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(table), np.int32)), text)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, texts), path)
    assert refusal(directory).startswith(f"{path} is damaged")


def test_a_file_that_grows_without_end_row_group_by_row_group_is_refused(directory, monkeypatch):
    """Each group is small, and all of them take hours."""
    path = directory / "traces" / "0000.parquet"
    monkeypatch.setattr("parity.store.footer.MOST_TIMES", 10)
    monkeypatch.setattr("parity.store.footer.MOST_BYTES", 2**20)
    pq.write_table(many_rows(2**20), path, row_group_size=2**14, compression="zstd")
    assert refusal(directory).startswith(f"{path} is not read: all of it would take 0.0 GB of memory")


def test_a_long_column_that_does_not_fit_into_memory_is_refused(directory, monkeypatch):
    monkeypatch.setattr("parity.store.traces.KEPT_ROWS", 3)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"total": 100})())
    said = refusal(directory)
    assert said.startswith(f"{directory}/traces/0000.parquet is not read: the column ") and "@cpu-s0 would take" in said


def test_a_short_trace_that_does_not_fit_into_memory_is_refused(directory, monkeypatch):
    monkeypatch.setattr("parity.store.traces.MOST_TRACE_BYTES", 1000)
    path = directory / "traces" / "0000.parquet"
    assert refusal(directory).startswith(f"{path} is not read: the trace of builtin@cpu-s0 would take 0.0 GB of memory")


def test_a_footer_with_negative_numbers_is_refused():
    class Metadata:
        num_row_groups = num_columns = 1
        schema = SimpleNamespace(column=lambda _: SimpleNamespace(path="x", length=0, physical_type="INT64"))

        def row_group(self, number):
            column = SimpleNamespace(num_values=-1, total_uncompressed_size=1)
            return SimpleNamespace(num_rows=1, num_columns=1, column=lambda number: column)

    with pytest.raises(ValueError, match="its footer has negative numbers"):
        footer.check_groups(Metadata())


# A list of one number whose column chunk is said to hold booleans: Arrow ends the process that looks at it.
ABORTS = base64.b64decode(
    "UEFSMRUAFSgVKCwVAhUAFQYVBhwYCAEAAAAAAAAAGAgBAAAAAAAAABYAKAgBAAAAAAAAABgIAQAAAAAAAAAREQAAAAIAAAACAAIA"
    "AAACAwEAAAAAAAAAFQQZTDUAGAZzY2hlbWEVAgA1AhgBYRUCFQZMPAAAADUEGARsaXN0FQIAFQAlAhgHZWxlbWVudAAWAhkcGRwm"
    "ABwVBBklBgAZOAFhBGxpc3QHZWxlbWVudBUAFgIWpgEWpgEmCDwYCAEAAAAAAAAAGAgBAAAAAAAAABYAKAgBAAAAAAAAABgIAQAA"
    "AAAAAAAREQAZHBUAFQAVAgA8KSYCABlGAAAAAgAAABamARYCJggWpgEAKCBwYXJxdWV0LWNwcC1hcnJvdyB2ZXJzaW9uIDI2LjAu"
    "MRkcHAAAANwAAABQQVIx"
)


@pytest.mark.parametrize("name", ["trials.parquet", "traces/0000.parquet", "contract.parquet"])
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "not sealed"])
def test_a_footer_that_ends_the_process_is_refused_by_the_name_of_its_file(directory, name, sealed, monkeypatch):
    if sealed:
        monkeypatch.delenv("PARITY_WARM", raising=False)  # by a process of its own, as everywhere but in the tests
    (directory / name).write_bytes(ABORTS)
    if not sealed:
        info = json.loads((directory / "run.json").read_text())
        del info["seal"], info["files"]
        write_text(directory / "run.json", json.dumps(info))
    assert refusal(directory) == (
        f"{directory}/{name} is damaged (Arrow cannot read its footer: ColumnMetaData type does not match "
        "ColumnDescriptor physical type: INT64 vs. BOOLEAN)."
    )


def test_what_is_written_beside_a_file_is_not_written_through_a_link(directory, tmp_path):
    """Into a directory of somebody else, as --resume does."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (directory / ".report.html.writing").symlink_to(victim)
    write_text(directory / "report.html", "<html>")
    assert victim.read_text() == "mine" and (directory / "report.html").read_text() == "<html>"
    assert not (directory / "report.html").is_symlink()


def test_the_report_of_a_run_of_others_ends_with_2_and_a_sentence(directory, capsys):
    rewrite(directory, trace="../../../../etc/passwd")
    assert report.main([str(directory)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("parity: ") and "Traceback" not in said and len(said.splitlines()) == 1


def test_a_contract_of_too_many_rows_is_refused(directory):
    path = directory / "contract.parquet"
    rows = pa.Table.from_pylist([CONTRACT], pq.read_schema(path)).take(pa.array(np.zeros(1_000_001, np.int64)))
    pq.write_table(rows, path, compression="zstd")
    assert refusal(directory) == f"{path} is damaged: it has 1,000,001 rows, and at most 1,000,000 are read."


@pytest.mark.parametrize("name", ["a" * 300, "loop"])
def test_a_path_that_leads_nowhere_is_refused(tmp_path, capsys, name):
    (tmp_path / "loop").symlink_to("loop")
    assert report.main([str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"parity: {tmp_path / name}/run.json is damaged ([Errno ") and "Traceback" not in said
