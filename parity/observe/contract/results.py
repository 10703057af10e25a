"""Items of the contract about results: the scalar, its gradient, and their values."""

from __future__ import annotations

import math
import time

import torch
from torch.autograd.gradcheck import GradcheckError, gradcheck

from parity.observe.contract.calls import (
    PASSED,
    REASON_LENGTH,
    Broken,
    Case,
    Finding,
    Raised,
    call,
    evaluate,
    floating,
    guarded,
    lay_out,
)
from parity.observe.contract.distances import near_oracle, repeats, same_bits
from parity.plan import lines
from parity.tasks.losses import Loss

GRADCHECK_ELEMENTS = 96
# Of the time that is left: baseline and candidate each take it once, and other items follow.
GRADCHECK_SHARE = 0.2
GRADCHECK_CALLS = 3  # for each element: two of the loss, and room


def check_scalar(case: Case) -> Finding:
    call(case.loss, lay_out(case.output), case.target.clone())
    return PASSED


def check_dtype_and_device(case: Case) -> Finding:
    value = call(case.loss, lay_out(case.output), case.target.clone())
    if value.dtype != case.output.dtype:
        return "failed", f"returned {value.dtype}, the output's {case.output.dtype} is needed"
    if value.device != case.output.device:
        return "failed", f"returned a tensor on {value.device}, the output's {case.output.device} is needed"
    return PASSED


def check_gradient(case: Case) -> Finding:
    _, grad = evaluate(case.loss, case.output, case.target)
    if (grad.shape, grad.dtype) != (case.output.shape, case.output.dtype):
        needed = f"{case.output.dtype}{list(case.output.shape)}"
        return "failed", f"the gradient is {grad.dtype}{list(grad.shape)}, {needed} is needed"
    nonfinite = grad.numel() - int(grad.isfinite().sum())
    return PASSED if not nonfinite else ("failed", f"{nonfinite} of {grad.numel()} gradient elements are not finite")


def check_value(case: Case) -> Finding:
    return near_oracle(case, case.output, case.target)


def check_grad_output(case: Case) -> Finding:
    grads = {
        factor: evaluate(case.loss, case.output, case.target, grad_output=factor)[1]
        for factor in (1.0, 3.0, -2.0, 2.0**10, 0.0)  # loss scaling multiplies by powers of two
    }
    unscaled = grads[1.0]
    if unscaled.any() and all(torch.equal(grad, unscaled) for grad in grads.values()):
        return "failed", "grad_output is ignored: with 3 the gradient is the same as with 1"
    for factor, grad in grads.items():
        if factor == 0:
            if grad.any():
                return "failed", "with a grad_output of 0 the gradient is not zero"
        elif repeats(case, grad, unscaled * factor, "") != PASSED:
            wide, one = grad.cpu().double(), unscaled.cpu().double()
            ratio = float((wide * one).sum() / one.square().sum())
            return "failed", f"with a grad_output of {factor:g} the gradient is {ratio:.7g} times the one with 1"
    return PASSED


def check_gradcheck(case: Case) -> Finding:
    output, target = case.output.double(), floating(case.target, torch.float64)
    began_s = time.monotonic()
    value, grad = evaluate(case.loss, output, target)
    called_s = time.monotonic()
    affordable = GRADCHECK_SHARE * (case.deadline_s - called_s) / (GRADCHECK_CALLS * (called_s - began_s) + 1e-9)
    count = int(max(1, min(GRADCHECK_ELEMENTS, output.numel(), affordable)))
    chosen = torch.linspace(0, output.numel() - 1, count, dtype=torch.float64).round().long().to(output.device)
    ramp = torch.linspace(2.0**-40, 2.0**-39, output.numel(), dtype=output.dtype, device=output.device)
    moved = output + torch.where(output == 0, 1, output) * ramp.reshape(output.shape)
    beside, beside_grad = evaluate(case.loss, moved, target)
    if value.dtype != torch.float64 or (same_bits(value, beside) and same_bits(grad, beside_grad)):
        return "not applicable", "does not compute in float64: a change of 1e-12 of the output changes nothing"
    _, expected = evaluate(case.baseline, output, target)
    # A mean's gradient is smaller the more elements there are; scaled to 1, gradcheck's tolerances mean something.
    largest = float(expected.reshape(-1)[chosen].abs().max())
    scale = 1 / largest if largest else 1.0
    # A difference of two losses over a step of 1e-6 is off by 2**-53 / 1e-6 = 1e-10 of the loss, and sums by more.
    tolerance = max(1e-4, 1e-8 * abs(float(value)) * scale)

    def scaled(elements: torch.Tensor) -> torch.Tensor:
        given = output.reshape(-1).index_put((chosen,), elements).reshape(output.shape)
        value = case.loss(given, target.clone())
        with torch.enable_grad():  # the loss may have left it off
            return value * scale

    try:
        with guarded():
            start = output.reshape(-1)[chosen].requires_grad_()
            gradcheck(scaled, (start,), atol=tolerance, rtol=1e-3, check_undefined_grad=False)
    except Raised as error:
        if not isinstance(error.__cause__, GradcheckError):
            raise
        told = str(error.__cause__).strip().splitlines()[0].rstrip(",:")
        if "not reentrant" in told:
            return "failed", "a second backward through the same graph gives another gradient"
        return "failed", f"the gradient is not the slope of the loss: {told}"[:REASON_LENGTH]
    return PASSED


def check_target_gradient(case: Case) -> Finding:
    if not case.target.is_floating_point():
        return "not applicable", f"the target is {case.target.dtype}, which has no gradient"
    lacking, told = ("failed", ", which requires one here") if case.target_learns else ("limited", "")
    try:
        grad = _gradient_for_target(case.loss, case)
    except Raised as error:
        return lacking, f"with a target that requires a gradient it {error}"
    if grad is None:
        return lacking, f"no gradient for the target{told}"
    expected = _gradient_for_target(case.baseline, case)
    if expected is None:  # the baseline's own finding says so first
        return PASSED
    status, reason = repeats(case, grad, expected, "of the target")
    return status, reason and f"{reason}, from the baseline's"


def _gradient_for_target(loss: Loss, case: Case) -> torch.Tensor | None:
    given, target = lay_out(case.output), lay_out(case.target)
    value = call(loss, given, target)
    if not value.requires_grad:
        return None
    with guarded():
        return torch.autograd.grad(value, target, allow_unused=True)[0]


def check_second_derivative(case: Case) -> Finding:
    found, expected = (_hessian_product(loss, case) for loss in (case.loss, case.baseline))
    error, size = float((found - expected).norm()), float(expected.norm())
    if error <= lines.SECOND_DERIVATIVE.value * size:
        return PASSED
    return "limited", f"another second derivative: {error / size if size else math.inf:.4g} of its size off"


def _hessian_product(loss: Loss, case: Case) -> torch.Tensor:
    """The Hessian times a ramp from 1 to 2; float64[R, ...]."""
    given = lay_out(case.output)
    value = call(loss, given, case.target.clone())
    ramp = torch.linspace(1, 2, given.numel(), dtype=given.dtype, device=given.device).reshape(given.shape)
    with guarded():
        (grad,) = torch.autograd.grad(value, given, create_graph=True)
    if not grad.requires_grad:
        raise Broken("no second derivative: the gradient has no graph")
    with guarded():
        (product,) = torch.autograd.grad((grad * ramp).sum(), given, allow_unused=True)
    if product is None:
        raise Broken("no second derivative: the gradient does not depend on the output")
    return product.cpu().double()
