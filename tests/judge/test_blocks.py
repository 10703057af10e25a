"""Long traces are compared block by block: what is found is what a comparison of whole columns finds."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import Planted, make_run, write_run

from parity.judge.columns import Columns
from parity.judge.differences import Comparison
from parity.judge.segments import Rows, find_unequal, rows_differ, same, segments
from parity.judge.trial_trace import TrialTrace
from parity.store import traces
from parity.store.directory import complete
from parity.store.stored_run import read_info, read_run
from parity.store.trace import QUANTITIES, SCHEMA

STEPS = 24
# Every kind of column: numbers, digests, lists of digests, lists of counters, texts.
COLUMNS = ("loss", "output_grad_norm", "param_digest", "param_digests", "state_counts", "generator_digests")


class Blocks(traces.Traces):
    """Traces in memory that are read as long ones are, in blocks of given lengths."""

    def __init__(self, tables, ends):
        self._tables, self._ends, self.read = tables, ends, []

    def __getitem__(self, trial):
        return self._tables[trial]

    def __iter__(self):
        return iter(self._tables)

    def __len__(self):
        return len(self._tables)

    def columns(self, trial, names):
        return self._tables[trial].select(names)

    def column(self, trial, name):
        return self._tables[trial][name]

    def blocks(self, trial):
        return tuple(zip([0, *self._ends[trial]], [*self._ends[trial], len(self._tables[trial])], strict=True))

    def addresses(self, trial, name):
        numbers = range(len(self.blocks(trial)))
        return tuple(repr(self.block(trial, [name], number)[name].to_pylist()) for number in numbers)

    def block(self, trial, names, number):
        begin, end = self.blocks(trial)[number]
        return {name: self._tables[trial][name].slice(begin, end - begin) for name in names}


ENDS = st.lists(st.integers(1, STEPS - 1), max_size=4, unique=True).map(sorted)
DIFFERS = st.dictionaries(st.sampled_from(("loss", "output_grad", "param_grad", "param")), st.integers(0, STEPS - 1))
COUNTS = st.dictionaries(st.integers(0, STEPS - 1), st.just([16, 7, 7]), max_size=2)
LISTS = st.lists(st.none() | st.lists(st.integers(0, 2), max_size=3), min_size=STEPS, max_size=STEPS)


def sides(run, ends, begins=(0, 0)):
    columns = Columns(Blocks(dict(run.traces), dict(zip(run.traces, ends, strict=True))))
    return [Rows(columns, record, begin) for record, begin in zip(run.trials, begins, strict=True)]


@settings(max_examples=40, deadline=None)
@given(st.tuples(ENDS, ENDS), DIFFERS, COUNTS, st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_the_rows_that_differ_are_those_of_whole_columns(ends, differs, counts, begins):
    run = make_run(Planted(differs=differs, counts=counts, generators=7), steps=STEPS)
    left, right = sides(run, ends, begins)
    steps = STEPS - max(begins)
    task = Comparison(*(TrialTrace(each.record, each.columns) for each in (left, right))).task(())
    task = replace(task, left=left, right=right, steps=steps, columns={name: [name] for name in COLUMNS})
    (found,) = find_unequal([task])
    tables = [table.slice(begin, steps) for table, begin in zip(run.traces.values(), begins, strict=True)]
    for name in COLUMNS:
        want = [one != other for one, other in zip(*(table[name].to_pylist() for table in tables), strict=True)]
        assert found[name].tolist() == want, name
        assert same(name, left, right, steps) == (not any(want)), name


@settings(max_examples=40, deadline=None)
@given(st.tuples(LISTS, LISTS))
def test_lists_of_any_lengths_are_compared_row_by_row(rows):
    """Of optimizers that come and go, and of those that were not looked at."""
    columns = [pa.chunked_array([pa.array(each, pa.list_(pa.int64()))]) for each in rows]
    left, right = sides(make_run(Planted(), steps=STEPS), ([], []))
    found = rows_differ("state_counts", left, right, columns)
    assert found.tolist() == [one != other for one, other in zip(*rows, strict=True)]


@settings(max_examples=40, deadline=None)
@given(st.tuples(ENDS, ENDS), st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_a_segment_lies_in_one_block_of_each_side_and_none_is_left_out(ends, begins):
    left, right = sides(make_run(Planted(), steps=STEPS), ends, begins)
    steps, at = STEPS - max(begins), 0
    for segment in segments(left, right, steps):
        assert segment.begin == at and segment.left.rows == segment.right.rows > 0
        for rows, span in ((left, segment.left), (right, segment.right)):
            begin, end = rows.columns.blocks(rows.record)[span.number]
            assert begin + span.begin == rows.begin + at and begin + span.begin + span.rows <= end
        at = segment.end
    assert at == steps


@pytest.fixture
def _long(monkeypatch):
    monkeypatch.setattr(traces, "KEPT_ROWS", 3)


def stored(folder, *planted, rows=5):
    """A sealed run whose traces have row groups of so many rows."""
    write_run(make_run(*planted, steps=STEPS), folder)
    for path in (folder / "traces").iterdir():
        table = pq.read_table(path)
        with pq.ParquetWriter(path, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
            for trial in table["trial"].unique().to_pylist():
                writer.write_table(table.filter(pa.compute.equal(table["trial"], trial)), row_group_size=rows)
    complete(folder, read_info(folder))
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """What was decoded: the trial, the columns and the row groups of each read."""
    found, rows = [], traces.Traces._rows

    def noting(self, record, file, groups, names):
        found.append((record.trial, frozenset(names), tuple(groups)))
        return rows(self, record, file, groups, names)

    monkeypatch.setattr(traces.Traces, "_rows", noting)
    return found


@pytest.mark.usefixtures("_long")
def test_equal_blocks_are_not_decoded_and_of_others_each_is_decoded_once(tmp_path, decoded):
    planted = [Planted("builtin", replica=1, differs={"param": 17}), Planted("builtin", replica=2)]
    run = read_run(stored(tmp_path / "run", *planted))
    decoded.clear()
    records = [TrialTrace(record, Columns(run.traces)) for record in run.trials]
    for other in records[1:]:
        comparison = Comparison(records[0], other)
        differs = comparison.differs
        steps = range(17, STEPS) if other is records[1] else ()
        assert np.flatnonzero(differs["param"]).tolist() == [*steps]
        assert not any(differs[quantity].any() for quantity in QUANTITIES if quantity != "param")
    digests = [each for each in decoded if "param_digests" in each[1]]
    assert {trial for trial, _, _ in digests} == {record.record.trial for record in records[:2]}
    assert sorted(group for _, _, groups in digests for group in groups) == [3, 4, 8, 9]  # of 5 rows each, from 15 on


@pytest.mark.usefixtures("_long")
@pytest.mark.parametrize("quantity", ["param", "output", "state"])
def test_traces_that_vote_are_told_apart_by_any_bit(tmp_path, quantity):
    counts = {9: [16, 3, 3]} if quantity == "state" else {}
    differs = {} if counts else {quantity: 20}
    planted = [Planted("builtin", replica=1, differs=differs, counts=counts), Planted("builtin", replica=2)]
    run = read_run(stored(tmp_path / "run", *planted))
    columns = Columns(run.traces)
    one, odd, other = (TrialTrace(record, columns).signature() for record in run.trials)
    assert one == other != odd


@pytest.mark.usefixtures("_long")
@pytest.mark.parametrize("without", range(3))
def test_a_trace_of_which_no_blocks_are_known_votes_with_those_that_it_equals(tmp_path, monkeypatch, without):
    run = read_run(stored(tmp_path / "run", *[Planted("builtin", replica=number) for number in (1, 2)]))
    blocks, trial = traces.Traces.blocks, run.trials[without].trial
    monkeypatch.setattr(traces.Traces, "blocks", lambda self, each: None if each == trial else blocks(self, each))
    columns = Columns(run.traces)
    assert len({TrialTrace(record, columns).signature() for record in run.trials}) == 1


@pytest.mark.usefixtures("_long")
def test_a_slice_does_not_keep_a_whole_column_in_memory(tmp_path):
    run = read_run(stored(tmp_path / "run"))
    trial = run.trials[0].trial
    run.traces.column(trial, "loss")
    run.traces.block(trial, ["loss"], 0)
    assert not any("loss" in key for key in run.traces._blocks._kept)


@pytest.mark.usefixtures("_long")
def test_a_column_that_is_stored_otherwise_is_the_same_column(tmp_path):
    """Equal values may be written with another codec, and in row groups of other lengths."""
    folder = stored(tmp_path / "run", Planted("builtin", replica=1))
    (path,) = (folder / "traces").iterdir()
    table = pq.read_table(path)
    with pq.ParquetWriter(path, SCHEMA, compression="snappy") as writer:
        for number, trial in enumerate(table["trial"].unique().to_pylist()):
            writer.write_table(table.filter(pa.compute.equal(table["trial"], trial)), row_group_size=4 + number)
    run = read_run(folder)
    columns = Columns(run.traces)
    one, other = (TrialTrace(record, columns) for record in run.trials)
    assert not one.has_same("loss", other), "not known before it is read"
    assert one.signature() == other.signature() and one.has_same("loss_digest", other)
