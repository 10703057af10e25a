"""Distances in the contract: from the oracle, beside the baseline's error, and from call to call.

Gradients are lists with a tensor for each part of the output; of an output that is one tensor, lists of one.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence

import torch

from parity.ground.errors import OracleUnavailable
from parity.ground.percent import percent, percent_at_most, percent_off
from parity.ground.quoting import explain_error
from parity.observe import audit
from parity.observe.audit import Oracle
from parity.observe.contract.calls import PASSED, Case, Layout, Outcome, cloned, evaluate, floating
from parity.observe.norms import l2_norm
from parity.plan import lines
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs, elements_of, is_tree, map_tensors, part_names, parts, tensors, with_parts

# Outputs next to the given one on which the baseline's error is measured, and perturbations of it for its condition.
# Chosen: a baseline is hardly exact by luck on all four; each costs an evaluation in float64.
NEARBY = 4


def errors_of(
    case: Case, loss: Loss, output: Outputs, target: Outputs, *, grad_output: float
) -> list[tuple[float, float, float]]:
    """Gradient error in u, loss error in u and ratio, as `audit.errors`, for each part of any output.

    Raises:
        Broken: The loss raised, or has no gradient.
        OracleUnavailable: The baseline has no float64 form.
    """
    value, grads = evaluate(loss, output, target, grad_output=grad_output)
    unscaled = [grad.cpu().double() / grad_output for grad in grads]  # in float64, so that nothing is lost
    value, output, target = (
        _as_narrow(value.cpu(), output),
        map_tensors(torch.Tensor.cpu, output),
        map_tensors(torch.Tensor.cpu, target),
    )
    oracle = exact_oracle(case)
    if not is_tree(output):
        return [audit.errors(oracle, output, target, loss=value, output_grad=unscaled[0])]
    # Evaluated once; the lambda below returns it for each part.
    exact = oracle(output, target)
    right = [torch.from_numpy(grad) for grad in audit.gradients(exact[1])]
    return [  # `audit.errors` returns those of the worst part: make it each part's turn
        audit.errors(
            lambda *_: exact,
            output,
            target,
            loss=value,
            output_grad=[*right[:index], grad, *right[index + 1 :]],
        )
        for index, grad in enumerate(unscaled)
    ]


def _as_narrow(value: torch.Tensor, output: Outputs) -> torch.Tensor:
    """A loss in the coarsest dtype of the output, where that holds it.

    A float32 loss of a narrow output may have been computed in either: a float32 term that is added to a float16 loss
    makes a float32 sum of the accuracy of float16.
    """
    coarsest = max((part.dtype for part in parts(output)), key=lambda dtype: torch.finfo(dtype).eps)
    narrow = value.to(coarsest)
    return narrow if torch.isfinite(narrow) == torch.isfinite(value) else value


def exact_oracle(case: Case) -> Oracle:
    """The oracle, which may be the user's baseline, kept from warning, from exiting and from writing to our tensors."""

    def oracle(output: Outputs, target: Outputs) -> tuple[float, audit.Gradient]:
        try:
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")
                return case.oracle(cloned(output), cloned(target))
        except SystemExit as error:
            raise OracleUnavailable(f"in float64 it raised {explain_error(error)}") from error

    return oracle


def baseline_errors(
    case: Case, output: Outputs, target: Outputs, *, grad_output: float = 1.0
) -> tuple[list[float], float]:
    """The baseline's largest gradient error for each part, and loss error, in u, over outputs that are nearly this one.

    On one output alone the baseline may be exact by luck, and right candidates would then be held to that luck. Nor is
    the baseline's error taken to be less than what one rounding of the output does to the exact result, within limits:
    at logits of 100 and more the baseline is right to the last digits, which other right losses cannot be.

    Raises:
        Broken: The baseline raises, or has no gradient.
        OracleUnavailable: The baseline has no float64 form.
    """

    def near(tensor: torch.Tensor, step: int) -> torch.Tensor:
        # Two units of the spacing for each step, so that the factor differs from 1 in the dtype itself.
        return tensor * (1 + 2 * step * torch.finfo(tensor.dtype).eps) if tensor.is_floating_point() else tensor

    # The first of them, step 0, is the output itself.
    nearby = [map_tensors(functools.partial(near, step=step), output) for step in range(NEARBY)]
    measured = [errors_of(case, case.baseline, each, target, grad_output=grad_output) for each in nearby]
    conditions, loss_condition = _conditions(
        case, map_tensors(torch.Tensor.cpu, output), map_tensors(torch.Tensor.cpu, target)
    )
    # Only the condition is limited, not the error that was measured: a badly conditioned output must not excuse
    # anything.
    most = lines.CONTRACT_CONDITION.value
    return (
        [
            max(min(condition, most), *(error[index][0] for error in measured))
            for index, condition in enumerate(conditions)
        ],
        max(min(loss_condition, most), *(error[0][1] for error in measured)),
    )


def _conditions(case: Case, output: Outputs, target: Outputs) -> tuple[list[float], float]:
    """How far the gradient of each part, and the loss, move in u, where each element of the output moves by u or -u.

    Source:
        N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 1.6: forward error is at most
        about the condition number times the backward error.
    """
    oracle = exact_oracle(case)
    units = [torch.finfo(part.dtype).eps / 2 for part in parts(output)]
    generator = torch.Generator().manual_seed(0)  # of our own: the same perturbation each time
    # In float64, where a move of one u of the output's own dtype can be seen.
    wide, target = floating(output, torch.float64), floating(target, torch.float64)
    loss, found = oracle(wide, target)
    grads = audit.gradients(found)
    sizes = [l2_norm(grad) for grad in grads]
    grads_u, loss_u = [0.0] * len(sizes), 0.0
    for _ in range(NEARBY):
        moved = []
        for part, unit in zip(parts(wide), units, strict=True):
            # Each element moves by the same relative amount in a random direction, as rounding could move it.
            signs = torch.randint(2, part.shape, generator=generator, dtype=torch.float64) * 2 - 1
            moved.append(part * (1 + unit * signs))
        near_loss, near_found = oracle(with_parts(wide, moved) if is_tree(wide) else moved[0], target)
        for index, near_grad in enumerate(audit.gradients(near_found)):
            distance, size = l2_norm(near_grad - grads[index]), sizes[index]
            grads_u[index] = max(grads_u[index], distance / (units[index] * size) if size else 0.0)
        # The loss is made of all parts, so it is measured in the coarsest u among them.
        loss_u = max(loss_u, abs(near_loss - loss) / (max(units) * abs(loss)) if loss else 0.0)
    # A condition that cannot be computed is credited with nothing; the measured errors then decide.
    return [each if math.isfinite(each) else 0.0 for each in grads_u], (loss_u if math.isfinite(loss_u) else 0.0)


def near_oracle(
    case: Case,
    output: Outputs,
    target: Outputs,
    *,
    grad_output: float = 1.0,
    least_u: tuple[Sequence[float], float] | None = None,
) -> Outcome:
    """Whether loss and gradient are as near the oracle as the baseline's.

    Args:
        case: The losses.
        output: dtype[R, ...], or a tree; need not be the case's.
        target: The target that belongs to the output.
        grad_output: What the backward is called with.
        least_u: Errors that the baseline is credited with at least: of the gradient of each part, and of the loss.

    Raises:
        Broken: The loss or the baseline raises, or has no gradient.
        OracleUnavailable: The baseline has no float64 form.
    """
    grads_u, loss_u = baseline_errors(case, output, target, grad_output=grad_output)
    if least_u:
        grads_u = [max(pair) for pair in zip(grads_u, least_u[0], strict=True)]
        loss_u = max(loss_u, least_u[1])
    found = errors_of(case, case.loss, output, target, grad_output=grad_output)
    units = [torch.finfo(part.dtype).eps / 2 for part in parts(output)]
    rows = zip(part_names(output), units, found, grads_u, strict=True)
    for part, (name, unit, (error_u, _, ratio), baseline_u) in enumerate(rows):
        limit_u = lines.CONTRACT_ERROR.value * max(lines.LEAST_ERROR.value, baseline_u)
        # An infinite error must fail beside an infinite limit, too.
        if not (math.isfinite(error_u) and error_u <= limit_u):
            off = percent_off(error_u * unit) if math.isfinite(error_u) else _infinitely_off(case, output, target, part)
            ratios = "" if math.isnan(ratio) else f"; ratio {ratio:.7g}"
            limit = percent_at_most(limit_u * unit)
            return "failed", f"the gradient is {off}{in_part(name)}, rounding explains {limit}{ratios}"
    limit_u = loss_limit_u(output, loss_u)
    error_u = found[0][1]
    if not (math.isfinite(error_u) and error_u <= limit_u):
        off = percent_off(error_u * max(units)) if math.isfinite(error_u) else _infinitely_off(case, output, target)
        return "failed", f"the loss is {off}, rounding explains {percent_at_most(limit_u * max(units))}"
    return PASSED


def _infinitely_off(case: Case, output: Outputs, target: Outputs, part: int | None = None) -> str:
    """What an infinite error of the gradient of a part, or of the loss, is: zero is right, or it is not finite."""
    loss, grads = exact_oracle(case)(*(map_tensors(torch.Tensor.cpu, each) for each in (output, target)))
    size = abs(loss) if part is None else l2_norm(audit.gradients(grads)[part])
    return "not finite" if size else percent_off(math.inf)


def loss_limit_u(output: Outputs, baseline_u: float) -> float:
    """The largest error of a loss, in u, that another order of summation or the baseline's error can explain."""
    order_of_summation = lines.CONTRACT_SUM.value * math.sqrt(elements_of(output))
    return max(order_of_summation, lines.CONTRACT_ERROR.value * baseline_u)


def in_part(name: str | None, whose: str = "output") -> str:
    """Names a part of a tree in a message: " in output part code"; "" for an output that is one tensor."""
    return "" if name is None else f" in {whose} part {name}"


def distance_in_u(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """||actual - expected|| / (u ||expected||), with u of the expected dtype; inf where either is not finite."""
    left, right = actual.detach().cpu().double(), expected.detach().cpu().double()
    error, size = float((left - right).norm()), float(right.norm())
    # Two tensors that are not finite are not compared here: `same_bits` does that.
    if not math.isfinite(error):
        return math.inf
    return 0.0 if error == 0 else error / (size * torch.finfo(expected.dtype).eps / 2) if size else math.inf


def by_how_much(distance_u: float, beside: torch.Tensor) -> str:
    """A distance in u in words: " by 25 %"; other words where one of the two is not finite."""
    if not math.isfinite(distance_u):
        return ": one of them is not finite, or zero"
    return f" by {percent(distance_u * torch.finfo(beside.dtype).eps / 2)}"


def explained(limit_u: float, beside: torch.Tensor) -> str:
    """What rounding explains of a distance, in words that follow it."""
    return f", rounding explains {percent_at_most(limit_u * torch.finfo(beside.dtype).eps / 2)}"


def repeats(case: Case, grads: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], where: str) -> Outcome:
    """Whether two gradients for the output are equal but for rounding.

    Args:
        case: The losses.
        grads: The gradient for each part of the output.
        expected: What each is compared with.
        where: Beginning of the reason, up to "by ...".
    """
    each = zip(part_names(case.output), grads, expected, case.baseline_grads_u, strict=True)
    for name, grad, other, baseline_u in each:
        distance_u = distance_in_u(grad, other)
        limit_u = lines.CONTRACT_REPEAT.value * max(lines.LEAST_ERROR.value, baseline_u)
        # `not <=` rather than `>`, so that a NaN fails.
        if not distance_u <= limit_u:
            return "failed", f"{where}{by_how_much(distance_u, other)}{in_part(name)}{explained(limit_u, other)}"
    return PASSED


def same_result(case: Case, layout: Layout, where: str, *, target_layout: Layout = torch.clone) -> Outcome:
    """Whether tensors that lie differently in memory give the loss and gradient of contiguous ones.

    Args:
        case: The losses.
        layout: Makes each tensor of the output.
        where: Beginning of the reason, such as "with strided rows".
        target_layout: Makes each tensor of the target; a contiguous copy by default.

    Raises:
        Broken: The loss raises, or has no gradient.
    """
    expected_loss, expected_grads = evaluate(case.loss, case.output, case.target)
    value, grads = evaluate(case.loss, case.output, case.target, layout=layout, target_layout=target_layout)
    limit_u = 2 * loss_limit_u(case.output, case.baseline_loss_u)  # each of the two may be off
    if not (same_bits(value, expected_loss) or distance_in_u(value, expected_loss) <= limit_u):
        return "failed", f"{where} the loss is {float(value):.7g} instead of {float(expected_loss):.7g}"
    return repeats(case, grads, expected_grads, f"{where} the gradient differs from that of contiguous tensors")


def same_bits(left: Outputs, right: Outputs) -> bool:
    """Whether shapes, dtypes and all bits of all tensors are equal."""
    pairs = tensors(left), tensors(right)
    if len(pairs[0]) != len(pairs[1]):
        return False
    return all(_same_tensor(*pair) for pair in zip(*pairs, strict=True))


def _same_tensor(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether shape, dtype and all bits are equal, whatever the layouts in memory."""
    if (left.shape, left.dtype) != (right.shape, right.dtype):
        return False
    # As bytes: torch.equal on the numbers finds 0.0 equal to -0.0, and no NaN equal to itself.
    return torch.equal(*(side.detach().contiguous().reshape(-1).view(torch.uint8) for side in (left, right)))
