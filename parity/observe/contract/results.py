"""Items of the contract about results: the scalar, its gradient, and their values."""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from torch.autograd.gradcheck import GradcheckError, gradcheck

from parity.observe.contract.calls import (
    PASSED,
    REASON_LENGTH,
    Broken,
    Case,
    Outcome,
    Raised,
    call,
    cloned,
    evaluate,
    floating,
    gradients,
    guarded,
    joined,
    lay_out,
    learning,
    put_back,
)
from parity.observe.contract.distances import (
    by_how_much,
    distance_in_u,
    explained,
    in_part,
    near_oracle,
    repeats,
    same_bits,
)
from parity.plan import lines
from parity.tasks.losses import Loss, is_widened
from parity.tasks.outputs import is_tree, map_tensors, part_names, parts, tensors

# Elements of the output whose slopes are checked, spread over it. Chosen: they take 192 calls of each of the two
# losses, where all other items together take some 150 of both.
GRADCHECK_ELEMENTS = 96
# As gradcheck's own defaults: the step of its differences of two losses, and the relative tolerance of a slope.
GRADCHECK_STEP, GRADCHECK_RTOL = 1e-6, 1e-3


def check_scalar(case: Case) -> Outcome:
    """Whether the loss returns a real scalar tensor."""
    call(case.loss, lay_out(case.output), cloned(case.target))
    return PASSED


def check_dtype_and_device(case: Case) -> Outcome:
    """Whether the scalar has the dtype and the device of the output; of a narrow one, it may be float32."""
    value = call(case.loss, lay_out(case.output), cloned(case.target))
    given = learning(case.output)
    # The parts of a tree may have several dtypes; arithmetic on all of them has the widest.
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in given))
    if value.dtype != dtype and not is_widened(value.dtype, [tensor.dtype for tensor in given]):
        return "failed", f"returned {value.dtype}, the output's {dtype} is needed"
    if value.device != given[0].device:
        return "failed", f"returned a tensor on {value.device}, the output's {given[0].device} is needed"
    return PASSED


def check_gradient(case: Case) -> Outcome:
    """Whether the gradient has the output's shape and dtype and is finite."""
    given = lay_out(case.output)
    learns = learning(given)
    grads = gradients(call(case.loss, given, cloned(case.target)), learns)
    nonfinite = elements = 0
    for index, (name, part, grad) in enumerate(zip(part_names(case.output), learns, grads, strict=True)):
        # The loss need not depend on every part of a tree; where the baseline does not either, nothing is missing.
        if grad is None:
            if _baseline_learns(case)[index]:
                return "failed", f"the loss has no gradient{in_part(name)}, where the baseline has one"
            continue
        if (grad.shape, grad.dtype) != (part.shape, part.dtype):
            needed = f"{part.dtype}{list(part.shape)}"
            return "failed", f"the gradient{in_part(name)} is {grad.dtype}{list(grad.shape)}, {needed} is needed"
        nonfinite, elements = nonfinite + grad.numel() - int(grad.isfinite().sum()), elements + grad.numel()
    return PASSED if not nonfinite else ("failed", f"{nonfinite} of {elements} gradient elements are not finite")


def _baseline_learns(case: Case) -> list[bool]:
    """For each part of the output, whether the baseline has a gradient for it."""
    given = lay_out(case.output)
    learns = learning(given)
    return [grad is not None for grad in gradients(call(case.baseline, given, cloned(case.target)), learns)]


def check_value(case: Case) -> Outcome:
    """Whether loss and gradient are as near the oracle as the baseline's."""
    return near_oracle(case, case.output, case.target)


def check_grad_output(case: Case) -> Outcome:
    """Whether the gradient is multiplied by what the backward is called with."""
    grads = {
        factor: evaluate(case.loss, case.output, case.target, grad_output=factor)[1]
        # 3 is not a power of two, -2 shows a lost sign, and 0 shows a term that is added instead of multiplied.
        for factor in (1.0, 3.0, -2.0, 2.0**10, 0.0)  # loss scaling multiplies by powers of two
    }
    unscaled = grads[1.0]
    one = joined(unscaled).cpu().double()
    # Asked first: the message below would name a ratio, and this one names the fault.
    if one.any() and all(torch.equal(joined(grad).cpu().double(), one) for grad in grads.values()):
        return "failed", "grad_output is ignored: with 3 the gradient is the same as with 1"
    for factor, scaled in grads.items():
        if factor == 0:
            if joined(scaled).any():
                return "failed", "with a grad_output of 0 the gradient is not zero"
        elif repeats(case, scaled, [grad * factor for grad in unscaled], "") != PASSED:
            ratio = float((joined(scaled).cpu().double() * one).sum() / one.square().sum())
            return "failed", f"with a grad_output of {factor:g} the gradient is {ratio:.7g} times the one with 1"
    return PASSED


def check_gradcheck(case: Case) -> Outcome:
    """Whether the gradient is the slope of the loss, by differences in float64."""
    output, target = floating(case.output, torch.float64), floating(case.target, torch.float64)
    elements = joined(learning(output))
    value, grads = evaluate(case.loss, output, target)
    # A number of calls, never of seconds: a loss must get the same outcome on a slow machine.
    count = min(GRADCHECK_ELEMENTS, elements.numel())
    # Spread evenly over the output; in float64, since float32 holds no integers above 2**24 one by one.
    chosen = torch.linspace(0, elements.numel() - 1, count, dtype=torch.float64).round().long().to(elements.device)
    # Moves of some 1e-12, below the u of float32 and far above that of float64. Each element has its own, so that the
    # moves do not cancel in a difference or a mean; a zero, which no factor moves, moves by the ramp itself.
    ramp = torch.linspace(2.0**-40, 2.0**-39, elements.numel(), dtype=elements.dtype, device=elements.device)
    moved = elements + torch.where(elements == 0, 1, elements) * ramp
    beside, beside_grads = evaluate(case.loss, put_back(moved, output), target)
    if value.dtype != torch.float64 or (same_bits(value, beside) and same_bits(grads, beside_grads)):
        return "not applicable", "does not compute in float64: changing the output by 1e-12 changes nothing"
    _, expected = evaluate(case.baseline, output, target)
    # A mean's gradient is smaller the more elements there are; scaled to 1, gradcheck's tolerances mean something.
    largest = float(joined(expected)[chosen].abs().max())
    scale = 1 / largest if largest else 1.0
    # A difference of two losses over a step of 1e-6 is off by 2**-53 / 1e-6 = 1e-10 of the loss, and sums by more.
    tolerance = max(1e-4, 1e-8 * abs(float(value)) * scale)

    # Only the chosen elements are arguments of gradcheck: it calls the loss twice for each of them.
    def scaled(some: torch.Tensor) -> torch.Tensor:
        value = case.loss(put_back(elements.index_put((chosen,), some), output), cloned(target))
        with torch.enable_grad():  # the loss may have left it off
            return value * scale

    try:
        with guarded():
            start = elements[chosen].requires_grad_()
            gradcheck(
                scaled,
                (start,),
                eps=GRADCHECK_STEP,
                atol=tolerance,
                rtol=GRADCHECK_RTOL,
                check_undefined_grad=False,
            )
    except Raised as error:
        # `guarded` wraps both: what the loss raised, and what gradcheck found.
        if not isinstance(error.__cause__, GradcheckError):
            raise
        # gradcheck's message has a line that says what is wrong, and then whole matrices.
        found = str(error.__cause__).strip().splitlines()[0].rstrip(",:")
        if "not reentrant" in found:
            return "failed", "a second backward through the same graph gives another gradient"
        return "failed", f"the gradient is not the slope of the loss: {found}"[:REASON_LENGTH]
    return PASSED


def check_target_gradient(case: Case) -> Outcome:
    """Whether the loss has the baseline's gradient for its target."""
    if not parts(case.target):
        dtypes = " and ".join(dict.fromkeys(str(tensor.dtype) for tensor in tensors(case.target)))
        return "not applicable", f"the target is {dtypes}, which has no gradient"
    # Where no target of this training requires a gradient, a missing one cannot affect it.
    lacking, needed = ("failed", ", which requires one in this training") if case.target_learns else ("limited", "")
    try:
        grads = _gradients_for_target(case.loss, case)
    except Raised as error:
        return lacking, f"with a target that requires a gradient it {error}"
    if all(grad is None for grad in grads):
        return lacking, f"no gradient for the target{needed}"
    expected = _gradients_for_target(case.baseline, case)
    limit_u = lines.CONTRACT_REPEAT.value * max(lines.LEAST_ERROR.value, *case.baseline_grads_u)
    beside: list[torch.Tensor | None] | None = None
    for index, (name, grad, other) in enumerate(zip(part_names(case.target), grads, expected, strict=True)):
        if other is None:  # where it is so for the whole target, the baseline's own outcome says so first
            continue
        if grad is None:
            return lacking, f"no gradient{in_part(name, 'target')}{needed}"
        distance_u = distance_in_u(grad, other)
        if not distance_u <= limit_u:
            beside = beside or _differences_beside(case)
            least = _least(grad - other, beside[index])
            if distance_in_u(other + least, other) <= limit_u:
                continue
            off = f"the target's gradient differs from the baseline's{by_how_much(distance_u, other)}"
            return "failed", f"{off}{in_part(name, 'target')}{explained(limit_u, other)}"
    return PASSED


def _differences_beside(case: Case) -> list[torch.Tensor | None]:
    """How the gradient differs from the baseline's for targets a little above; None where either has none there."""
    # A thousandth: far above rounding, and far below the distance of two labels.
    above = map_tensors(
        lambda tensor: tensor + (1 + tensor.abs()) * 2.0**-10 if tensor.is_floating_point() else tensor, case.target
    )
    moved = dataclasses.replace(case, target=above)
    try:
        pairs = zip(*(_gradients_for_target(loss, moved) for loss in (case.loss, case.baseline)), strict=True)
        return [None if grad is None or other is None else grad - other for grad, other in pairs]
    except Broken:  # such a target may not be allowed
        return [None] * len(parts(case.target))


def _least(at: torch.Tensor, beside: torch.Tensor | None) -> torch.Tensor:
    """Of two differences the smaller one, element by element; the first where the other is missing or not finite.

    Where a loss has a kink, as `clamp` has, several gradients are right; a wrong one is wrong beside the kink as well.
    """
    if beside is None:
        return at
    return torch.where(beside.isfinite() & (beside.abs() < at.abs()), beside, at)


def _gradients_for_target(loss: Loss, case: Case) -> list[torch.Tensor | None]:
    """The gradient for each part of the target, None where the loss has none."""
    given, target = lay_out(case.output), lay_out(case.target)
    learns = parts(target)
    value = call(loss, given, target)
    if not value.requires_grad:
        return [None] * len(learns)
    with guarded():
        return list(torch.autograd.grad(value, learns, allow_unused=True))


def check_second_derivative(case: Case) -> Outcome:
    """Whether the Hessian is the baseline's, which a gradient penalty needs."""
    products = [_hessian_product(loss, case) for loss in (case.loss, case.baseline)]
    for name, found, expected in zip(part_names(case.output), *products, strict=True):
        error, size = float((found - expected).norm()), float(expected.norm())
        if not error <= lines.SECOND_DERIVATIVE.value * size:
            off = f"differs from the baseline's by {error / size if size else math.inf:.4g} of its size"
            return "limited", f"the second derivative {off}{in_part(name)}"
    return PASSED


def _hessian_product(loss: Loss, case: Case) -> list[torch.Tensor]:
    """The Hessian times a ramp from 1 to 2, for each part of the output; float64[R, ...] on the CPU.

    Raises:
        Broken: The loss has no second derivative.

    Source:
        B. A. Pearlmutter, "Fast Exact Multiplication by the Hessian", 1994.
    """
    given = lay_out(case.output)
    learns = learning(given)
    value = call(loss, given, cloned(case.target))
    with guarded():
        # A loss need not depend on every part of a tree, but on the only tensor it must.
        first = torch.autograd.grad(value, learns, create_graph=True, allow_unused=is_tree(case.output))
    curved = [(grad, ramp) for grad, ramp in zip(first, _ramps(learns), strict=True) if _has_graph(grad)]
    if not curved:
        raise Broken("no second derivative: the gradient has no graph")
    with guarded():
        # The gradient of <gradient, ramp> is the Hessian times the ramp: one backward pass instead of the whole matrix.
        product = torch.stack([(grad * ramp).sum() for grad, ramp in curved]).sum()
        second = torch.autograd.grad(product, learns, allow_unused=True)
    if all(each is None for each in second):
        raise Broken("no second derivative: the gradient does not depend on the output")
    return [
        (torch.zeros_like(part) if each is None else each).detach().cpu().double()
        for part, each in zip(learns, second, strict=True)
    ]


def _has_graph(grad: torch.Tensor | None) -> bool:
    """Whether the gradient can be differentiated once more."""
    return grad is not None and grad.requires_grad


def _ramps(learns: list[torch.Tensor]) -> list[torch.Tensor]:
    """Numbers from 1 to 2 in each tensor's shape, so that no row or column can be exchanged for another unseen."""
    return [
        torch.linspace(1, 2, part.numel(), dtype=part.dtype, device=part.device).reshape(part.shape) for part in learns
    ]
