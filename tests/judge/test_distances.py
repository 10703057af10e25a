"""Distances that are estimated from norms and sketches, and what is not known."""

import dataclasses
import math

import numpy as np
import pytest
from synthetic_runs import BUFFERS, NEAR, ROUNDING, TENSORS, Planted, make_run, with_column, write_run

from parity.judge import distances, judge, parting
from parity.judge.differences import Comparison
from parity.judge.fleet import Fleet
from parity.judge.floors import judged_distance
from parity.judge.judging import differences_tables
from parity.judge.jumps import find_jump
from parity.judge.step_sketches import parameters_before
from parity.judge.tensor_distances import TensorDistances
from parity.judge.trial_trace import TrialTrace
from parity.store import trace_files, traces
from parity.store.stored_run import read_run
from parity.store.trace import SKETCH_SUMS


def compared(run):
    """The two trials of a run side by side, which are not judged."""
    traces = Fleet(run.trials, run.traces).traces
    return Comparison(*(traces[record.trial] for record in run.trials))


def tensors_of(comparison, quantity):
    return comparison.distances(quantity).between(0, comparison.steps)


def test_a_planted_distance_is_measured_at_its_step_and_tensor():
    planted = Planted(differs=ROUNDING, distances={"param_grad": {9: 0.25}}, tensors=(3, 4))
    distances = tensors_of(compared(make_run(planted)), "param_grad")
    assert distances.each.shape == (20, len(TENSORS))
    assert distances.each[9, 3] == distances.each[9, 4] == 0.25
    assert distances.each[8, 3] == pytest.approx(NEAR)
    assert not distances.each[:2].any() and not distances.each[:, [0, 1, 2, 5]].any()
    # Two of 16 tensors of norm 1.
    assert distances.whole[9] == pytest.approx(0.25 * np.sqrt(2 / 16))
    assert distances.beside_whole[9, 3] == pytest.approx(0.25 / 4)


def test_equal_traces_have_no_distance():
    comparison = compared(make_run(Planted()))
    for quantity in ("output", "output_grad", "param_grad", "step_grad", "update", "buffer"):
        assert not tensors_of(comparison, quantity).each.any(), quantity


def test_where_nothing_changed_the_gradient_the_optimizer_had_that_of_backward():
    planted = Planted(differs=ROUNDING, distances={"param_grad": {9: 0.25}})
    comparison = compared(make_run(planted))
    assert np.array_equal(tensors_of(comparison, "step_grad").each, tensors_of(comparison, "param_grad").each)


def test_where_something_changed_it_at_some_steps_it_had_that_of_backward_at_the_others():
    planted = Planted(differs=ROUNDING, distances={"step_grad": {0: 0.5}, "param_grad": {0: 0.25}})
    run = make_run(planted)
    for kind in ("norms", "sketches"):
        run = with_column(run, 1, f"step_grad_{kind}", lambda values: [None, *values[1:]])
    each = tensors_of(compared(run), "step_grad").each
    assert (each[0] == 0.25).all() and (each[1:] == 0.5).all()


def rows(lists):
    run = with_column(make_run(Planted()), 1, "param_grad_norms", lambda values: [*lists, *values[len(lists) :]])
    return compared(run).common[1].trace


def test_a_matrix_has_the_lists_as_rows_and_nan_where_there_is_none():
    trace = rows([[0.5] * len(TENSORS), None, [None] * len(TENSORS), [0.25] * len(TENSORS)])
    found, known = trace.matrix("param_grad_norms", 1, 3)
    assert known.tolist() == [False, True, True] and found.dtype == np.float64
    assert np.isnan(found[:2]).all() and (found[2] == 0.25).all()
    found, known = trace.matrix("param_grad_norms", 2, 18)
    assert known.all() and found.shape == (18, len(TENSORS)) and (found[1] == 0.25).all() and (found[2:] == 1).all()


def test_lists_of_different_lengths_make_no_matrix():
    trace = rows([[0.5], [0.5] * len(TENSORS)])
    assert trace.matrix("param_grad_norms", 0, 2) is None
    assert trace.matrix("param_grad_norms", 0, 1)[0].tolist() == [[0.5]]


def test_a_counter_of_batches_has_no_distance():
    planted = Planted(differs={"buffer": 4}, distances={"buffer": {4: 0.5}})
    distances = tensors_of(compared(make_run(planted)), "buffer")
    assert BUFFERS[1].endswith("num_batches_tracked")
    assert list(distances.each[4]) == [0.5, 0.0]


def test_a_quantity_that_nobody_has_is_not_known():
    assert compared(make_run(Planted())).distances("target_grad") is None


@pytest.mark.parametrize("names", [{"param_names": ["other"] * 16}, {"param_names": [f"port.{n}" for n in range(16)]}])
def test_tensors_of_other_names_are_paired_by_their_shapes(names):
    planted = Planted(differs=ROUNDING, distances={"update": {9: 0.25}}, record=names)
    assert compared(make_run(planted)).distances("update").whole[9] == 0.25


def test_tensors_of_other_shapes_are_not_paired():
    planted = Planted(record={"param_names": [f"port.{n}" for n in range(16)], "param_shapes": ["5"] * 16})
    assert compared(make_run(planted)).distances("update") is None


@pytest.mark.parametrize(
    ("dtypes", "bits"),
    [
        ({}, 24),
        ({"output_dtype": "bfloat16"}, 8),
        ({"computed_dtype": "bfloat16"}, 8),
        ({"computed_dtype": "tf32"}, 11),
        ({"computed_dtype": "float64"}, 24),
        ({"loss_dtype": "float16"}, 11),
        ({"param_dtypes": ["float32", "bfloat16"]}, 8),
        ({"output_dtype": "float64", "loss_dtype": "float64", "param_dtypes": ["float64"]}, 53),
    ],
)
def test_u_is_that_of_the_coarsest_dtype_of_the_baseline(dtypes, bits):
    run = make_run(Planted())
    run = dataclasses.replace(run, trials=(dataclasses.replace(run.trials[0], **dtypes), *run.trials[1:]))
    assert compared(run).unit == 2.0**-bits


def test_a_tensor_that_one_side_lacks_is_infinitely_far_and_one_that_both_lack_is_not():
    run = make_run(Planted())
    for number, lacking in enumerate(([0, 1], [0])):
        for name, width in (("param_grad_norms", 1), ("param_grad_sketches", SKETCH_SUMS)):
            places = {place * width + each for place in lacking for each in range(width)}
            run = with_column(
                run,
                number,
                name,
                lambda rows, places=places: [
                    [math.nan if place in places else value for place, value in enumerate(row)] for row in rows
                ],
            )
    each = tensors_of(compared(run), "param_grad").each
    assert (each[:, 0] == 0).all() and np.isinf(each[:, 1]).all() and (each[:, 2:] == 0).all()


def test_beside_a_norm_of_zero_any_distance_is_infinite():
    distances = TensorDistances(np.array([[0.0, 1e-9]]), *[np.array([[0.0, 0.0]])] * 2)
    assert list(distances.each[0]) == [0.0, np.inf]
    assert distances.whole[0] == np.inf
    both = TensorDistances(np.array([[0.0, 1e-9]]), *[np.array([[1.0, 0.0]])] * 2)
    assert list(both.beside_whole[0]) == [0.0, 1e-9]


@pytest.fixture
def stored_in_blocks(tmp_path, monkeypatch):
    """Stores a run in row groups of about a quarter of a trace, and reads it back as one too long for memory."""

    def store(run):
        table = next(iter(run.traces.values()))
        monkeypatch.setattr(trace_files, "GROUP_BYTES", table.nbytes // 4)
        write_run(run, tmp_path / "run")
        monkeypatch.setattr(traces, "KEPT_BYTES", 1)
        # No other process looks at the files first, which were written here.
        found = read_run(tmp_path / "run", own=True)
        assert len(found.traces.blocks(run.trials[0].trial)) > 2
        return found

    return store


def test_a_long_trace_has_the_distances_of_a_short_one(stored_in_blocks):
    planted = Planted(differs=ROUNDING, distances={"param_grad": {9: 0.25}, "buffer": {30: 0.5}}, tensors=(3, 4))
    run = make_run(planted, steps=40)
    short, long = compared(run), compared(stored_in_blocks(run))
    for quantity in ("output", "output_grad", "param_grad", "step_grad", "update", "buffer"):
        found, expected = tensors_of(long, quantity), tensors_of(short, quantity)
        for name in ("absolute", "norms", "other_norms"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), (quantity, name)
        for name in ("whole", "whole_norm", "whole_absolute"):
            found, expected = (getattr(side.distances(quantity), name) for side in (long, short))
            assert np.array_equal(found, expected), (quantity, name)


@pytest.mark.parametrize("tensors", [1, 2])
def test_a_long_trace_parts_beyond_the_line_of_a_short_one(stored_in_blocks, tensors):
    """NumPy sums a single column in pairs, so that its sum depends on where the blocks begin."""
    lengths = np.exp(np.random.default_rng(4).uniform(-25, 0, (60, tensors))).astype(np.float32).tolist()
    run = make_run(Planted(differs={"param": 50}), steps=60, tensors=TENSORS[:tensors])
    for number in (0, 1):
        run = with_column(run, number, "update_norms", lambda _: lengths)
    both = map(compared, (run, stored_in_blocks(run)))
    short, long = (parting._line(each, "param", 50, each.distances("update")).tolist() for each in both)
    assert short == long


FORWARDS = {"output": 2, "buffer": 2, **ROUNDING}


@pytest.mark.parametrize("step", [3, 9, 10, 11, 12, 21, 33, 55, 59])
@pytest.mark.parametrize("quantity", ["output", "output_grad", "param_grad", "step_grad", "update", "buffer"])
def test_a_long_trace_has_the_jump_of_a_short_one(stored_in_blocks, quantity, step):
    """The steps before a jump, and those at which it stays, are in other blocks than its own."""
    far = {2: NEAR, step: 0.9, step + 4: NEAR}
    run = make_run(Planted(differs=FORWARDS, distances={quantity: far}, tensors=(4,)), steps=60)
    short, long = compared(run), compared(stored_in_blocks(run))
    assert len(long.distances(quantity).parts.segments) > 2
    found = find_jump(long, after=2, parted="output")
    assert repr(found) == repr(find_jump(short, after=2, parted="output"))  # a NaN is not equal to itself
    assert quantity == "param_grad" or found.index == step


@pytest.mark.parametrize("lasting", [2, 3])
# The third block begins with step 30, and so do the three steps, or they end before it, or it parts them.
@pytest.mark.parametrize("step", [26, 27, 28, 29, 30, 31])
def test_a_gradient_has_jumped_if_it_is_off_for_three_steps_wherever_a_block_ends(stored_in_blocks, step, lasting):
    """It is 20 times as far off as before, which two steps may be; the next block may say whether a third one is."""
    far = {2: 0.02, step: 0.4, step + lasting: 0.02}
    run = make_run(Planted(differs=FORWARDS, distances={"param_grad": far}, tensors=(4,)), steps=60)
    for side in (run, stored_in_blocks(run)):
        jump = find_jump(compared(side), after=2, parted="output")
        assert (jump and jump.index) == (step if lasting == 3 else None)


def test_a_long_trace_leaves_out_the_noise_of_a_short_one(stored_in_blocks):
    tiny = {step: 1e-6 * (0.2 + 0.5 * (step % 3)) for step in range(2, 60)}
    planted = Planted(differs=FORWARDS, distances={"param_grad": tiny, "update": {2: NEAR, 31: 0.9}}, tensors=(4,))
    run = make_run(planted, steps=60)
    for side in (0, 1):
        run = with_column(run, side, "param_grad_norms", lambda rows: [[*row[:4], 1e-6, *row[5:]] for row in rows])
    short, long = compared(run), compared(stored_in_blocks(run))
    found = judged_distance(long, "update")
    assert np.array_equal(found, judged_distance(short, "update"))
    assert not np.array_equal(found, long.distances("update").whole)
    assert repr(find_jump(long, after=2, parted="output")) == repr(find_jump(short, after=2, parted="output"))


def test_of_a_long_trace_single_tensors_stay_in_memory_only_for_the_last_parts(stored_in_blocks):
    comparison = compared(stored_in_blocks(make_run(Planted(differs=ROUNDING), steps=60)))
    parts = comparison.distances("update").parts
    count = len(parts.segments)
    assert count > 3 and [*parts._kept] == [count - 3, count - 2, count - 1]
    comparison.distances("update").at(0)
    assert [*parts._kept] == [count - 2, count - 1, 0]


def test_of_outputs_whose_number_changes_within_a_long_trace_nothing_is_known(stored_in_blocks):
    run = make_run(Planted(differs=ROUNDING), steps=40)
    for side in (0, 1):
        for kind in ("norms", "sketches"):
            run = with_column(run, side, f"output_{kind}", lambda rows: [*rows[:20], *(2 * row for row in rows[20:])])
    assert compared(stored_in_blocks(run)).distances("output") is None


@pytest.mark.parametrize("index", [0, 1, 7, 35])
def test_the_parameters_before_a_step_are_the_first_ones_and_the_updates_since(stored_in_blocks, index):
    run = stored_in_blocks(make_run(Planted(differs=ROUNDING), steps=40))
    side = compared(run).common[1]
    updates = np.array(run.traces.column(side.trace.record.trial, "update_sketches").to_pylist())
    initial = np.arange(updates.shape[1], dtype=float)
    record = dataclasses.replace(side.trace.record, initial_sketches=initial.tolist())
    found = parameters_before(dataclasses.replace(side, trace=TrialTrace(record, side.trace.columns)), index)
    assert updates[:index].any() == (index > 2)  # from there on the synthetic traces have updates
    assert found.reshape(-1) == pytest.approx(initial + updates[:index].sum(axis=0))


# Traces of equal content, whose distances are computed once


def differences(run):
    return [str(table.to_pydict()) for table in differences_tables(judge(run))]


def test_what_is_known_of_equal_content_is_what_would_be_computed(monkeypatch):
    planted = {"differs": ROUNDING, "distances": {"param_grad": {9: 0.25}}}
    run = make_run(*(Planted(name, **planted) for name in ("one", "two", "three", "four")))
    computed, compute = [], distances._Parts._compute
    monkeypatch.setattr(distances._Parts, "_compute", lambda *given: computed.append(1) or compute(*given))
    known = differences(run)
    few, computed[:] = len(computed), []
    monkeypatch.setattr(distances, "_KNOWN_BYTES", -1)
    assert differences(run) == known
    # Of six quantities, the buffers and the optimizer's gradient look at other columns, too.
    assert (few, len(computed)) == (2 * 4 + 4, 6 * 4)


def test_what_is_known_is_kept_for_all_that_it_is_computed_from(monkeypatch):
    planted = [
        # All norms are the same, and the optimizers' gradients are those of backward.
        Planted(name, differs=ROUNDING, distances={"param_grad": {9: distance}, "update": {9: distance}})
        for name, distance in (("near", 0.25), ("far", 0.5))
    ]
    run = make_run(*planted)
    known = differences(run)
    monkeypatch.setattr(distances, "_KNOWN_BYTES", -1)
    assert differences(run) == known


def test_a_tensor_that_one_side_lacks_is_measured_each_time(monkeypatch):
    run = make_run(Planted(), Planted("other"))
    for trial in (1, 2):
        for kind, width in (("norms", 1), ("sketches", SKETCH_SUMS)):
            run = with_column(
                run,
                trial,
                f"param_grad_{kind}",
                lambda rows, width=width: [[math.nan] * width + row[width:] for row in rows],
            )
    known = differences(run)
    monkeypatch.setattr(distances, "_KNOWN_BYTES", -1)
    assert differences(run) == known
    pairs = judge(run).pairs
    assert not any(key[0] == "param_grad" for key in pairs[0].comparison.baseline.columns.measured)
