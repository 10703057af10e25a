import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from synthetic_runs import ROUNDING, Planted, make_run

from parity.judge.fleet import Fleet
from parity.judge.judging import judge
from parity.judge.pairs import make_pairs
from parity.judge.verdict import NotFinite
from parity.store.stored_run import read_run
from parity.store.tables import SHARED_STEPS
from parity.store.trials import TrialRecord


@pytest.fixture
def stored(equal_pair):
    """A stored run of two trials that are equal to the bit, to plant faults in."""
    return read_run(equal_pair)


def names(stored):
    return [record.trial for record in stored.trials]


def changed(stored, trial, **columns):
    """The run with whole columns of a trial replaced: each change takes and gives an array."""
    table = stored.traces[trial]
    for name, change in columns.items():
        index = table.schema.get_field_index(name)
        values = change(np.array(table[name].to_numpy()))
        table = table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    return replace(stored, traces=dict(stored.traces) | {trial: table})


def at(step, value):
    def change(values):
        values[step] = value(values[step]) if callable(value) else value
        return values

    return change


def flip(value):
    return np.uint64(value) ^ np.uint64(1)


def from_step(step, value):
    def change(values):
        for index in range(step, len(values)):
            values[index] = value(values[index]) if callable(value) else value
        return values

    return change


def with_record(stored, trial, **fields):
    records = tuple(replace(record, **fields) if record.trial == trial else record for record in stored.trials)
    return replace(stored, trials=records)


def only(stored):
    judgement = judge(stored)
    (verdict,) = judgement.pairs
    return judgement, verdict


def test_equal_traces_are_identical(stored):
    judgement, verdict = only(stored)
    assert (judgement.verdict, judgement.exit_status, verdict.cause) == ("identical", 0, None)
    assert (verdict.first, verdict.onset, verdict.steps) == (None, None, 8)
    assert (verdict.largest.abs, verdict.largest.rel, verdict.largest.ulp) == (0, 0, 0)


def test_judging_twice_says_the_same(stored):
    assert judge(stored).pairs[0].audit == judge(stored).pairs[0].audit


def test_a_loss_that_only_reports_otherwise_is_report_only(stored):
    judgement, verdict = only(changed(stored, names(stored)[1], loss=at(3, lambda loss: loss * (1 + 2**-20))))
    assert (judgement.verdict, judgement.exit_status) == ("report-only", 0)
    assert (verdict.first.step, verdict.first.quantity) == (3, "loss")
    assert verdict.largest.step == 3


def test_a_far_wrong_number_with_an_equal_gradient_is_still_report_only(stored):
    wrong = changed(
        stored, names(stored)[1], loss=from_step(0, lambda loss: loss * 2), loss_error_u=from_step(0, 2.0**24)
    )
    _, verdict = only(wrong)
    assert verdict.verdict == "report-only"
    assert verdict.cause == (
        "only the reported number differs, by more than any order of summation can explain (100 % off; rounding "
        "explains 0.17 %); the gradient and everything after it are equal"
    )


def test_a_gradient_within_the_line_is_rounding(stored):
    moved = changed(stored, names(stored)[1], output_grad_digest=from_step(2, flip), grad_error_u=from_step(2, 15.9))
    judgement, verdict = only(moved)
    assert (judgement.verdict, judgement.exit_status, verdict.onset) == ("rounding", 0, None)
    assert (verdict.first.step, verdict.first.quantity) == (2, "output_grad")


def test_a_gradient_beyond_the_line_has_diverged_where_it_crosses(stored):
    moved = changed(
        stored,
        names(stored)[1],
        output_grad_digest=from_step(2, flip),
        grad_error_u=from_step(5, 168.0),
        grad_ratio=from_step(5, 1.00001),
    )
    judgement, verdict = only(moved)
    assert (judgement.verdict, judgement.exit_status) == ("diverged", 1)
    assert (verdict.onset.step, verdict.onset.batch, verdict.onset.quantity) == (5, 5, "output_grad")
    assert (verdict.first.step, verdict.audit.step) == (2, 5)
    assert [cause.kind for cause in verdict.causes] == ["from step", "unknown"]
    assert "; output_grad is 1.00001 times the float64 one, 0.001 % off (the baseline is " in verdict.cause


def test_the_line_stands_by_the_baselines_own_error(stored):
    noisy = changed(stored, names(stored)[0], grad_error_u=from_step(0, 20.0))
    moved = changed(noisy, names(stored)[1], output_grad_digest=from_step(2, flip), grad_error_u=from_step(2, 168.0))
    assert only(moved)[1].verdict == "rounding"
    beyond = changed(moved, names(stored)[1], grad_error_u=from_step(2, 321.0))
    assert only(beyond)[1].verdict == "diverged"


def test_a_loss_beyond_any_order_of_summation_has_diverged(stored):
    line = 64 * math.sqrt(256 * 784)
    moved = changed(
        stored, names(stored)[1], output_grad_digest=from_step(0, flip), loss_error_u=from_step(4, line * 0.99)
    )
    assert only(moved)[1].verdict == "rounding"
    beyond = only(changed(moved, names(stored)[1], loss_error_u=from_step(4, line * 1.01)))[1]
    assert (beyond.verdict, beyond.onset.step, beyond.onset.quantity) == ("diverged", 4, "loss")


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("column", "quantity"), [("loss", "loss"), ("output_grad_norm", "output_grad"), ("param_grad_norm", "param_grad")]
)
def test_a_nan_on_one_side_is_a_divergence_at_that_step(stored, side, column, quantity):
    digest = {f"{quantity}_digest": at(6, flip)}
    judgement, verdict = only(changed(stored, names(stored)[side], **{column: at(6, math.nan)}, **digest))
    assert (judgement.exit_status, verdict.verdict) == (1, "diverged")
    assert (verdict.onset.step, verdict.onset.quantity) == (6, quantity)
    assert verdict.cause == f"{quantity} is NaN in the {('baseline', 'candidate')[side]} only"


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_a_loss_that_is_infinite_on_one_side_is_a_divergence_at_that_step(stored, side, value):
    changed_run = changed(stored, names(stored)[side], loss=at(6, value), loss_digest=at(6, flip))
    verdict = only(changed_run)[1]
    assert (verdict.verdict, verdict.onset.step, verdict.onset.quantity) == ("diverged", 6, "loss")
    where = ("baseline", "candidate")[side]
    assert verdict.cause == f"loss is infinite in the {where} only"
    assert verdict.not_finite == NotFinite(where, "infinite")
    both = only(changed(changed_run, names(stored)[1 - side], loss=at(6, value), loss_digest=at(6, flip)))[1]
    assert both.not_finite is None
    nan = only(changed(changed_run, names(stored)[1 - side], loss=at(6, math.nan), loss_digest=at(6, flip)))[1]
    assert nan.not_finite == NotFinite(("candidate", "baseline")[side], "NaN")


def test_equal_nans_on_both_sides_are_equal_and_said(stored):
    both = stored
    for trial in names(stored):
        both = changed(both, trial, loss=at(6, math.nan))
    _, verdict = only(both)
    assert (verdict.verdict, verdict.both_nan) == ("identical", 6)


def test_other_inputs_leave_nothing_to_hold_the_pair_against(stored):
    judgement, verdict = only(changed(stored, names(stored)[1], input_digest=at(3, flip)))
    assert (judgement.verdict, judgement.exit_status) == ("inconclusive", 3)
    assert verdict.cause == "the inputs differ from step 3 on: the data is not the same"


@pytest.mark.parametrize("quantity", ["output", "param_grad", "param"])
def test_what_parts_without_the_loss_is_not_blamed_on_it(stored, quantity):
    _, verdict = only(changed(stored, names(stored)[1], **{f"{quantity}_digest": at(4, flip)}))
    assert verdict.verdict == "inconclusive"
    assert verdict.cause == (
        f"the {quantity} first differs at step 4, while the gradient before it is equal: the loss is not the cause"
    )


def test_a_failed_candidate_has_failed(stored):
    failed = with_record(
        stored, names(stored)[1], status="failed", failed_step=8, error="the loss raised E: x", host="h"
    )
    judgement, verdict = only(failed)
    assert (judgement.verdict, judgement.exit_status) == ("failed", 1)
    assert verdict.cause == "Trial functional@cpu-s0 failed at step 8 on h: the loss raised E: x."


def test_a_failed_baseline_is_trouble(stored):
    failed = with_record(
        stored, names(stored)[0], status="failed", failed_step=8, error="the loss raised E: x", host="h"
    )
    judgement, verdict = only(failed)
    assert (judgement.exit_status, verdict.verdict) == (2, "inconclusive")
    assert judgement.trouble == (
        "The baseline failed: Trial builtin@cpu-s0 failed at step 8 on h: the loss raised E: x."
    )


def stopped(stored, number):
    """The run with that trial ended by the limit on the time of a step."""
    error = "it finished no step for 3 s; an earlier worker of this trial was lost as well"
    return with_record(
        stored, names(stored)[number], status="failed", failure="hung", failed_step=None, error=error, host="h"
    )


def test_a_limit_that_stops_every_trial_is_the_fault_of_none(stored):
    judgement, verdict = only(stopped(stopped(stored, 0), 1))
    assert (judgement.verdict, judgement.exit_status, judgement.trouble) == ("inconclusive", 3, None)
    assert verdict.cause == (
        "every trial of the run was stopped in the same way (it finished no step for 3 s; an earlier worker of this "
        "trial was lost as well), which is not the fault of a loss or a device: raise --step-timeout"
    )


def test_what_differs_before_the_limit_stops_every_trial_stays_wrong(stored):
    wrong = changed(stored, names(stored)[1], output_grad_digest=from_step(2, flip), grad_error_u=from_step(2, 1e7))
    assert only(stopped(stopped(wrong, 0), 1))[1].verdict == "diverged"


def test_a_limit_that_stops_some_trials_is_theirs(stored):
    judgement, verdict = only(stopped(stored, 1))
    assert (judgement.exit_status, verdict.verdict) == (1, "failed")
    judgement, verdict = only(stopped(stored, 0))
    assert (judgement.exit_status, verdict.verdict) == (2, "inconclusive")
    assert judgement.trouble.startswith("The baseline failed: Trial builtin@cpu-s0 failed on h: it finished no step")


def test_an_interrupted_pair_is_judged_as_far_as_it_goes(stored):
    trial = names(stored)[1]
    partial = with_record(stored, trial, status="interrupted")
    partial = replace(partial, traces=dict(partial.traces) | {trial: partial.traces[trial].slice(0, 5)})
    _, verdict = only(partial)
    assert (verdict.verdict, verdict.steps) == ("inconclusive", 5)
    assert verdict.cause == "functional@cpu-s0 was interrupted: 5 of 8 steps can be compared"
    wrong = changed(partial, trial, output_grad_digest=from_step(2, flip), grad_error_u=from_step(2, 1e7))
    assert only(wrong)[1].verdict == "diverged"


def test_without_an_audit_a_difference_stays_undecided(stored):
    moved = changed(
        stored, names(stored)[1], output_grad_digest=from_step(2, flip), grad_error_u=from_step(0, math.nan)
    )
    nothing = moved.traces[names(stored)[1]]
    index = nothing.schema.get_field_index("grad_error_u")
    nulls = pa.nulls(8, pa.float64())
    moved = replace(
        moved,
        traces=dict(moved.traces) | {names(stored)[1]: nothing.set_column(index, nothing.schema.field(index), nulls)},
    )
    assert only(moved)[1].cause == "no audit: --audit-every 0"
    unaudited = with_record(moved, names(stored)[1], audit_error="in float64 it raised TypeError: float32 only")
    _, verdict = only(unaudited)
    assert (verdict.verdict, verdict.audit) == ("inconclusive", None)
    assert verdict.cause == "no audit: in float64 it raised TypeError: float32 only"


def retold(stored, **fields):
    """The run with its second trial under another loss, device or replica."""
    old = names(stored)[1]
    trials = (stored.trials[0], replace(stored.trials[1], **fields))
    traces = {**stored.traces, trials[1].trial: stored.traces[old]}
    return replace(stored, trials=trials, traces=traces)


@pytest.fixture
def devices(stored):
    """Two devices whose traces differ from step 3 on, in the output."""
    pair = retold(stored, loss_name="builtin", device="cpu:threads=2")
    assert only(pair)[1].verdict == "identical"
    return changed(pair, names(pair)[1], output_digest=at(3, flip))


def sharing(stored, *errors):
    """The run with steps from shared states; each error changes a row that is well within the line."""
    row = {"trial": names(stored)[1], "step": 3, "quantity": "output", "tensor": None, "baseline_error_u": 2.0}
    row |= {"candidate_error_u": 2.5, "spread_u": None, "repeated": None, "rounding": None}
    table = pa.Table.from_pylist([row | error for error in errors], schema=SHARED_STEPS)
    return replace(stored, evidence=stored.evidence | {"shared_steps": table})


def test_devices_that_took_no_shared_step_are_not_decided(devices):
    judgement, verdict = only(devices)
    assert (verdict.pair.axis, verdict.verdict) == ("device", "inconclusive")
    assert verdict.cause == "not decided locally: it took no step from the baseline's states"
    assert (judgement.exit_status, verdict.first.step, verdict.first.quantity) == (3, 3, "output")
    assert verdict.audit is None
    _, verdict = only(with_record(devices, names(devices)[1], shared_error="the task does not train in float64: x"))
    assert verdict.cause == "not decided locally: the task does not train in float64: x"


def test_devices_within_the_line_are_rounding(devices):
    judgement, verdict = only(sharing(devices, {}, {"candidate_error_u": 15.9}))
    assert (judgement.exit_status, verdict.verdict, verdict.onset) == (0, "rounding", None)
    assert verdict.device_audit.steps == (3,)
    assert verdict.device_audit.worst.error_u / verdict.device_audit.worst.line_u == pytest.approx(15.9 / 16)


def test_the_first_tensor_beyond_the_line_is_the_onset_of_a_device(devices):
    wrong = {"quantity": "param_grad", "candidate_error_u": 1e4}
    judgement, verdict = only(
        sharing(
            devices,
            {},
            wrong | {"step": 5, "tensor": "a"},
            wrong | {"tensor": "a"},
            wrong | {"tensor": "b"},
            wrong | {"quantity": "param", "tensor": "a"},
        )
    )
    assert (judgement.exit_status, verdict.verdict) == (1, "diverged")
    assert (verdict.onset.step, verdict.onset.quantity, verdict.onset.tensor) == (3, "param_grad", "b")
    assert verdict.cause == (
        "param_grad b is 0.06 % off, against float64, in a step from the same state "
        "(the baseline is 1.2e-07 off, rounding explains 0.000095 %)"
    )


def test_the_line_of_a_device_stands_by_the_spread_of_the_step_itself(devices):
    assert only(sharing(devices, {"candidate_error_u": 700.0, "spread_u": 100.0}))[1].verdict == "rounding"
    assert only(sharing(devices, {"candidate_error_u": 900.0, "spread_u": 100.0}))[1].verdict == "diverged"


def test_products_in_another_precision_are_named(devices):
    _, verdict = only(sharing(devices, {"candidate_error_u": 5e3, "rounding": "tf32"}))
    assert verdict.cause.startswith("matrix products in tf32: output is 0.03 % off")


def test_a_device_that_does_not_repeat_its_step_has_diverged(devices):
    _, verdict = only(sharing(devices, {"repeated": False}))
    assert (verdict.verdict, verdict.onset.step, verdict.onset.quantity) == ("diverged", 3, "output")
    assert verdict.cause == (
        "repeated from the same state, the step produced different bits: the device does not reproduce its own results"
    )
    assert only(sharing(devices, {"repeated": True}))[1].verdict == "rounding"


def test_replicas_that_disagree_are_inconclusive(stored):
    replicas = retold(stored, loss_name="builtin", replica=1)
    assert only(replicas)[1].verdict == "identical"
    _, verdict = only(changed(replicas, names(replicas)[1], output_digest=at(3, flip)))
    assert verdict.verdict == "inconclusive"
    assert verdict.cause == "replicas disagree: this loss on this device is not deterministic"


def three_trials(stored, candidate_trace):
    """Baseline, its replica (which disagrees), and a candidate of another loss."""
    baseline = stored.trials[0]
    replica = replace(baseline, trial="builtin@cpu-s0-r1", replica=1)
    candidate = stored.trials[1]
    disagreeing = changed(stored, baseline.trial, output_digest=at(3, flip)).traces[baseline.trial]
    traces = {
        baseline.trial: stored.traces[baseline.trial],
        replica.trial: disagreeing,
        candidate.trial: candidate_trace,
    }
    return replace(stored, trials=(baseline, candidate, replica), traces=traces)


def test_an_unsteady_baseline_is_never_identical_to_anything(stored):
    judgement = judge(three_trials(stored, stored.traces[names(stored)[1]]))
    verdicts = {verdict.pair.axis: verdict for verdict in judgement.pairs}
    assert verdicts["loss"].verdict == verdicts["replica"].verdict == "inconclusive"
    assert verdicts["loss"].cause.startswith("the baseline's replicas disagree: 1 candidate and 2 baseline replicas")


def test_a_wrong_candidate_is_caught_beside_an_unsteady_baseline(stored):
    trial = names(stored)[1]
    wrong = changed(stored, trial, output_grad_digest=from_step(0, flip), grad_error_u=from_step(0, 1e7))
    judgement = judge(three_trials(wrong, wrong.traces[trial]))
    assert judgement.verdict == "diverged"


def test_one_trial_makes_no_pair(stored):
    judgement = judge(replace(stored, trials=stored.trials[:1]))
    assert (judgement.pairs, judgement.verdict, judgement.exit_status) == ((), "inconclusive", 3)


def record(loss, device, seed=0, replica=0):
    settings = {"task": "t", "loss_origin": None, "loss_sha256": None, "oracle": "builtin", "steps": 1, "batches": 1}
    settings |= {
        "task_origin": None,
        "task_sha256": None,
        "noise": 0,
        "batch_size": 1,
        "lr": 1.0,
        "optimizer": None,
        "audit_every": 1,
        "trace": "",
    }
    return TrialRecord(
        trial=f"{loss}@{device}-s{seed}-r{replica}",
        loss_name=loss,
        device=device,
        seed=seed,
        replica=replica,
        **settings,
    )


def test_a_pair_differs_in_one_thing_and_always_from_the_first():
    trials = [
        record(loss, device, seed, replica)
        for device in ("cpu", "cuda")
        for seed in (0, 1)
        for replica in (0, 1)
        for loss in ("a", "b", "c")
    ]
    pairs = make_pairs(trials, Fleet(trials, {}))
    fields = ("loss_name", "device", "seed", "replica")
    for pair in pairs:
        differing = [name for name in fields if getattr(pair.baseline, name) != getattr(pair.candidate, name)]
        assert differing == [{"loss": "loss_name"}.get(pair.axis, pair.axis)]
    counts = {axis: sum(pair.axis == axis for pair in pairs) for axis in ("loss", "device", "replica")}
    assert counts == {"loss": 2 * 2 * 2 * 2, "device": 3 * 2 * 2, "replica": 3 * 2 * 2}
    assert {pair.baseline.loss_name for pair in pairs if pair.axis == "loss"} == {"a"}
    assert {pair.baseline.device for pair in pairs if pair.axis == "device"} == {"cpu"}
    assert {pair.baseline.replica for pair in pairs if pair.axis == "replica"} == {0}


def test_a_verdict_carries_the_errors_and_lines_that_decided_it(devices):
    _, verdict = only(sharing(devices, {}, {"candidate_error_u": 15.9}))
    assert verdict.device_audit.line == 8.0
    assert [error.error_u for error in verdict.device_audit.errors] == [2.5, 15.9]
    assert verdict.loss_audit is None and verdict.not_finite is None
    run = make_run(
        Planted(differs=ROUNDING, grad_errors={7: 1e6}),
        Planted("nan", losses={4: float("nan")}),
        Planted("builtin", replica=1, differs={"output": 3}),
    )
    wrong, nan = (judge(run).pairs[0], judge(run).pairs[1])
    # The baseline's replicas disagree, so its lines are the nearer ones.
    assert set(wrong.loss_audit.gradient.line) == {8.0}
    assert (wrong.first_errors.candidate_u, wrong.not_finite) == (wrong.loss_audit.gradient.candidate[2], None)
    assert nan.not_finite == NotFinite("candidate", "NaN")
