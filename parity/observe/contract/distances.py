"""Distances in the contract: against the oracle, beside the baseline's own error, and from call to call."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.audit import Oracle, errors
from parity.observe.contract.calls import PASSED, Case, Finding, Layout, evaluate, floating
from parity.plan import lines
from parity.tasks.losses import Loss


def errors_of(
    case: Case, loss: Loss, output: torch.Tensor, target: torch.Tensor, *, grad_output: float
) -> tuple[float, float, float]:
    """Gradient error in u, loss error in u and ratio, as `audit.errors`, of a loss on any output."""
    value, grad = evaluate(loss, output, target, grad_output=grad_output)
    unscaled = grad.cpu().double() / grad_output  # wider, so that nothing is lost
    return errors(exact_oracle(case), output.cpu(), target.cpu(), loss=value.cpu(), output_grad=unscaled)


def exact_oracle(case: Case) -> Oracle:
    """The oracle, which may be the user's baseline, kept from warning, from exiting and from what is not its own."""

    def oracle(output: torch.Tensor, target: torch.Tensor) -> tuple[float, np.ndarray]:
        try:
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")
                return case.oracle(output.clone(), target.clone())
        except SystemExit as error:
            raise OracleUnavailable(f"in float64 it raised SystemExit: {error}") from error

    return oracle


def own_errors(
    case: Case, output: torch.Tensor, target: torch.Tensor, *, grad_output: float = 1.0
) -> tuple[float, float]:
    """The baseline's largest gradient and loss error, in u, over four outputs that are nearly this one.

    One alone may be exact by luck, and right candidates would then be held to that luck. Nor is the baseline's error
    taken to be less than what one rounding of the output does to the exact result, within limits: at logits of 100 and
    more it is right to the last digits, which others cannot be.

    Raises:
        Broken: The baseline raises, or has no gradient.
        OracleUnavailable: It has no float64 form.
    """
    eps = torch.finfo(output.dtype).eps
    nearby = [output * (1 + 2 * k * eps) for k in range(4)]
    measured = [errors_of(case, case.baseline, near, target, grad_output=grad_output) for near in nearby]
    grad_u, loss_u = _conditions(case, output.cpu(), target.cpu())
    return (
        max(min(grad_u, lines.CONTRACT_CONDITION.value), *(error[0] for error in measured)),
        max(min(loss_u, lines.CONTRACT_CONDITION.value), *(error[1] for error in measured)),
    )


def _conditions(case: Case, output: torch.Tensor, target: torch.Tensor) -> tuple[float, float]:
    """How far gradient and loss move, in u, where each element of the output moves by u or -u: the largest of four.

    Source:
        N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 1.6: forward error is at most
        about the condition number times the backward error.
    """
    oracle, u = exact_oracle(case), torch.finfo(output.dtype).eps / 2
    generator = torch.Generator().manual_seed(0)  # of our own: the same perturbation each time
    wide = output.double()
    loss, grad = oracle(wide, floating(target, torch.float64))
    grad_u = loss_u = 0.0
    for _ in range(4):
        signs = torch.randint(2, wide.shape, generator=generator, dtype=torch.float64) * 2 - 1
        near_loss, near_grad = oracle(wide * (1 + u * signs), floating(target, torch.float64))
        moved, size = float(np.linalg.norm(near_grad - grad)), float(np.linalg.norm(grad))
        grad_u = max(grad_u, moved / (u * size) if size else 0.0)
        loss_u = max(loss_u, abs(near_loss - loss) / (u * abs(loss)) if loss else 0.0)
    return (grad_u if math.isfinite(grad_u) else 0.0), (loss_u if math.isfinite(loss_u) else 0.0)


def near_oracle(
    case: Case,
    output: torch.Tensor,
    target: torch.Tensor,
    *,
    grad_output: float = 1.0,
    own_u: tuple[float, float] = (0.0, 0.0),
) -> Finding:
    """Whether loss and gradient are as near the oracle as the baseline's; `own_u` are the least of its own errors."""
    own_grad_u, own_loss_u = own_errors(case, output, target, grad_output=grad_output)
    own_grad_u, own_loss_u = max(own_grad_u, own_u[0]), max(own_loss_u, own_u[1])
    grad_u, loss_u, ratio = errors_of(case, case.loss, output, target, grad_output=grad_output)
    allowed_u = lines.CONTRACT_ERROR.value * max(1.0, own_grad_u)
    if not (math.isfinite(grad_u) and grad_u <= allowed_u):
        return "failed", f"the gradient is off by {grad_u:.4g} u, {allowed_u:.4g} are allowed; ratio {ratio:.7g}"
    allowed_u = max(lines.CONTRACT_SUM.value * math.sqrt(output.numel()), lines.CONTRACT_ERROR.value * own_loss_u)
    if not (math.isfinite(loss_u) and loss_u <= allowed_u):
        return "failed", f"the loss is off by {loss_u:.4g} u, {allowed_u:.4g} are allowed"
    return PASSED


def distance_in_u(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """||actual - expected|| / (u ||expected||), with u of the expected dtype; inf where either is not finite."""
    left, right = actual.detach().cpu().double(), expected.detach().cpu().double()
    error, size = float((left - right).norm()), float(right.norm())
    if not math.isfinite(error):
        return math.inf
    return 0.0 if error == 0 else error / (size * torch.finfo(expected.dtype).eps / 2) if size else math.inf


def repeats(case: Case, grad: torch.Tensor, expected: torch.Tensor, where: str) -> Finding:
    """Whether a gradient is another of the same loss, to rounding."""
    distance_u, allowed_u = distance_in_u(grad, expected), lines.CONTRACT_REPEAT.value * max(1.0, case.own_grad_u)
    if distance_u <= allowed_u:
        return PASSED
    return "failed", f"{where} the gradient is {distance_u:.4g} u away, {allowed_u:.4g} are allowed"


def same_result(case: Case, layout: Layout, where: str, *, target_layout: Layout = torch.clone) -> Finding:
    """Whether tensors that lie otherwise in memory give the loss and gradient of contiguous ones."""
    expected_loss, expected_grad = evaluate(case.loss, case.output, case.target)
    loss_value, grad = evaluate(case.loss, case.output, case.target, layout=layout, target_layout=target_layout)
    allowed_u = 2 * max(
        lines.CONTRACT_SUM.value * math.sqrt(case.output.numel()), lines.CONTRACT_ERROR.value * case.own_loss_u
    )
    if not (same_bits(loss_value, expected_loss) or distance_in_u(loss_value, expected_loss) <= allowed_u):
        return "failed", f"{where} the loss is {float(loss_value):.7g} in place of {float(expected_loss):.7g}"
    return repeats(case, grad, expected_grad, where)


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    if (left.shape, left.dtype) != (right.shape, right.dtype):
        return False
    return torch.equal(*(side.detach().contiguous().reshape(-1).view(torch.uint8) for side in (left, right)))
