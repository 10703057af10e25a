"""Errors of a step beside float64: in u of each tensor's own dtype, beside the tensor and beside the whole."""

import math

import numpy as np
import pytest
import torch

from parity.observe.float64_step import TensorError, relative_errors, spread_of, step_errors, strange
from parity.observe.taken_step import TakenStep, unit_roundoff


def taken(**tensors):
    step = TakenStep({}, {})
    for quantity, each in tensors.items():
        step.keep(quantity, each)
    return step


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.float16, 11), (torch.bfloat16, 8), (torch.float32, 24), (torch.float64, 53)]
)
def test_errors_are_in_u_of_the_tensors_own_dtype(dtype, bits):
    assert unit_roundoff(dtype) == 2.0**-bits
    step = taken(output=[torch.ones(4, dtype=dtype)])
    exact = np.full(4, 1 + 2 * 2.0**-bits)
    (error,) = relative_errors(step, {"output": [exact]})["output"]
    assert error.own == pytest.approx(2, rel=0.02)


def test_a_gradient_that_is_zero_but_for_rounding_is_near_beside_the_whole():
    step = taken(param_grad=[torch.full((4,), 1.0), torch.full((1,), 1e-8)])
    exact = [np.full(4, 1.0), np.full(1, 1e-17)]
    weight, bias = relative_errors(step, {"param_grad": exact})["param_grad"]
    assert weight.own == weight.whole == 0
    assert bias.own > 1e15
    assert bias.whole == pytest.approx(1e-8 / 2 * 2**24, rel=1e-3)


def test_missing_tensors():
    step = taken(param_grad=[None, torch.ones(2), None])
    errors = relative_errors(step, {"param_grad": [None, np.ones(2), np.ones(1)]})["param_grad"]
    assert [error.own for error in errors] == [0, 0, math.inf]
    # A parameter that the loss does not depend on has no gradient, or zeros.
    step = taken(param_grad=[None, torch.zeros(2), torch.ones(2)])
    errors = relative_errors(step, {"param_grad": [np.zeros(2), None, None]})["param_grad"]
    assert [error.own for error in errors] == [0, 0, math.inf]
    with pytest.raises(ValueError, match="shape"):
        relative_errors(taken(output=[torch.ones(2)]), {"output": [np.ones((1, 2))]})


@pytest.mark.parametrize(("dtype", "error", "same"), [
    (torch.float32, 4e-3, True), (torch.float32, 1e-2, False),
    (torch.bfloat16, 0.05, True), (torch.bfloat16, 0.5, False),
])  # fmt: skip
def test_another_step_is_seen_at_its_output(dtype, error, same):
    step = taken(output=[torch.ones(4, dtype=dtype)])
    errors = relative_errors(step, {"output": [np.full(4, 1 + error)]})
    assert (strange(errors, step.units) is None) == same


@pytest.mark.parametrize(("error", "calls"), [(5.0, 2), (1e9, 6)])
def test_the_spread_is_measured_until_it_explains_the_error(error, calls):
    exact = {"output": [np.ones(3)], "param_grad": [np.ones(2)]}
    step = taken(output=[torch.full((3,), 1 + error * 2.0**-24, dtype=torch.float64)], param_grad=[torch.ones(2)])
    units = {"output": [2.0**-24], "param_grad": [2.0**-24]}
    seen = []

    def take(within):
        seen.append(within)
        with within:
            return {name: [(torch.ones(len(each[0]), dtype=torch.float64) * 1).numpy()] for name, each in exact.items()}

    errors = relative_errors(TakenStep(step.values, units), exact)
    spread = spread_of(take, exact, units=units, errors=errors)
    assert len(seen) == calls
    assert 0.5 < spread["output"][0] < 3


@pytest.mark.parametrize(
    ("off", "measured"), [("output_grad", True), ("param_grad", True), ("update", False), ("param", False)]
)
def test_rounded_steps_are_taken_where_a_tensor_that_has_a_spread_is_off(off, measured):
    errors = {quantity: [TensorError(7.0, 7.0)] for quantity in ("output", "output_grad", "param_grad")}
    errors |= {"update": [TensorError(40.0, 40.0)], "param": [TensorError(40.0, 40.0)]}
    errors[off] = [TensorError(90.0, 90.0)]
    exact = {quantity: [np.ones(2)] for quantity in errors}
    seen = []

    def take(within):
        seen.append(within)
        return {quantity: [each[0] * (1 + 2.0**-20)] for quantity, each in exact.items()}

    rows = step_errors(
        3,
        {quantity: ["only"] for quantity in errors},
        errors=errors,
        units={quantity: [2.0**-24] for quantity in errors},
        exact=exact,
        take=take,
    )
    assert [row.error_u for row in rows] == [each[0].own for each in errors.values()]
    known = {row.quantity for row in rows if row.spread_u is not None}
    assert known == ({"output", "output_grad", "param_grad"} if measured else set())
    assert bool(seen) == measured
