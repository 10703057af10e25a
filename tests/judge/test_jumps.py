"""Jumps: a late fault in traces that have parted by rounding is found where it is planted, and rounding is not."""

import numpy as np
import pytest
from synthetic_runs import BUFFERS, NEAR, ROUNDING, TENSORS, Planted, make_run, with_column

from parity.judge import judge
from parity.judge.jumps import find_jump
from parity.plan import lines

EVERYWHERE = {"output": 2, "buffer": 2, **ROUNDING}


def jump(*, same=(), **planted):
    """The jump of a pair; what is in columns `same` is the same in steps 30 to 32."""
    run = make_run(Planted(differs=EVERYWHERE, **planted), steps=60)
    for name in same:
        for number in range(2):
            run = with_column(run, number, name, lambda values: [*values[:30], *[values[30]] * 3, *values[33:]])
    (pair,) = judge(run).pairs
    return find_jump(pair.comparison, after=2, parted="output")


def test_rounding_does_not_jump():
    assert jump() is None


@pytest.mark.parametrize("quantity", ["output", "output_grad", "param_grad", "step_grad", "update", "buffer"])
def test_rounding_that_grows_does_not_jump(quantity):
    growing = {step: NEAR * 1.4 ** (step - 2) for step in range(2, 40)}
    assert max(growing.values()) > 0.01
    assert jump(distances={quantity: growing}) is None


@pytest.mark.parametrize("step", [3, 30, 56])
@pytest.mark.parametrize(
    ("quantity", "tensor"),
    [
        ("output", None),
        ("output_grad", None),
        ("param_grad", TENSORS[4]),
        ("update", TENSORS[4]),
        ("buffer", BUFFERS[0]),
    ],
)
def test_a_late_fault_is_found_where_it_is_planted(quantity, tensor, step):
    found = jump(distances={quantity: {2: NEAR, step: 0.9}}, tensors=(4,))
    assert (found.index, found.quantity, found.certain) == (step, quantity, True)
    # One tensor of 16 that is 0.9 off is 0.2 of all of them together.
    assert found.tensor in (tensor, None)
    assert "is suddenly" in found.explain() and "rounding does not grow so fast" in found.explain()


def test_one_tensor_among_many_is_found_and_named():
    far = 0.09
    found = jump(distances={"update": {2: NEAR, 30: far}}, tensors=(4,))
    assert found.index == 30
    assert found.distance == pytest.approx(far / np.sqrt(len(TENSORS)), rel=1e-5)


@pytest.mark.parametrize(("until", "found_at"), [(34, 30), (33, 30), (32, None)])
def test_a_lesser_jump_of_the_gradient_counts_where_it_stays(until, found_at):
    """A kink at step 25 has moved the gradient of one step: half of a layer's gradient is but 15 times as far."""
    far = {2: NEAR, 25: 0.01, 26: NEAR, 30: 0.15, until: NEAR}
    found = jump(distances={"param_grad": far})
    assert (found and (found.index, found.certain)) == (found_at and (found_at, True))


def test_a_jump_that_passes_may_be_a_kink():
    found = jump(distances={"param_grad": {2: NEAR, 30: 0.5, 31: NEAR}})
    assert (found.index, found.certain) == (30, False)


ONE_BATCH = ("input_digest", "generator_digests")


@pytest.mark.parametrize(("far", "found"), [(0.5, (30, False)), (0.15, None)])
def test_what_stays_while_one_batch_is_repeated_may_be_a_kink(far, found):
    """One side has met it in each of these steps; 15 times as far as before counts only where it stays."""
    distances = {"param_grad": {2: NEAR, 25: 0.01, 26: NEAR, 30: far}}
    repeated = jump(distances=distances, same=ONE_BATCH)
    assert (repeated and (repeated.index, repeated.certain)) == found
    # Where the model draws other numbers, as dropout does, it is not the same step again.
    drawn = jump(distances=distances, same=ONE_BATCH[:1])
    assert (drawn.index, drawn.certain) == (30, True)


def test_a_length_that_is_off_while_one_batch_is_repeated_may_be_a_kink():
    planted = {"distances": {"param_grad": DRIFTED | {30: 0.4}}, "lengths": {"param_grad": {7: 0.99, 30: 0.5}}}
    for same, certain in ((ONE_BATCH, False), ((), True)):
        found = jump(same=same, **planted)
        assert (found.index, found.of_length, found.certain) == (30, True, certain)


def test_at_the_end_no_jump_of_a_gradient_has_stayed():
    assert not jump(distances={"param_grad": {2: NEAR, 59: 0.5}}).certain
    assert jump(distances={"update": {2: NEAR, 59: 0.5}}).certain


@pytest.mark.parametrize(
    ("quantity", "line"),
    [("output", lines.JUMP_FLOOR), ("update", lines.JUMP_UPDATE), ("param_grad", lines.JUMP_GRADIENT)],
)
def test_a_distance_below_the_floor_is_not_looked_at(quantity, line):
    assert jump(distances={quantity: {2: NEAR, 30: 0.9 * line.value}}) is None
    assert jump(distances={quantity: {2: NEAR, 30: 1.1 * line.value}}).index == 30


def test_updates_of_gradients_that_have_drifted_apart_have_a_higher_floor():
    drifted = {"param_grad": {2: 2 * lines.QUIET.value}}
    assert jump(distances={**drifted, "update": {2: NEAR, 30: 2 * lines.JUMP_UPDATE.value}}) is None
    assert jump(distances={**drifted, "update": {2: NEAR, 30: 0.9}}).index == 30


def test_buffers_of_trainings_that_have_drifted_apart_have_a_higher_floor():
    below, beyond = ({2: NEAR, 30: factor * lines.JUMP_BUFFER.value} for factor in (1, 2))
    assert jump(distances={"buffer": below}) is None
    # Of two buffers one counts the batches, which has no distance.
    assert jump(distances={"buffer": beyond}).index == 30
    assert jump(distances={"param_grad": {2: 2 * lines.QUIET.value}, "buffer": beyond}) is None
    assert jump(distances={"param_grad": {2: 2 * lines.QUIET.value}, "buffer": {2: NEAR, 30: 0.9}}).index == 30


@pytest.mark.parametrize("moved", [30, 29])
def test_buffers_follow_from_the_updates_of_their_step_and_the_one_before(moved):
    """Noise in a faint gradient has turned a step of Adam, and the average of the parameters has that step in it."""
    turned = {2: NEAR, moved: 9e-4, moved + 1: NEAR}
    far = {2: NEAR, 30: 1e-3, 31: NEAR}
    assert jump(distances={"update": turned, "buffer": far}) is None
    found = jump(distances={"buffer": far})
    assert (found.index, found.quantity, found.furthest) == (30, "buffer", BUFFERS[0])
    assert f"buffer (most in {BUFFERS[0]}) is suddenly 0.071 % away" in found.explain()


def test_an_update_follows_from_its_gradient():
    """An update that is as far off as its gradient has no fault of its own."""
    kink = {2: NEAR, 30: 0.01, 31: NEAR}
    assert jump(distances={"param_grad": kink, "update": kink}) is None


def test_the_first_of_several_jumps_is_found():
    found = jump(distances={"update": {2: NEAR, 30: 0.5}, "output": {2: NEAR, 31: 0.5}})
    assert (found.index, found.quantity) == (30, "update")


@pytest.mark.parametrize("quantity", ["output", "output_grad"])
def test_what_reaches_nothing_does_not_jump(quantity):
    """The first batch with padded words is at step 30."""
    assert jump(distances={quantity: {2: NEAR, 30: 0.9}, "param_grad": {2: NEAR, 30: 1.9 * NEAR}}) is None
    assert jump(distances={quantity: {2: NEAR, 30: 0.9}, "param_grad": {2: 1e-4, 30: 3e-4}}).quantity == quantity


def test_of_one_step_the_quantity_that_is_computed_first_is_found():
    found = jump(distances={"update": {2: NEAR, 30: 0.5}, "output": {2: NEAR, 30: 0.5}})
    assert (found.index, found.quantity) == (30, "output")


def test_a_setting_that_changes_late_is_the_cause():
    found = jump(settings={30: {"lr": 1.1e-3}}, distances={"update": {2: NEAR, 30: 0.1}})
    assert (found.index, found.quantity, found.certain) == (30, "state", True)
    assert found.explain() == "the states from which the step is taken differ: learning rate: 0.001 and 0.0011"


def test_a_setting_of_parameters_that_nobody_moves_is_no_cause():
    """A schedule changes the rate of a frozen group on one side."""
    frozen = [0.0] * len(TENSORS)
    run = make_run(Planted(differs=EVERYWHERE, settings={30: {"lr": 1.1e-3}}, distances={"update": {2: 0.0}}), steps=60)
    for number in (0, 1):
        run = with_column(run, number, "update_norms", lambda rows: [frozen for _ in rows])
    (pair,) = judge(run).pairs
    assert find_jump(pair.comparison, after=2, parted="output") is None


def test_a_setting_from_the_first_step_on_takes_the_place_of_no_later_jump():
    """One loop decays by hand, which is right; half of the update is missing later."""
    found = jump(settings={0: {"weight_decay": 0.1}}, distances={"update": {2: NEAR, 30: 0.5}})
    assert (found.index, found.quantity) == (30, "update")
    assert jump(settings={0: {"weight_decay": 0.1}}).quantity == "state"


def test_a_jump_before_the_setting_is_a_jump():
    found = jump(settings={40: {"lr": 1.1e-3}}, distances={"update": {2: NEAR, 30: 0.5}})
    assert (found.index, found.quantity) == (30, "update")


def test_the_step_at_which_they_part_is_judged_by_itself():
    assert jump(distances={"update": {2: 0.5}}) is None


def test_a_candidate_that_jumps_is_diverged_and_one_that_jumps_for_a_step_is_not_rounding():
    for distances, verdict in (
        ({"update": {2: NEAR, 30: 0.5}}, "diverged"),
        ({"param_grad": {2: NEAR, 30: 0.5, 31: NEAR}}, "inconclusive"),
    ):
        (pair,) = judge(make_run(Planted(differs=ROUNDING, distances=distances), steps=60)).pairs
        assert pair.verdict == verdict
        assert (pair.onset.step if pair.onset else 30) == 30
        assert "is suddenly 50 % away from the baseline's" in pair.cause


@pytest.mark.parametrize(("far", "found_at"), [(1.6, 2), (0.9, None)])
def test_in_the_step_of_the_parting_the_update_may_be_off_up_to_a_point(far, found_at):
    found = jump(distances={"update": {2: far, 3: NEAR}})
    assert (found and (found.index, found.quantity, found.parting)) == (found_at and (found_at, "update", True))


@pytest.mark.parametrize("far", [0.03, 1e-4])
def test_in_the_step_of_the_parting_the_optimizers_gradient_is_near_that_of_backward(far):
    """Another clipping from the first step on: every later step is as far off, and none is a jump."""
    found = jump(distances={"step_grad": {2: far}})
    assert (found.index, found.quantity, found.parting) == (2, "step_grad", True)
    assert (
        "in the step in which the two diverge, and nothing that was computed before it in that step explains this"
        in found.explain()
    )
    assert jump(distances={"param_grad": {2: far / 2, 3: NEAR}, "step_grad": {2: far, 3: NEAR}}) is None or far > 3e-3


def test_a_gradient_of_equal_outputs_has_no_kink_to_meet():
    planted = {"distances": {"param_grad": {2: 0.02}}}
    (pair,) = judge(make_run(Planted(differs=ROUNDING, **planted), steps=60)).pairs
    assert find_jump(pair.comparison, after=2, parted="output_grad").quantity == "param_grad"
    assert find_jump(pair.comparison, after=2, parted="output") is None


@pytest.mark.parametrize(("far", "moved", "found_at"), [(0.01, NEAR, 2), (0.01, 0.02, None), (1e-6, NEAR, None)])
def test_in_the_step_of_the_parting_a_buffer_is_off_by_no_more_than_the_update(far, moved, found_at):
    found = jump(distances={"buffer": {2: far}, "update": {2: moved, 3: NEAR}})
    assert (found and (found.index, found.quantity, found.parting)) == (found_at and (2, "buffer", True))


@pytest.mark.parametrize(("until", "found_at"), [(31, None), (33, 30)])
def test_a_faint_jump_of_the_update_counts_where_it_stays(until, found_at):
    found = jump(distances={"update": {2: NEAR, 30: 0.002, until: NEAR}})
    assert (found and found.index) == found_at


def test_a_fault_does_not_hide_in_the_gradient_that_it_moves():
    """A tensor whose gradient is beyond the line of noise only in the step of the fault is no noise."""
    moved = {2: NEAR, 30: 0.02}
    found = jump(distances={"param_grad": moved, "step_grad": moved, "update": {2: NEAR, 30: 0.9}}, tensors=(4,))
    assert (found.index, found.quantity) == (30, "update")


def with_a_faint_gradient(run):
    """The run whose baseline has a gradient of 1e-6 in tensor 4."""

    def faint(rows):
        return [[1e-6 if number == 4 else norm for number, norm in enumerate(row)] for row in rows]

    return with_column(run, 0, "param_grad_norms", faint)


@pytest.mark.parametrize(("far", "found_at"), [(0.3, None), (0.55, 30)])
def test_a_unit_that_wakes_up_a_step_early_is_no_jump_of_its_update(far, found_at):
    """Tensor 0 has drifted apart, all updates by 0.03; Adam makes a whole step of a first gradient, however small."""

    def drift(rows):
        return [[0.12, *row[1:]] if step >= 2 else row for step, row in enumerate(rows)]

    planted = Planted(differs=EVERYWHERE, distances={"update": {2: NEAR, 30: far}}, tensors=(4,))
    (pair,) = judge(with_column(make_run(planted, steps=60), 1, "update_sketches", drift)).pairs
    assert pair.comparison.distances("update").whole[29] == pytest.approx(0.03)
    found = find_jump(pair.comparison, after=2, parted="output")
    assert (found and found.index) == found_at


def update_jump(noisy, update, *, faint):
    """The jump of a run of whose tensor 4 the gradient differs by NOISY, and the update by UPDATE."""
    size = 1e-6 if faint else 1.0
    gradient = {step: distance * size for step, distance in noisy.items()}
    planted = Planted(differs=EVERYWHERE, distances={"param_grad": gradient, "update": update}, tensors=(4,))
    run = make_run(planted, steps=60)
    (pair,) = judge(with_a_faint_gradient(run) if faint else run).pairs
    return find_jump(pair.comparison, after=2, parted="output")


@pytest.mark.parametrize("noisy", [{2: 0.02}, {29: 0.02}, {2: 0.02, 25: NEAR}])
def test_the_update_from_a_gradient_that_has_been_noise_is_no_jump(noisy):
    """It is faint beside the other gradients, and 0.02 from its counterpart."""
    update = {2: NEAR, 30: 0.9}
    assert update_jump(noisy, update, faint=True) is None
    found = update_jump(noisy, update, faint=False)
    assert (found.index, found.quantity) == (30, "update")


def test_updates_from_noise_are_what_later_ones_are_compared_with():
    """A gradient that has ceased to be noise has moved its parameter before, and as far."""
    noisy = {2: 0.02, 10: NEAR}
    assert update_jump(noisy, {2: 0.3}, faint=True) is None


@pytest.mark.parametrize(
    ("planted", "explained"),
    [
        ({"modes": {30: {"evaluating": ["1"]}}}, "modules in evaluation mode: none and 1"),
        (
            {"counts": {30: [len(TENSORS), 0, 0]}},
            "optimizer's state: of 16 parameters after 30 steps and of 16 parameters",
        ),
    ],
)
def test_modes_and_counters_that_change_late_are_the_cause(planted, explained):
    """They belong to no parameters of which one could ask whether anybody moves them."""
    found = jump(**planted)
    assert (found.index, found.quantity, found.certain) == (30, "state", True)
    assert explained in found.explain()


def test_a_tensor_that_has_drifted_apart_is_no_noise():
    drifted = {2: NEAR, 10: 0.02}
    found = jump(distances={"param_grad": drifted, "step_grad": drifted, "update": {2: NEAR, 30: 0.9}}, tensors=(4,))
    assert (found.index, found.quantity) == (30, "update")


# Slowly, up to 0.17 at step 12.
DRIFTED = {2 + number: NEAR * 4.2**number for number in range(11)}


@pytest.mark.parametrize(("until", "found_at"), [(33, 30), (32, None)])
def test_a_gradient_cut_in_half_shows_in_its_length_where_distances_are_large(until, found_at):
    """It is but twice as far off as gradients that have drifted apart."""
    far = DRIFTED | {30: 0.4}
    found = jump(distances={"param_grad": far}, lengths={"param_grad": {7: 0.99, 30: 0.5, until: 1.0}})
    assert (found and (found.index, found.quantity)) == (found_at and (30, "param_grad"))
    if found:
        assert "the length of param_grad suddenly differs by 50 %, after 1 % at most" in found.explain()


def test_a_weight_that_somebody_changed_shows_in_the_length_of_the_update():
    far = DRIFTED | {30: 5.0, 31: 0.17}
    found = jump(distances={"update": far}, lengths={"update": {7: 1.01, 30: 5.0, 31: 1.01}}, tensors=(4,))
    assert (found.index, found.quantity, found.of_length) == (30, "update", True)


@pytest.mark.parametrize("lengths", [{7: 0.9, 30: 0.5}, {30: 0.95}, {15: 0.5}])
def test_lengths_that_have_been_off_or_are_off_by_little_or_early_are_no_jump(lengths):
    assert jump(distances={"param_grad": DRIFTED}, lengths={"param_grad": lengths}) is None
