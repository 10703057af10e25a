"""Where two traces part from equal bits: each planted difference is found at its step, quantity and tensor."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from small_loops import ask, net
from synthetic_runs import BUFFERS, NEAR, ROUNDING, TENSORS, Planted, make_run, nothing, with_column

from parity.ground.percent import percent
from parity.judge import judge
from parity.judge.decide_device import DeviceAudit, DeviceError
from parity.judge.onset import find_onset
from parity.judge.parting import COMPUTED, Parting, find_parting, find_unequal_gradient
from parity.judge.seen import limits
from parity.plan import lines
from parity.store.trace import SKETCH_SUMS

# One tensor differs.
PLACE = 5


def compared(**planted):
    (pair,) = judge(make_run(Planted(**planted))).pairs
    return pair.comparison


def parted(quantity, distance, **planted):
    """The parting of a pair that differs in one quantity from step 4 on."""
    sketched = "update" if quantity == "param" else quantity
    return find_parting(
        compared(differs={quantity: 4}, tensors=(PLACE,), distances={sketched: {4: distance}}, **planted)
    )


def test_traces_that_are_equal_part_nowhere():
    assert find_parting(compared()) is None


@pytest.mark.parametrize(
    ("quantity", "named", "tensor"),
    [
        ("output", "output", None),
        ("output_grad", "output_grad", None),
        ("param_grad", "param_grad", TENSORS[PLACE]),
        ("step_grad", "step_grad", TENSORS[PLACE]),
        ("param", "update", TENSORS[PLACE]),
        ("buffer", "buffer", BUFFERS[0]),
    ],
)
def test_a_planted_difference_is_found_at_its_step_quantity_and_tensor(quantity, named, tensor):
    parting = parted(quantity, 0.5)
    assert (parting.index, parting.quantity, parting.tensor, parting.finding) == (4, named, tensor, "beyond")
    assert f"is {percent(parting.distance)} away from the baseline's after" in parting.explain()
    parting = parted(quantity, NEAR)
    assert (parting.index, parting.quantity, parting.finding) == (4, named, "within")


@pytest.mark.parametrize("quantity", ["output", "output_grad", "param_grad"])
def test_between_the_line_and_far_nothing_is_known(quantity):
    assert parted(quantity, 0.5 * lines.FAR.value).finding == "unknown"


@pytest.mark.parametrize("quantity", ["step_grad", "param", "buffer"])
def test_what_a_few_operations_compute_needs_no_more_than_its_line(quantity):
    assert parted(quantity, 0.5 * lines.FAR.value).finding == "beyond"


@pytest.mark.parametrize("quantity", ["step_grad", "param", "output_grad"])
def test_under_autocast_what_the_optimizer_computes_has_the_precision_of_the_parameters(quantity):
    sketched = "update" if quantity == "param" else quantity
    planted = Planted(differs={quantity: 4}, tensors=(PLACE,), distances={sketched: {4: 0.05}})
    run = make_run(planted)
    narrow = [dataclasses.replace(each, computed_dtype="bfloat16", output_dtype="bfloat16") for each in run.trials]
    (pair,) = judge(dataclasses.replace(run, trials=tuple(narrow))).pairs
    found = "within" if quantity == "output_grad" else "beyond"
    assert find_parting(pair.comparison).finding == found
    # The limit in the plots is the one that decides.
    assert (limits(pair.comparison, sketched)[4] < 0.05) == (found == "beyond")


@pytest.mark.parametrize("quantity", ["input", "output"])
def test_an_output_that_reaches_nothing_is_no_fault_however_far_it_is(quantity):
    """Padded words, or log_softmax in the model beside logits: loss and gradient are as near as rounding allows."""
    far = {"output": {4: 0.5}, "param_grad": {4: NEAR}}
    planted = {"differs": {quantity: 4, "output": 4, "param_grad": 4}, "distances": far}
    parting = find_parting(compared(**planted))
    assert (parting.index, parting.quantity, parting.finding) == (4, quantity, "within")
    assert "and the loss and the gradient of the parameters by no more than rounding" in parting.explain()
    # A loss that is off shows that it reaches something.
    assert find_parting(compared(**planted, losses={4: 0.3})).finding == "beyond"
    assert find_parting(compared(**planted | {"distances": far | {"param_grad": {4: 1e-4}}})).finding == "beyond"


def test_inputs_are_judged_by_the_outputs_that_they_give():
    far = compared(differs={"input": 4, "output": 4}, distances={"output": {4: 0.3}})
    near = compared(differs={"input": 4, "output": 4})
    assert [(each.index, each.quantity, each.finding) for each in map(find_parting, (far, near))] == [
        (4, "input", "beyond"),
        (4, "input", "within"),
    ]
    assert "too far apart" in find_parting(far).explain()
    assert "by no more than rounding" in find_parting(near).explain()


def test_a_tensor_whose_gradient_is_nothing_but_rounding_is_judged_beside_the_whole():
    """A bias before a batch norm: its own gradient is 1e-8 of the whole, and all of it differs."""
    run = make_run(Planted(differs={"param_grad": 4}, tensors=(PLACE,), distances={"param_grad": {4: 1e-8}}))

    def small(rows):
        return [[1e-8 if number == PLACE else norm for number, norm in enumerate(row)] for row in rows]

    for number in range(2):
        run = with_column(run, number, "param_grad_norms", small)
    (pair,) = judge(run).pairs
    parting = find_parting(pair.comparison)
    assert (parting.quantity, parting.finding) == ("param_grad", "within")


def test_the_first_tensor_beyond_its_line_is_named_in_the_order_of_the_backward_pass():
    parting = find_parting(compared(differs={"param_grad": 4}, distances={"param_grad": {4: 0.5}}))
    assert parting.tensor == TENSORS[-1]
    parting = find_parting(compared(differs={"step_grad": 4}, distances={"step_grad": {4: 0.5}}))
    assert parting.tensor == TENSORS[0]


def test_a_setting_that_differs_is_the_cause_of_what_follows():
    parting = find_parting(
        compared(settings={6: {"lr": 2e-3}}, differs={"param": 6}, distances={"update": {6: 1.0}}, tensors=(PLACE,))
    )
    assert (parting.index, parting.quantity, parting.tensor) == (6, "state", None)
    assert parting.explain() == ("the states from which the step is taken differ: learning rate: 0.001 and 0.002")


def test_a_setting_that_changes_nothing_is_not_the_cause():
    parting = find_parting(compared(settings={6: {"lr": 2e-3}}, differs={"param": 6}))
    assert (parting.index, parting.quantity, parting.finding) == (6, "update", "within")


def moved(change):
    """The model of the small loops with another start."""

    def make():
        model = net()
        with torch.no_grad():
            change(model)
        return model

    return make


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda model: model[2].bias.mul_(1.5), r"2\.bias: norm 0\.1746 and norm 0\.2619, \d\d % away"),
        (lambda model: model[2].bias.zero_(), r"2\.bias: norm 0\.1746 and norm 0, 1?\d\d % away"),
        (
            lambda model: [each.mul_(1 + 1e-3 * (2 - each.dim())) for each in model.parameters()],
            r"[02]\.bias and 1 more: ",
        ),
        (
            lambda model: [model[0].weight.mul_(1.1), model[2].bias.mul_(1.5)],
            r"2\.bias and 1 more: norm 0\.1746 and norm 0\.2619",
        ),
    ],
)
def test_how_far_the_starts_are_apart_is_said(tmp_path, change, found):
    pair = ask(tmp_path, {"steps": 3}, {"steps": 3, "model": moved(change)})
    assert (pair.verdict, pair.onset.step, pair.onset.quantity) == ("diverged", 0, "state")
    assert re.search(f"initial parameters of {found}", pair.cause)


def test_a_start_of_zeros_has_no_size(tmp_path):
    pair = ask(tmp_path, {"steps": 3, "model": moved(lambda model: model[2].bias.zero_())}, {"steps": 3})
    assert pair.cause.endswith("initial parameters of 2.bias: norm 0 and norm 0.1746")


def test_other_initial_parameters_are_the_cause_of_other_outputs():
    others = [7] * len(TENSORS)
    others[PLACE] = others[-1] = 8
    far = {"differs": {"output": 0}, "distances": {"output": {0: 0.3}}}
    parting = find_parting(compared(**far, record={"initial_digests": others}))
    assert (parting.index, parting.quantity, parting.finding) == (0, "state", "beyond")
    assert parting.explain() == (
        "the states from which the step is taken differ: "
        f"initial parameters of {TENSORS[PLACE]} and 1 more: 0000000000000007 and 0000000000000008"
    )
    assert find_parting(compared(**far)).quantity == "output"
    assert find_parting(compared(**far, record={"initial_digests": None})).quantity == "output"


@pytest.mark.parametrize(("apart", "found"), [(0.01, "beyond"), (NEAR, "within")])
def test_other_initial_parameters_are_another_training_also_where_nothing_shows(apart, found):
    """An offset of all logits of a head reaches no loss and no gradient."""
    sketches = np.zeros((len(TENSORS), SKETCH_SUMS))
    run = make_run(Planted(differs={"param": 0}, distances={"update": {0: 0.0}}))
    for number, far in enumerate((0.0, apart)):
        sketches[PLACE, 0] = far * np.sqrt(len(TENSORS))
        changed = dataclasses.replace(
            run.trials[number], initial_sketches=[*sketches.reshape(-1)], initial_digests=[7 + number] * len(TENSORS)
        )
        run = dataclasses.replace(run, trials=(*run.trials[:number], changed, *run.trials[number + 1 :]))
    (pair,) = judge(run).pairs
    assert find_parting(pair.comparison).finding == found


@pytest.mark.parametrize(("digest", "quantity"), [(302, "state"), (None, "output")])
def test_a_recording_goes_on_from_the_parameters_of_the_step_before(digest, quantity):
    run = make_run(Planted(differs={"output": 0}, distances={"output": {0: 0.3}}))
    baseline, candidate = run.trials
    before = run.traces[baseline.trial]["param_digests"][3].as_py()
    if digest:
        before[PLACE] = digest
    record = dataclasses.replace(candidate, first_step=4, rows=16, initial_digests=before)
    traces = run.traces | {candidate.trial: run.traces[candidate.trial].slice(4)}
    (pair,) = judge(dataclasses.replace(run, trials=(baseline, record), traces=traces)).pairs
    parting = find_parting(pair.comparison)
    assert (parting.index, parting.quantity) == (0, quantity)
    assert pair.onset.step == 4


def test_a_generator_in_another_state_is_the_cause_of_what_follows():
    parting = find_parting(compared(generators=3, differs={"output": 4}, distances={"output": {4: 0.3}}))
    assert (parting.index, parting.quantity) == (3, "state")
    assert "random generator of torch: in one state and in another" in parting.explain()


def test_runs_of_earlier_versions_part_at_a_distance_that_is_not_known():
    run = make_run(Planted(differs={"output": 4}))
    for name in ("output_norms", "output_sketches"):
        run = with_column(run, 0, name, nothing)
    (pair,) = judge(run).pairs
    parting = find_parting(pair.comparison)
    assert (parting.quantity, parting.finding, parting.distance) == ("output", "unknown", None)
    assert parting.explain() == "the output differs, and how far is not known"


def test_in_a_narrow_dtype_the_line_is_wider():
    narrow = {"output_dtype": "bfloat16", "loss_dtype": "bfloat16"}
    run = make_run(Planted(differs={"output": 4}, distances={"output": {4: 0.01}}, record=narrow))
    run = dataclasses.replace(run, trials=tuple(dataclasses.replace(each, **narrow) for each in run.trials))
    (pair,) = judge(run).pairs
    assert find_parting(pair.comparison).finding == "within"
    assert parted("output", 0.01).finding == "beyond"


def test_the_dtype_is_that_of_the_baseline():
    """A candidate that computes in a narrower dtype does not differ by rounding only."""
    narrow = {"output_dtype": "bfloat16", "loss_dtype": "bfloat16"}
    assert parted("output", 0.01, record=narrow).finding == "beyond"


def test_equal_outputs_with_unequal_gradients_are_seen_where_nothing_was_audited():
    comparison = compared(differs={"output_grad": 4}, distances={"output_grad": {4: NEAR, 7: 0.2, 8: NEAR}})
    nothing = np.zeros(comparison.steps, bool)
    found = find_unequal_gradient(comparison, audited=nothing)
    assert (found.index, found.quantity, found.finding) == (7, "output_grad", "beyond")
    assert find_unequal_gradient(comparison, audited=~nothing) is None
    assert find_unequal_gradient(compared(differs=ROUNDING), audited=nothing) is None


def test_unequal_outputs_say_nothing_about_their_gradients():
    comparison = compared(differs={"output": 3, "output_grad": 4}, distances={"output_grad": {4: NEAR, 7: 0.2}})
    assert find_unequal_gradient(comparison, audited=np.zeros(comparison.steps, bool)) is None


def test_the_number_of_the_loss_is_not_computed_with():
    assert "loss" not in COMPUTED and "state" not in COMPUTED
    assert find_parting(compared(differs={"loss": 2})) is None


@pytest.mark.parametrize(
    ("checked", "quantity", "finding", "begins"),
    [
        ((0, 10), "param_grad", "unknown", 4),
        ((0, 6, 10), "param_grad", "unknown", 10),
        ((0, 10), "output", "unknown", 10),
        ((0, 10), "param_grad", "within", 10),
    ],
)
def test_a_fault_began_at_the_parting_only_if_nothing_speaks_against_it(checked, quantity, finding, begins):
    """A step between that was right, another quantity, and a distance within its limit do."""

    def error(step):
        found = {"error_u": 1e6} if step == 10 else {}
        return DeviceError(
            step, "param_grad", TENSORS[0], **{"error_u": 1.0} | found, baseline_error_u=1.0, credited_u=1.0,
            explained_u=1.0, baseline_whole_error_u=1.0, whole_error_u=math.inf, whole_credited_u=1.0, repeated=None,
            rounding=None, unit=2.0**-24,
        )  # fmt: skip

    errors = tuple(map(error, checked))
    audit = DeviceAudit(errors, line=8.0, worst=errors[-1], first=errors[-1], unrepeated=None)
    parting = Parting(4, quantity, TENSORS[0], 1e-4, 3e-5, finding)
    onset, why = find_onset(compared(), None, audit, evidence=(parting,))
    assert onset.step == begins
    assert ("is the first since that was checked" in why) == (begins == 4)


def other_activation(step, model):
    """From step 10 on, which a recording repeats in float64."""
    if step >= 10:
        model[1].approximate = "tanh"


def test_a_fault_that_begins_in_a_step_that_both_checked_is_found_there(tmp_path):
    """Each is as near to its own step in float64 as it can be, and these two steps are of two functions."""
    pair = ask(tmp_path, {"steps": 20}, {"steps": 20, "before": other_activation})
    assert (pair.verdict, pair.onset.step, pair.onset.quantity) == ("diverged", 10, "output")
    (both,) = re.findall(r"the output is (\S+) % away .* taken in float64, the two steps are (\S+) % apart", pair.cause)
    assert float(both[0]) == pytest.approx(float(both[1]), rel=0.9)
    # A reader is shown how far the two are apart, and not that each is as near to float64 as it can be.
    size = pair.onset_size
    assert (size.reference, size.explained) == ("baseline", pytest.approx(256 * 2.0**-24))
    assert 100 * size.off == pytest.approx(float(both[0]), rel=0.05)


def test_a_parting_beyond_its_line_is_right_where_the_steps_in_float64_are_equal():
    comparison = compared(differs={"output": 4}, distances={"output": {4: 0.5 * lines.FAR.value}})
    asked = []

    def in_float64(*place):
        asked.append(place)
        return 0.0

    assert find_parting(comparison, in_float64).finding == "unknown"
    assert find_parting(comparison, lambda *_: lines.FAR.value).finding == "beyond"
    assert asked == [(4, "output")]


def scaled_gradient(step, model):
    """From step 6 on, 2.weight has 1.0003 times its gradient; in float64 it has its own."""
    if step == 6:
        model[2].weight.register_hook(lambda gradient: gradient * 1.0003)


def test_a_fault_begins_where_the_runs_parted_if_the_next_checked_step_has_it(tmp_path):
    pair = ask(tmp_path, {"steps": 20}, {"steps": 20, "before": scaled_gradient})
    assert (pair.verdict, pair.onset.step) == ("diverged", 6)
    assert (pair.onset.quantity, pair.onset.tensor) == ("param_grad", "2.weight")
    far = r"the gradient of 2.weight is 0.0\d+ % away from the baseline's; rounding explains 0.0\d+ %; "
    assert re.search(f"{far}step 10 is the first since that was checked against float64$", pair.cause)
