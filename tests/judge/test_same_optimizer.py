"""Whether two optimizers are the same function, from what each made of the same gradients in float64."""

from dataclasses import replace

import pytest
from synthetic_runs import TENSORS, make_run

from parity.judge.same_optimizer import compare_optimizers
from parity.store.trace import SKETCH_SUMS

# What the baseline's optimizer adds has a length of 1 in each tensor, 4 in all.
WHOLE = 4.0


def record(*, apart=0.0, tensor=4, **changes):
    """A trial whose optimizer adds to a tensor what is off by APART, as a share of all that the baseline's adds."""
    sketches = [0.0] * (len(TENSORS) * SKETCH_SUMS)
    sketches[tensor * SKETCH_SUMS] = apart * WHOLE
    asked = {"optimizer_norms": [1.0] * len(TENSORS), "optimizer_sketches": sketches, "optimizer_inexact": 0.0}
    return replace(make_run(steps=1).trials[0], **{**asked, **changes})


@pytest.mark.parametrize("apart", [0.0, 1e-12])
def test_optimizers_that_add_the_same_are_the_same_function(apart):
    found = compare_optimizers(record(), record(apart=apart))
    assert found.known and found.other is None


@pytest.mark.parametrize(("apart", "certain"), [(1e-9, False), (1e-8, False), (1e-7, True), (1e-2, True)])
def test_optimizers_that_add_something_else_are_not(apart, certain):
    found = compare_optimizers(record(), record(apart=apart))
    assert found.known
    assert (found.other.quantity, found.other.tensor, found.other.asked) == ("update", TENSORS[4], True)
    assert found.other.certain is certain
    assert f"differs most at {TENSORS[4]}, by {apart:.3g} of the whole" in found.other.why
    assert ("rounds to float32 explains as well" in found.other.why) is not certain


def test_what_is_not_finite_is_another_function_and_not_certain():
    found = compare_optimizers(record(), record(apart=float("nan"), tensor=2))
    assert (found.other.tensor, found.other.certain) == (TENSORS[2], False)


def test_what_an_optimizer_rounds_by_itself_explains_as_much():
    inexact = {"optimizer_inexact": 1e-3 * WHOLE}
    assert compare_optimizers(record(**inexact), record(apart=7e-3)).other is None
    assert compare_optimizers(record(), record(apart=7e-3, **inexact)).other is None
    assert compare_optimizers(record(**inexact), record(apart=9e-3)).other.certain


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer_sketches": None},
        {"optimizer_sketches": [0.0] * SKETCH_SUMS},
        {"initial_digests": None},
        {"initial_digests": [8, *[7] * (len(TENSORS) - 1)]},
        {"first_step": 10},
        {"param_names": ["other", *TENSORS[1:]], "param_shapes": ["9"] * len(TENSORS)},
    ],
)
def test_of_optimizers_that_were_not_asked_the_same_nothing_is_known(changes):
    for pair in ((record(), record(apart=1e-2, **changes)), (record(**changes), record(apart=1e-2))):
        found = compare_optimizers(*pair)
        assert not found.known and found.other is None


def test_a_baseline_that_adds_nothing_says_nothing():
    """Its rate begins at 0."""
    nothing = {"optimizer_norms": [0.0] * len(TENSORS)}
    assert not compare_optimizers(record(**nothing), record(apart=1e-2, **nothing)).known
