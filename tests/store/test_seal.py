"""A file that changed after the run was complete is named, and judged as it is now."""

import json

import pyarrow.parquet as pq
import pytest

from parity import report
from parity.store.seal import altered
from parity.store.stored_run import read_run

from conftest import plant


def test_an_unchanged_file_is_not_named(equal_pair):
    info = json.loads((equal_pair / "run.json").read_text())
    assert read_run(equal_pair).altered == ()
    assert set(info["files"]) == {
        str(path.relative_to(equal_pair)) for path in equal_pair.rglob("*.parquet") if path.stem != "differences"
    }


def test_a_trace_that_was_changed_is_named_and_judged(equal_pair, copy_of, capsys):
    directory = copy_of(equal_pair)
    plant(directory, "functional", "loss_digest", 3, lambda value: value ^ 1)
    assert read_run(directory).altered == ("traces/0001-functional@cpu-s0.parquet",)
    report.main([str(directory)])
    printed = capsys.readouterr().out
    assert printed.startswith("Altered since the run was stored: traces/0001-functional@cpu-s0.parquet.")
    assert "identical" not in printed.split("\n")[1]


@pytest.mark.parametrize("name", ["contract", "findings", "shared_steps", "replays", "trials"])
def test_every_table_that_is_read_is_under_the_seal(equal_pair, copy_of, name):
    directory = copy_of(equal_pair)
    path = directory / f"{name}.parquet"
    pq.write_table(pq.read_table(path), path)
    assert read_run(directory).altered == (path.name,)


def test_every_value_of_run_json_is_under_the_seal(equal_pair):
    info = json.loads((equal_pair / "run.json").read_text())
    for name in info:
        assert altered(info | {name: "planted"}, equal_pair)[:1] == ("run.json",), name
        without = {other: value for other, value in info.items() if other != name}
        assert altered(without, equal_pair)[:1] == ("run.json",), name


def test_differences_are_written_by_each_judging_and_not_under_the_seal(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    (directory / "differences.parquet").unlink()
    assert read_run(directory).altered == ()
