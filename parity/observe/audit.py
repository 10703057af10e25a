"""The audit: how far a loss and its output gradient are from the baseline's loss in float64, the oracle.

Oracle and candidate see the same output and target, so nothing that happened before the step matters. It all runs on
the CPU: a device that computes wrongly cannot vouch for itself, and not every device has float64.

Shapes: the output is dtype[...], of any shape; `u` is the unit roundoff of its dtype (2**-24 for float32).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from parity.ground.errors import OracleUnavailable
from parity.plan.user_code import CodeSpec
from parity.tasks import Task
from parity.tasks.losses import Loss, load_loss, mse_float64

# (output, target), both on the CPU -> loss, and gradient for the output as float64[...].
Oracle = Callable[[torch.Tensor, torch.Tensor], tuple[float, np.ndarray]]


def make_oracle(baseline: CodeSpec, task: Task) -> Oracle:
    """Returns the baseline's float64 form; for a loss that has none, the loss itself on float64 tensors.

    Raises:
        Trouble: As `load_loss`.
        Exception: Whatever the user's code raises.
    """
    if baseline.shipped and baseline.attr in task.float64_forms:
        form = task.float64_forms[baseline.attr]
        return lambda output, target: form(_array(output), _array(target))
    return _widened(load_loss(baseline, task))


def oracle_of(criterion: Loss) -> Oracle:
    """The float64 form of a loss that is at hand: of `nn.MSELoss` written out, else itself on float64 tensors."""
    if type(criterion) is nn.MSELoss and criterion.reduction == "mean":
        return lambda output, target: mse_float64(_array(output), _array(target))
    return _widened(criterion)


def errors(
    oracle: Oracle, output: torch.Tensor, target: torch.Tensor, *, loss: torch.Tensor, output_grad: torch.Tensor
) -> tuple[float, float, float]:
    """Measures one step.

    Args:
        oracle: Of `make_oracle`.
        output: What the loss got; dtype[...].
        target: What the loss got.
        loss: What it returned; dtype[].
        output_grad: What its backward gave; of the output's shape and dtype.

    Returns:
        In the order of `trace.AUDIT_COLUMNS`: ||g - g64|| / (u ||g64||); |loss - loss64| / (u |loss64|); and
        <g, g64> / <g64, g64>, which is 1 for a right gradient and c for one that is c times too large. An error is 0
        where both sides are equal, and inf where only one is finite or only the oracle is zero; where both have the
        same NaNs and infinities, the finite elements decide.

    Raises:
        OracleUnavailable: The baseline's loss raised in float64, or does not compute in float64.
    """
    unit = torch.finfo(output.dtype).eps / 2
    loss64, grad64 = oracle(output.detach(), target.detach())
    loss_error = _relative_error(float(loss.detach()), loss64, unit)
    grad = _array(output_grad)
    with np.errstate(invalid="ignore"):  # inf - inf; looked at below
        difference = np.subtract(grad, grad64, dtype=np.float64)
    squared_error, product, squared_size = _dots(difference, grad64)
    if not math.isfinite(squared_error + squared_size):
        if not _same_nonfinite(grad, grad64.astype(grad.dtype)):
            return math.inf, loss_error, math.nan
        finite = np.isfinite(grad64)
        squared_error, product, squared_size = _dots(difference[finite], grad64[finite])
    return (
        _ratio(math.sqrt(squared_error), unit * math.sqrt(squared_size)),
        loss_error,
        1 + product / squared_size if squared_size else math.nan,  # <g, g64> = <g - g64, g64> + <g64, g64>
    )


def _widened(loss_function: Loss) -> Oracle:
    """An oracle that evaluates the loss on float64 tensors."""
    wide = copy.deepcopy(loss_function).double() if isinstance(loss_function, nn.Module) else loss_function

    def oracle(output: torch.Tensor, target: torch.Tensor) -> tuple[float, np.ndarray]:
        leaf = output.double().requires_grad_()
        try:
            loss = wide(leaf, target.double() if target.is_floating_point() else target)
            (grad,) = torch.autograd.grad(loss, leaf)
        except Exception as error:  # a baseline of the user's own may raise anything
            raise OracleUnavailable(f"in float64 it raised {type(error).__name__}: {error}") from error
        if loss.dtype != torch.float64:
            raise OracleUnavailable(f"for float64 tensors it returned {loss.dtype}")
        return float(loss.detach()), grad.numpy()

    return oracle


def _array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as an array; bfloat16, which NumPy lacks, as float32."""
    host = tensor.detach()
    return (host.float() if host.dtype == torch.bfloat16 else host).numpy()


def _dots(difference: np.ndarray, grad64: np.ndarray) -> tuple[float, float, float]:
    """The products <d, d>, <d, g> and <g, g>, summed by torch, whose threads are pinned."""
    left, right = torch.from_numpy(difference).reshape(-1), torch.from_numpy(grad64).reshape(-1)
    return float(torch.dot(left, left)), float(torch.dot(left, right)), float(torch.dot(right, right))


def _same_nonfinite(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether NaNs and infinities stand at the same places, the infinities with the same sign."""
    left, right = (np.where(np.isfinite(side), 0, side) for side in (left, right))
    return np.array_equal(left, right, equal_nan=True)


def _relative_error(value: float, exact: float, unit: float) -> float:
    if not (math.isfinite(value) and math.isfinite(exact)):
        return 0.0 if value == exact or (math.isnan(value) and math.isnan(exact)) else math.inf
    return _ratio(abs(value - exact), unit * abs(exact))


def _ratio(error: float, size: float) -> float:
    return 0.0 if error == 0 else error / size if size else math.inf
