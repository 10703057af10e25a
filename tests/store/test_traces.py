"""Traces in memory: row groups are written small enough to be read, and wide traces are read by columns."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_runs import Planted, make_run, write_run

from parity.ground.errors import Trouble
from parity.judge.columns import Columns
from parity.judge.trial_trace import TrialTrace
from parity.store import parquet, trace_batches, trace_files, traces
from parity.store.footer import column_bytes
from parity.store.stored_run import read_run
from parity.store.trace import SCHEMA
from parity.store.trace_chunks import TraceFile
from parity.store.trace_files import TraceWriter
from parity.store.traces import is_long


@pytest.fixture
def run():
    return make_run(Planted(), steps=100)


def test_a_row_group_has_few_bytes_however_many_tensors_a_row_has(tmp_path, monkeypatch, run):
    table, _ = run.traces.values()
    monkeypatch.setattr(trace_files, "GROUP_BYTES", table.nbytes // 5)
    writer = TraceWriter(tmp_path / "trace.parquet")
    writer.append(table)
    writer.close()
    written = pq.ParquetFile(tmp_path / "trace.parquet")
    assert 5 <= written.num_row_groups <= 7
    assert written.read().select(table.column_names).equals(table)


@pytest.mark.parametrize(("steps", "codec"), [(20, "SNAPPY"), (100, "ZSTD")])
def test_a_short_trace_is_compressed_by_what_begins_fast(tmp_path, run, steps, codec):
    # A table by itself, as the journal has it, and not a slice of a longer one.
    table = next(iter(run.traces.values())).take(np.arange(steps))
    writer = TraceWriter(tmp_path / "trace.parquet")
    writer.append(table)
    writer.close()
    written = pq.ParquetFile(tmp_path / "trace.parquet")
    assert {written.metadata.row_group(0).column(n).compression for n in range(10)} == {codec}
    assert written.read().select(table.column_names).equals(table)


def test_chunks_of_wide_rows_are_not_collected_until_there_are_many_rows(monkeypatch, run):
    table, _ = run.traces.values()
    monkeypatch.setattr(parquet, "GROUP_BYTES", 3 * table.get_total_buffer_size())
    joined = [*parquet.in_groups([table] * 8)]
    assert [len(each) for each in joined] == [300, 300, 200]


def test_texts_are_stored_once_and_numbers_as_they_are(tmp_path):
    table = pa.table({"names": [["a"]] * 9, "name": ["b"] * 9, "norms": [[1.0]] * 9, "step": [*range(9)]})
    parquet.write_table(tmp_path / "t.parquet", table)
    group = pq.read_metadata(tmp_path / "t.parquet").row_group(0)
    chunks = {chunk.path_in_schema: chunk.encodings for chunk in map(group.column, range(4))}
    assert [name for name, found in chunks.items() if "RLE_DICTIONARY" in found] == ["names.list.element", "name"]


def test_a_trace_is_long_by_its_rows_or_by_its_bytes(run):
    record = run.trials[0]
    assert not is_long(record) and is_long(replace(record, rows=traces.KEPT_ROWS + 1))
    wide = replace(record, rows=10_000, param_names=["w"] * 300)
    assert is_long(wide) and not is_long(replace(wide, rows=1_000))
    buffers = replace(record, rows=10_000, buffer_names=["b"] * 1_000)
    assert is_long(buffers)


def test_a_wide_trace_is_read_by_columns_and_says_the_same(tmp_path, monkeypatch, run):
    write_run(run, tmp_path / "run")
    whole = read_run(tmp_path / "run")
    monkeypatch.setattr(traces, "KEPT_BYTES", 1000)
    monkeypatch.setattr(traces.Traces, "__getitem__", lambda *_: pytest.fail("the whole trace was read"))
    wide = read_run(tmp_path / "run")
    monkeypatch.undo()
    for record in run.trials:
        assert wide.traces.column(record.trial, "loss").equals(whole.traces[record.trial]["loss"])


def test_traces_that_stay_in_memory_are_limited_by_their_bytes(tmp_path, monkeypatch, run):
    write_run(run, tmp_path / "run")
    monkeypatch.setattr(traces, "KEPT_TRACES_BYTES", 1)
    stored = read_run(tmp_path / "run")
    assert [*stored.traces._kept] == [run.trials[-1].trial]


def test_rows_with_the_same_settings_share_one_text(run):
    """Settings of a group for each parameter are long, and as a text of its own for each step they fill the memory."""
    record = run.trials[0]
    texts = TrialTrace(record, Columns(run.traces)).texts("settings")
    assert texts == run.traces[record.trial]["settings"].to_pylist()
    assert len({*map(id, texts)}) == len({*texts}) < len(texts)


def test_texts_that_are_missing_are_none(run):
    name = run.trials[0].trial
    table = run.traces[name]
    field = table.schema.field("settings")
    values = pa.array([None, "{}"] * 50).cast(field.type)
    changed = table.set_column(table.schema.get_field_index("settings"), field, values)
    assert TrialTrace(run.trials[0], Columns({name: changed})).texts("settings") == [None, "{}"] * 50


def test_a_column_of_ones_is_no_smaller_in_memory_than_the_footer_tells(tmp_path):
    """Equal values are stored once, and decoded each."""
    table = pa.table({"a": np.ones(10**5), "b": [[1.0, 1.0]] * 10**5, "c": pa.array(["x"] * 10**5).dictionary_encode()})
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd")
    metadata = pq.read_metadata(tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 5_000
    (sizes,) = column_bytes(metadata)
    assert (sizes["a"], sizes["b"]) == (8 * 10**5, 16 * 10**5)


# Short traces that share a file


@pytest.mark.parametrize("kept", [1, 2, 4])
def test_as_many_traces_stay_in_memory_as_fit(many, monkeypatch, kept):
    run, directory = many
    # Alike, but for the lengths of their names: half of one is room for that.
    size = read_run(directory).traces._kept_bytes / len(run.trials)
    monkeypatch.setattr(traces, "KEPT_TRACES_BYTES", int((kept + 0.5) * size))
    names = [record.trial for record in run.trials]
    stored = read_run(directory)
    assert [*stored.traces._kept] == names[-kept:]
    for _ in range(3):
        for number, name in enumerate(names):
            stored.traces[name]
            assert [*stored.traces._kept][-1] == name
            assert len(stored.traces._kept) == kept, number


@pytest.fixture
def many(tmp_path):
    """A run of five trials in one file, and where it is."""
    run = make_run(*(Planted(replica=number, differs={"param": number}) for number in range(1, 5)), steps=12)
    write_run(run, tmp_path / "run")
    return run, tmp_path / "run"


def alone(directory, monkeypatch):
    """The run as it is read trial by trial."""
    with monkeypatch.context() as patch:
        patch.setattr(traces, "batches", lambda *_: ())
        return read_run(directory)


def test_traces_that_share_a_file_are_read_together_and_are_the_same(many, monkeypatch):
    run, directory = many
    reads, read = [], TraceFile.read
    monkeypatch.setattr(
        TraceFile, "read", lambda file, groups, names: reads.append(groups) or read(file, groups, names)
    )
    together = read_run(directory)
    assert reads == [[0, 1, 2, 3, 4]]
    one_by_one = alone(directory, monkeypatch)
    assert len(reads) == 6
    for record in run.trials:
        found, other = together.traces[record.trial], one_by_one.traces[record.trial]
        assert found.schema.equals(other.schema, check_metadata=True)
        # As text, in which a NaN equals a NaN.
        assert str(found.to_pydict()) == str(other.to_pydict())
        texts = [name for name in found.column_names if pa.types.is_dictionary(found.schema.field(name).type)]
        assert found.select(texts).equals(other.select(texts))


def test_no_more_is_read_together_than_memory_allows(many, monkeypatch):
    _, directory = many
    size = TraceFile(directory / "traces" / "0000.parquet").size(SCHEMA.names, [0])
    monkeypatch.setattr(trace_batches, "MOST_TOGETHER_BYTES", 2 * size)
    reads, read = [], TraceFile.read
    monkeypatch.setattr(
        TraceFile, "read", lambda file, groups, names: reads.append(groups) or read(file, groups, names)
    )
    read_run(directory)
    assert [len(groups) for groups in reads] == [2, 2, 1]


def test_rows_are_those_of_the_trial_that_they_name(many):
    """Whatever the statistics say, by which the row groups were found."""
    run, directory = many
    file, (one, other) = TraceFile(directory / "traces" / "0000.parquet"), run.trials[1:3]
    assert trace_batches.read_together(file, [(one, [1]), (other, [2])]) is not None
    assert trace_batches.read_together(file, [(one, [2]), (other, [1])]) is None


@pytest.mark.parametrize("column", ["step", "rows", "trial"])
def test_what_is_wrong_with_one_of_them_is_said_as_if_it_were_alone(many, monkeypatch, column):
    run, directory = many
    writer = TraceWriter(directory / "traces" / "0000.parquet")
    for number, record in enumerate(run.trials):
        table = run.traces[record.trial]
        if number == 3:
            values = table[column].to_pylist()
            values[5] = run.trials[0].trial if column == "trial" else -1
            place = table.schema.get_field_index(column)
            table = table.set_column(place, table.schema.field(column), pa.array(values, table.schema.types[place]))
        writer.append(table)
    writer.close()
    with pytest.raises(Trouble) as together:
        read_run(directory)
    with pytest.raises(Trouble) as by_itself:
        alone(directory, monkeypatch)
    assert str(together.value) == str(by_itself.value)
    assert "0000.parquet is damaged: " in str(together.value)
