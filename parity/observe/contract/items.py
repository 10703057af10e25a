"""The items of the loss contract: a small function each, on a loss that may be anyone's.

Shapes: R rows; the output is dtype[R, ...] and contiguous, or a tree; `u` is the unit roundoff of its dtype.
"""

from __future__ import annotations

import math

import torch

from parity.observe.contract.calls import Check
from parity.observe.contract.effects import check_mutation, check_random_generators, check_repeatable, check_two_calls
from parity.observe.contract.inputs import (
    check_broadcast,
    check_float64,
    check_narrow,
    check_non_contiguous,
    check_nonfinite,
    check_one_row,
    check_transposed,
)
from parity.observe.contract.results import (
    check_dtype_and_device,
    check_grad_output,
    check_gradcheck,
    check_gradient,
    check_scalar,
    check_second_derivative,
    check_target_gradient,
    check_value,
)

# In the order of the report. An item whose outcome would follow from an earlier failure names it under `needs`, so that
# one fault fails one item.
CHECKS: dict[str, Check] = {
    "scalar": Check(check_scalar),
    "dtype and device": Check(check_dtype_and_device, ("scalar",)),
    "gradient": Check(check_gradient, ("scalar",)),
    "repeatable": Check(check_repeatable, ("gradient",)),
    "value": Check(check_value, ("dtype and device", "gradient")),
    "grad_output": Check(check_grad_output, ("repeatable",)),
    "mutation": Check(check_mutation, ("scalar",)),
    "random generators": Check(check_random_generators, ("scalar",)),
    "non-contiguous": Check(check_non_contiguous, ("repeatable",)),
    "transposed": Check(check_transposed, ("repeatable",)),
    "one row": Check(check_one_row, ("value",)),
    "float64": Check(check_float64, ("value",), when_raised="limited"),
    # It does not need "value": of a wrong loss it shows whether the gradient is at least the slope of that loss.
    "gradcheck": Check(check_gradcheck, ("grad_output",), "float64", when_raised="limited"),
    # 2**10 is a usual size of loss scaling; bfloat16 has the range of float32 and needs none.
    "float16": Check(check_narrow(torch.float16, 2.0**10), ("value", "grad_output"), when_raised="limited"),
    "bfloat16": Check(check_narrow(torch.bfloat16, 1.0), ("value",), when_raised="limited"),
    "broadcast": Check(check_broadcast, ("value",), when_raised="limited", when_broken="limited"),
    "NaN": Check(check_nonfinite(math.nan), ("gradient",)),
    "inf": Check(check_nonfinite(math.inf), ("gradient",)),
    "target gradient": Check(check_target_gradient, ("value",)),
    "two calls before backward": Check(check_two_calls, ("repeatable",)),
    "second derivative": Check(check_second_derivative, ("value",), when_raised="limited", when_broken="limited"),
}
