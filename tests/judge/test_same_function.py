"""Whether two runs compute the same function, on rows made by hand."""

import math

import numpy as np
import pytest

from parity.judge.same_function import compare_functions, distance_in_float64, paired
from parity.observe.sketch import norms_and_sketches

NAMES = {"output": [None], "loss": [None], "output_grad": [None], "param_grad": ["a", "b"], "update": ["a", "b"]}


def rows(change=None, *, by=0.0, tensor=None, names=None, sketches=True, scale=None):
    """A first step in float64; one tensor of the quantity `change` moved by this share of itself."""
    found = {}
    generator = np.random.default_rng(0)
    for quantity, tensors in NAMES.items():
        for index, name in enumerate(tensors):
            value = generator.standard_normal(500) * ((scale or {}).get((quantity, name), 1.0))
            moved = np.random.default_rng(9).standard_normal(500)
            if quantity == change and name == tensor:
                value = value + by * np.linalg.norm(value) / np.linalg.norm(moved) * moved
            norms, sums = norms_and_sketches([value])
            called = names[index] if names and name else name
            found[0, quantity, called] = {
                "step": 0, "quantity": quantity, "tensor": called, "exact_norm": float(norms[0]),
                "exact_sketch": sums[0].tolist() if sketches else None,
            }  # fmt: skip
    return found


def other(*sides, equal_start=True):
    return compare_functions(*sides, equal_start=equal_start).other


def reaching(quantity, by, tensor=None):
    """Rows that differ in a quantity, and in the gradient of the parameters where outputs differ."""
    found = rows(quantity, by=by, tensor=tensor)
    if quantity in ("output", "output_grad"):
        gradients = rows("param_grad", by=by, tensor="b")
        found |= {place: row for place, row in gradients.items() if place[1] == "param_grad"}
    return found


def test_equal_steps_are_of_the_same_function():
    found = compare_functions(rows(), rows(), equal_start=True)
    assert found.other is None
    assert found.same == {"output", "loss", "output_grad", "param_grad", "update"}


@pytest.mark.parametrize(("quantity", "tensor"), [("output", None), ("param_grad", "b"), ("update", "a")])
@pytest.mark.parametrize(("by", "seen", "certain"), [
    (1e-12, False, False), (1e-8, True, False), (1e-6, True, True), (1e-2, True, True),
])  # fmt: skip
def test_a_difference_is_seen_where_it_is(quantity, tensor, by, seen, certain):
    found = other(rows(), reaching(quantity, by, tensor))
    assert (found is not None) == seen
    if found:
        assert (found.quantity, found.tensor, found.certain) == (quantity, tensor, certain)
        assert "taken in float64 from the same parameters" in found.why


@pytest.mark.parametrize("quantity", ["loss", "output_grad"])
def test_other_criteria_are_no_other_training(quantity):
    found = other(rows(), reaching(quantity, 1e-2))
    assert found.why.endswith("their criteria differ") and not found.certain


@pytest.mark.parametrize("quantity", ["output", "output_grad"])
def test_outputs_that_reach_neither_loss_nor_gradient_make_no_other_function(quantity):
    found = compare_functions(rows(), rows(quantity, by=0.5), equal_start=True)
    assert found.other is None and found.shows("param_grad") and not found.shows(quantity)


def test_parameters_that_differ_in_their_last_bits_decide_nothing_for_certain():
    assert other(rows(), reaching("output", 1e-6), equal_start=False) is None
    found = other(rows(scale={}), rows(scale={("output", None): 1.001}), equal_start=False)
    assert found.quantity == "output" and not found.certain


def test_rows_without_sketches_are_compared_by_their_norms():
    found = compare_functions(rows(sketches=False), rows("output", by=1e-3, sketches=False), equal_start=True)
    assert not found.same
    assert found.other is None or not found.other.certain


def test_an_update_of_a_gradient_that_is_zero_but_for_rounding_is_any():
    zero = {("param_grad", "b"): 1e-17}
    assert other(rows(scale=zero), rows("update", by=2.0, tensor="b", scale=zero)) is None
    assert other(rows(), rows("update", by=2.0, tensor="b")).tensor == "b"


def test_a_small_tensor_is_seen_beside_the_whole():
    small = {("param_grad", "b"): 1e-3}
    assert other(rows(scale=small), rows("param_grad", by=1e-2, tensor="b", scale=small)).tensor == "b"


def test_a_missing_gradient_is_a_difference_and_a_missing_update_is_none():
    lacking = rows()
    lacking[0, "param_grad", "b"] |= {"exact_norm": math.nan, "exact_sketch": None}
    assert other(rows(), lacking).tensor == "b"
    assert other(lacking, lacking) is None
    clipped = rows()
    for name in "ab":
        clipped[0, "update", name] |= {"exact_norm": math.nan, "exact_sketch": None}
    found = compare_functions(rows(), clipped, equal_start=True)
    assert found.other is None and not found.shows("update")


def test_a_gradient_that_one_side_lacks_and_neither_uses_is_none():
    """Frozen by requires_grad on one side, left to no optimizer on the other."""
    still = {("update", "b"): 0.0}
    lacking = rows(scale=still)
    lacking[0, "param_grad", "b"] |= {"exact_norm": math.nan, "exact_sketch": None}
    assert other(rows(scale=still), lacking) is None
    assert other(rows(), lacking).tensor == "b"


def test_tensors_of_other_names_are_paired_in_their_order():
    port = rows("param_grad", by=1e-2, tensor="b", names=["c", "d"])
    assert other(rows(), rows(names=["c", "d"])) is None
    assert other(rows(), port).tensor == "d"
    assert [one["tensor"] for one, _ in paired(rows(), rows(names=["b", "a"])) if one["tensor"]] == list("baba")


@pytest.mark.parametrize(("by", "seen"), [(3e-7, False), (3e-6, True)])
@pytest.mark.parametrize("side", [0, 1])
def test_models_that_compute_in_float32_themselves_are_held_to_its_rounding(by, seen, side):
    sides = [rows(), reaching("output", by)]
    for row in sides[side].values():
        row["exact_error"] = 1e-7 * row["exact_norm"]
    found = compare_functions(*sides, equal_start=True)
    assert ("output" in found.same) != seen
    if seen:
        assert found.other.why.endswith(
            "of the whole output (rounding explains 8e-07, since they compute partly in a dtype narrower than float64 "
            "themselves)"
        )


def with_errors(found, *, error_u=1.0, unit=2.0**-24, exact_error=None):
    """The same rows with how far the run itself was from them."""
    own = {"error_u": error_u, "unit": unit, "exact_error": exact_error}
    return {place: row | own for place, row in found.items()}


@pytest.mark.parametrize(("quantity", "tensor", "share"), [("output", None, 1), ("param_grad", "b", math.sqrt(0.5))])
def test_the_distance_in_float64_is_that_of_the_two_functions(quantity, tensor, share):
    """A gradient of a parameter counts beside all gradients: here two of the same length."""
    sides = with_errors(rows()), with_errors(rows(quantity, by=1e-3, tensor=tensor))
    found = distance_in_float64(*sides, step=0, quantity=quantity)
    assert found == pytest.approx(1e-3 * share, rel=0.7)
    # Neither another quantity nor another step.
    assert distance_in_float64(*sides, step=0, quantity="loss") == 0
    assert distance_in_float64(*sides, step=1, quantity=quantity) == 0


@pytest.mark.parametrize(
    "known",
    [
        {"error_u": 1e-3 * 2**24},
        {"error_u": math.nan},
        {"unit": None},
        {"exact_error": 1.0},
    ],
)
def test_a_step_that_is_not_the_one_that_was_taken_shows_no_distance(known):
    sides = with_errors(rows()), with_errors(rows("output", by=1e-3), **known)
    assert distance_in_float64(*sides, step=0, quantity="output") == 0


def test_a_distance_in_float64_needs_sketches():
    sides = with_errors(rows(sketches=False)), with_errors(rows("output", by=1e-3))
    assert distance_in_float64(*sides, step=0, quantity="output") == 0
