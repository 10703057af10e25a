"""A file that changed after the run was complete is named, and judged as it is now."""

import json

import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from parity import report
from parity.ground.errors import Trouble
from parity.store import footer_probe, seal, traces
from parity.store.directory import complete
from parity.store.seal import altered
from parity.store.stored_run import read_run
from parity.store.trace import SCHEMA

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


@given(st.binary(max_size=40), st.lists(st.integers(0, 50), max_size=8).map(sorted), st.integers(1, 9))
def test_parts_of_a_file_are_digested_with_all_of_it(tmp_path_factory, content, cuts, piece):
    path = tmp_path_factory.getbasetemp() / "parts"
    path.write_bytes(content)
    parts = [(begin, end) for begin, end in zip(cuts[::2], cuts[1::2], strict=False) if begin < end]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seal, "PIECE_BYTES", piece)
        whole, found = seal.digest_with_parts(path, parts)
    assert whole == xxhash.xxh3_128_hexdigest(content)
    within = {place: xxhash.xxh3_128_digest(content[slice(*place)]) for place in parts if place[1] <= len(content)}
    assert found == within


def test_a_small_file_is_read_once_for_its_footer_and_the_seal(equal_pair, monkeypatch):
    digested = []

    def noting(path, parts):
        digested.append(path)
        return genuine(path, parts)

    genuine = seal.digest_with_parts
    for module in (seal, footer_probe):
        monkeypatch.setattr(module, "digest_with_parts", noting)
    read_run(equal_pair)
    sealed = json.loads((equal_pair / "run.json").read_text())["files"]
    assert sorted(digested) == sorted(equal_pair / name for name in sealed)


@pytest.fixture
def _long(monkeypatch):
    monkeypatch.setattr(traces, "KEPT_ROWS", 3)


def decoded_columns(directory, monkeypatch):
    """The run, and the columns that reading it decodes."""
    found, rows = set(), traces.Traces._rows

    def noting(self, record, file, groups, names):
        found.update(names)
        return rows(self, record, file, groups, names)

    monkeypatch.setattr(traces.Traces, "_rows", noting)
    return read_run(directory), found


@pytest.mark.usefixtures("_long")
def test_of_a_long_trace_that_is_sealed_only_the_steps_and_the_settings_are_decoded(equal_pair, monkeypatch):
    run, decoded = decoded_columns(equal_pair, monkeypatch)
    assert run.altered == () and decoded == {"step", "settings"}


@pytest.mark.usefixtures("_long")
@pytest.mark.parametrize("what", ["no seal", "run.json changed", "trace written again"])
def test_a_long_trace_that_the_seal_does_not_cover_is_decoded(equal_pair, copy_of, monkeypatch, what):
    directory = copy_of(equal_pair)
    path = directory / "run.json"
    info = json.loads(path.read_text())
    if what == "no seal":
        path.write_text(json.dumps({name: value for name, value in info.items() if name not in ("files", "seal")}))
    elif what == "run.json changed":
        path.write_text(json.dumps(info | {"command": "another"}))
    else:
        for trace in (directory / "traces").iterdir():
            pq.write_table(pq.read_table(trace), trace)
    _, decoded = decoded_columns(directory, monkeypatch)
    assert decoded == {*SCHEMA.names}


@pytest.mark.usefixtures("_long")
@pytest.mark.parametrize("column", ["loss", "param_digests", "step_s", "update_sketches"])
def test_any_flipped_byte_of_a_long_sealed_trace_is_found(equal_pair, copy_of, column):
    directory = copy_of(equal_pair)
    path = directory / "traces" / "0001-functional@cpu-s0.parquet"
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(SCHEMA.names.index(column))
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(Trouble, match=r"0001-functional@cpu-s0\.parquet is damaged"):
        read_run(directory)


@pytest.mark.usefixtures("_long")
def test_lists_of_wrong_lengths_are_found_in_a_footer_that_is_sealed(equal_pair, copy_of):
    """Whoever wrote the file has sealed it: the footer has to promise what the judge relies on."""
    directory = copy_of(equal_pair)
    plant(directory, "functional", "param_digests", 3, lambda digests: digests[1:])
    complete(directory, json.loads((directory / "run.json").read_text()))
    with pytest.raises(Trouble, match=r"its param_digests are not \d+ in each row\.$"):
        read_run(directory)


@pytest.mark.usefixtures("_long")
def test_a_number_that_lacks_is_found_in_a_footer_that_is_sealed(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    plant(directory, "functional", "loss_digest", 3, lambda _: None)
    complete(directory, json.loads((directory / "run.json").read_text()))
    with pytest.raises(Trouble, match=r"its column loss_digest lacks values\.$"):
        read_run(directory)
