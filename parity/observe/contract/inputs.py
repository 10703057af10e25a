"""Items of the contract about inputs: other layouts, shapes, dtypes, and numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from parity.observe.contract.calls import GRAVITY, PASSED, Broken, Case, Finding, Layout, evaluate, floating
from parity.observe.contract.distances import distance_in_u, errors_of, near_oracle, repeats, same_result
from parity.plan import lines


def _every_second(dim: int) -> Layout:
    """Lays values out at every second place along a dimension, with NaN (among integers 0) between them."""

    def layout(values: torch.Tensor) -> torch.Tensor:
        between = torch.full_like(values, math.nan if values.is_floating_point() else 0)
        beside = dim % values.dim() + 1
        return torch.stack((values, between), dim=beside).select(beside, 0)

    return layout


def check_non_contiguous(case: Case) -> Finding:
    for dim, name in ((-1, "columns"), (0, "rows")):
        follows = case.target.dim() == case.output.dim() or (dim == 0 and case.target.dim() > 0)
        target_layout = _every_second(dim) if follows else torch.clone
        finding = same_result(case, _every_second(dim), f"with strided {name}", target_layout=target_layout)
        if finding != PASSED:
            return finding
    return PASSED


def check_transposed(case: Case) -> Finding:
    if case.output.dim() < 2:
        return "not applicable", "the output has one dimension"

    def layout(values: torch.Tensor) -> torch.Tensor:
        return values.transpose(0, -1).clone(memory_format=torch.contiguous_format).transpose(0, -1)

    finding = same_result(case, layout, "with a transposed output")
    if finding != PASSED or case.target.dim() < 2:
        return finding
    return same_result(case, layout, "with output and target transposed", target_layout=layout)


def check_one_row(case: Case) -> Finding:
    if not case.target.dim() or len(case.target) != len(case.output):
        return "not applicable", "the target has other rows than the output"
    return near_oracle(case, case.output[:1], case.target[:1])


def check_float64(case: Case) -> Finding:
    output, target = case.output.double(), floating(case.target, torch.float64)
    value, _ = evaluate(case.loss, output, target)
    if value.dtype != torch.float64:
        return "limited", f"for float64 tensors it returns {value.dtype}"
    # Where the baseline's own float64 is the oracle, it has no error to be seen; in u it is that of its usual dtype.
    finding = near_oracle(case, output, target, own_u=(case.own_grad_u, case.own_loss_u))
    if finding == PASSED:
        return PASSED
    grad_u, loss_u, _ = errors_of(case, case.loss, output, target, grad_output=1.0)
    u32 = 2.0**29  # the unit roundoff of float32 in that of float64
    near = grad_u <= lines.CONTRACT_ERROR.value * max(1.0, case.own_grad_u) * u32
    if (
        near
        and loss_u
        <= max(lines.CONTRACT_SUM.value * math.sqrt(output.numel()), lines.CONTRACT_ERROR.value * case.own_loss_u) * u32
    ):
        return "limited", f"computes in float32 inside: {max(grad_u, loss_u) / u32:.4g} u of float32 off in float64"
    return finding


def check_narrow(dtype: torch.dtype, grad_output: float) -> Callable[[Case], Finding]:
    def check(case: Case) -> Finding:
        output, target = _within_range(case.output, case.target)
        output, target = output.to(dtype), floating(target, dtype)
        value, _ = evaluate(case.loss, output, target, grad_output=grad_output)
        told = f"for {dtype} tensors it returns {value.dtype}"
        if torch.promote_types(value.dtype, dtype) != value.dtype:
            return "failed", told
        finding = near_oracle(case, output, target, grad_output=grad_output)
        return ("limited", told) if finding == PASSED and value.dtype != dtype else finding

    return check


def _within_range(output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and floating target, scaled down so far that float16 holds their squares and the sum of these.

    What is asked is whether the loss can do with the dtype; that data of this size may overflow it is another matter.
    """
    sides = [side for side in (output, target) if side.is_floating_point()]
    largest = max(float(side.abs().max()) for side in sides)
    excess = 2 * largest * math.sqrt(output.numel()) / 2.0**7.5
    if not 1 < excess < math.inf:
        return output, target
    factor = 0.5 ** math.ceil(math.log2(excess))  # a power of two: it changes no digit
    return output * factor, target * factor if target.is_floating_point() else target


def check_broadcast(case: Case) -> Finding:
    if case.target.shape != case.output.shape or not case.target.is_floating_point():
        return "not applicable", "the target is not of the output's shape and floating"
    output, target = case.output.reshape(-1)[: len(case.output), None], case.target.reshape(-1)[: len(case.output)]
    expected_loss, expected_grad = evaluate(case.baseline, output, target)
    value, grad = evaluate(case.loss, output, target)
    found, due, shapes = float(value), float(expected_loss), f"for shapes {list(output.shape)} and {list(target.shape)}"
    if not distance_in_u(value, expected_loss) <= lines.CONTRACT_REPEAT.value * max(len(target), case.own_loss_u):
        return "limited", f"{shapes} the loss is {found:.7g}, the baseline's {due:.7g}"
    if repeats(case, grad, expected_grad, "") != PASSED:
        ratio = float(grad.cpu().double().norm() / expected_grad.cpu().double().norm())
        return "limited", f"{shapes} the gradient is {ratio:.7g} times as long as the baseline's"
    return PASSED


def check_nonfinite(spoil: float) -> Callable[[Case], Finding]:
    name = "a NaN" if math.isnan(spoil) else "an infinity"

    def check(case: Case) -> Finding:
        output, target = case.output.clone(), case.target.clone()
        output.view(-1)[output.numel() // 2] = spoil
        findings = [_spoilt(case, output, case.target, f"{name} in the output")]
        if target.is_floating_point():
            target.view(-1)[target.numel() // 2] = spoil
            findings.append(_spoilt(case, case.output, target, f"{name} in the target"))
        return min(findings, key=lambda finding: GRAVITY.index(finding[0]))

    return check


def _spoilt(case: Case, output: torch.Tensor, target: torch.Tensor, name: str) -> Finding:
    """Whether the loss lets see what the baseline lets see of a number that is none."""
    try:
        expected_loss, expected_grad = evaluate(case.baseline, output, target)
    except Broken as error:
        return "not applicable", f"the baseline does not do with {name}: {error}"
    if expected_loss.isfinite():
        return "not applicable", f"the baseline's loss is finite with {name}"
    value, grad = evaluate(case.loss, output, target)
    if value.isfinite():
        return "failed", f"hides {name}: the loss is {float(value):.7g}, the baseline's {float(expected_loss)}"
    due, found = int((~expected_grad.isfinite()).sum()), int((~grad.isfinite()).sum())
    if due and not found:
        return _finite_gradient(case, grad, name)
    if found > due:
        return "limited", f"{found} gradient elements are not finite with {name}, of the baseline's {due}"
    if (grad.isnan() & expected_grad.isinf()).any():
        return "limited", f"the gradient has NaN where the baseline's has inf, with {name}"
    return PASSED


def _finite_gradient(case: Case, grad: torch.Tensor, name: str) -> Finding:
    """The verdict on a finite gradient where the baseline's is not, which mixed precision relies on to skip a step."""
    largest, ordinary = float(grad.abs().max()), float(evaluate(case.loss, case.output, case.target)[1].abs().max())
    if largest > 1e12 * ordinary:  # saturated: overflows on its way through the model, if it has not yet
        return "limited", f"the gradient goes up to {largest:.4g} where the baseline's is not finite"
    return "failed", f"hides {name}: all of the gradient is finite, the baseline's is not"
