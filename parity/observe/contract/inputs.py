"""Items of the contract about inputs: other layouts, shapes, dtypes, and numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from parity.ground.percent import percent_off
from parity.observe.audit import gradients
from parity.observe.contract.calls import (
    GRAVITY,
    PASSED,
    Broken,
    Case,
    Layout,
    Outcome,
    cloned,
    evaluate,
    floating,
    joined,
)
from parity.observe.contract.distances import (
    distance_in_u,
    errors_of,
    exact_oracle,
    in_part,
    loss_limit_u,
    near_oracle,
    repeats,
    same_result,
)
from parity.plan import lines
from parity.tasks.outputs import Outputs, elements_of, is_tree, map_tensors, part_names, parts, tensors

# Most that 2 * value * sqrt(elements) may be: its square, 2**15, is within the range of float16, which ends at 65504.
LARGEST_IN_FLOAT16 = 2.0**7.5


def _every_second(dim: int) -> Layout:
    """Lays values out at every second place along a dimension, with NaN (among integers 0) between them."""

    def layout(values: torch.Tensor) -> torch.Tensor:
        # A loss that reads the memory in sequence, without regard to strides, meets these and shows it.
        between = torch.full_like(values, math.nan if values.is_floating_point() else 0)
        # % makes a number of a negative dimension; the new dimension right after it puts the gaps between its elements.
        beside = dim % values.dim() + 1
        return torch.stack((values, between), dim=beside).select(beside, 0)

    return layout


def _where(applies: Callable[[torch.Tensor], bool], layout: Layout) -> Layout:
    """A layout for the tensors that it applies to; the others become contiguous copies."""
    return lambda values: layout(values) if applies(values) else values.clone()


def check_non_contiguous(case: Case) -> Outcome:
    """Whether strided rows and columns give the same result."""
    dimensions = max(tensor.dim() for tensor in tensors(case.output))
    if not dimensions:
        return "not applicable", "the output has no dimension"
    for dim, name in ((-1, "columns"), (0, "rows")):
        strided = _every_second(dim)
        outcome = same_result(
            case,
            _where(lambda tensor: tensor.dim() > 0, strided),
            f"with strided {name}",
            # A label for each row has no columns to stride.
            target_layout=_where(
                lambda tensor, dim=dim: tensor.dim() == dimensions or (dim == 0 and tensor.dim() > 0),  # type: ignore[misc]
                strided,
            ),
        )
        if outcome != PASSED:
            return outcome
    return PASSED


def check_transposed(case: Case) -> Outcome:
    """Whether tensors in column-major order give the same result."""

    def has_columns(tensor: torch.Tensor) -> bool:
        return tensor.dim() >= 2

    def transposed(values: torch.Tensor) -> torch.Tensor:
        # Contiguous in the other order of dimensions, then seen in the usual one: the same values, in column-major
        # order.
        return values.transpose(0, -1).clone(memory_format=torch.contiguous_format).transpose(0, -1)

    if not any(map(has_columns, tensors(case.output))):
        return "not applicable", (
            "no part of the output has two dimensions" if is_tree(case.output) else "the output has one dimension"
        )
    layout = _where(has_columns, transposed)
    outcome = same_result(case, layout, "with a transposed output")
    if outcome != PASSED or not any(map(has_columns, tensors(case.target))):
        return outcome
    return same_result(case, layout, "with output and target transposed", target_layout=layout)


def check_one_row(case: Case) -> Outcome:
    """Whether the loss of a single row is right."""
    # Only where all tensors have the same number of rows does the first row of each belong together.
    sides = [[len(tensor) for tensor in tensors(side) if tensor.dim()] for side in (case.output, case.target)]
    if not all(sides) or len({*sides[0], *sides[1]}) > 1:
        return "not applicable", "the target and the output have different numbers of rows"

    def first_row(values: Outputs) -> Outputs:
        return map_tensors(lambda tensor: tensor[:1] if tensor.dim() else tensor, values)

    return near_oracle(case, first_row(case.output), first_row(case.target))


def check_float64(case: Case) -> Outcome:
    """Whether the loss computes in float64 where its tensors are float64, as gradcheck needs."""
    output, target = floating(case.output, torch.float64), floating(case.target, torch.float64)
    value, _ = evaluate(case.loss, output, target)
    if value.dtype != torch.float64:
        return "limited", f"for float64 tensors it returns {value.dtype}"
    # Where the oracle is the baseline itself in float64, the baseline shows no error there; it is credited with as
    # many u of float64 as it has u of its usual dtype.
    outcome = near_oracle(case, output, target, least_u=(case.baseline_grads_u, case.baseline_loss_u))
    if outcome == PASSED:
        return PASSED
    found = errors_of(case, case.loss, output, target, grad_output=1.0)
    u32 = 2.0**29  # the unit roundoff of float32 in that of float64
    near = all(
        grad_u <= lines.CONTRACT_ERROR.value * max(lines.LEAST_ERROR.value, baseline_u) * u32
        for (grad_u, _, _), baseline_u in zip(found, case.baseline_grads_u, strict=True)
    )
    loss_u = found[0][1]
    if near and loss_u <= loss_limit_u(output, case.baseline_loss_u) * u32:
        error_u = max(loss_u, *(grad_u for grad_u, _, _ in found)) / u32
        return "limited", f"computes in float32 internally: for float64 tensors it is {percent_off(error_u * 2.0**-24)}"
    return outcome


def check_narrow(dtype: torch.dtype, grad_output: float) -> Callable[[Case], Outcome]:
    """Returns the check of a narrower dtype.

    Args:
        dtype: float16 or bfloat16.
        grad_output: What the backward is called with: a scale for float16, whose trainings use loss scaling.
    """

    def check(case: Case) -> Outcome:
        *wide, fits = _within_range(case)
        output, target = (floating(side, dtype) for side in wide)
        value, grads = evaluate(case.loss, output, target, grad_output=grad_output)
        returned = f"for {dtype} tensors it returns {value.dtype}"
        # A wider dtype loses nothing. The other 16-bit dtype is not wider: each of the two lacks range or digits of the
        # other.
        if torch.promote_types(value.dtype, dtype) != value.dtype:
            return "failed", returned
        outcome = near_oracle(case, output, target, grad_output=grad_output)
        if outcome[0] == "failed" and not fits and not all(each.isfinite().all() for each in (value, *grads)):
            return "limited", f"with numbers of this size it overflows in {dtype}, where the baseline does not"
        return ("limited", returned) if outcome == PASSED and value.dtype != dtype else outcome

    return check


def _within_range(case: Case) -> tuple[Outputs, Outputs, bool]:
    """Output and target, scaled down so far that float16 holds their squares and the sum of these, where they may be.

    The question is whether the loss can compute in the dtype; that data of this size may overflow it is another matter.

    Returns:
        Output, target, and whether their size is now within the range.
    """
    output, target = case.output, case.target
    measured = [tensor for tensor in parts(target) if not are_labels(tensor)]
    excess = _excess(case, [*parts(output), *measured])
    if 1 < excess < math.inf:
        factor = 0.5 ** math.ceil(math.log2(excess))  # a power of two: it changes no digit

        def scaled(tensor: torch.Tensor) -> torch.Tensor:
            return tensor * factor if tensor.is_floating_point() else tensor

        smaller = (
            map_tensors(scaled, output),
            map_tensors(lambda tensor: tensor if are_labels(tensor) else scaled(tensor), target),
        )
        if _same_mask(case, *smaller):
            output, target = smaller
    return output, target, _excess(case, [*parts(output), *parts(target)]) <= 1


def _excess(case: Case, measured: Sequence[torch.Tensor]) -> float:
    """How many times larger the largest number is than what float16 holds the sum of squares of; NaN if one is."""
    largest = max((float(tensor.abs().max()) for tensor in measured), default=0.0)
    return 2 * largest * math.sqrt(elements_of(case.output)) / LARGEST_IN_FLOAT16


def are_labels(tensor: torch.Tensor) -> bool:
    """Whether all numbers of a target are whole: classes, flags and marks such as -100, which are read by comparison.

    A multiple of such a number means something else, and no arithmetic of a model makes them.
    """
    return not tensor.is_floating_point() or bool((tensor == tensor.round()).all())


def _same_mask(case: Case, output: Outputs, target: Outputs) -> bool:
    """Whether the oracle leaves out the same elements as of the case's own tensors: those whose gradient is zero.

    A target of measurements may have a mark among them, too, and scaling it down would bring the marked elements in.
    """
    oracle = exact_oracle(case)
    found = [
        gradients(oracle(*(map_tensors(torch.Tensor.cpu, floating(side, torch.float64)) for side in pair))[1])
        for pair in ((case.output, case.target), (output, target))
    ]
    return all(((before == 0) == (after == 0)).all() for before, after in zip(*found, strict=True))


def check_broadcast(case: Case) -> Outcome:
    """Whether shapes [R, 1] and [R] broadcast as they do in the baseline."""
    if is_tree(case.output) or is_tree(case.target):
        return "not applicable", "the output or the target consists of several tensors"
    if case.target.shape != case.output.shape or not case.target.is_floating_point():
        return "not applicable", "the target does not have the output's shape and a floating-point dtype"
    # Elementwise arithmetic on these two shapes gives [R, R]; a loss that flattens its tensors gives another mean.
    output, target = case.output.reshape(-1)[: len(case.output), None], case.target.reshape(-1)[: len(case.output)]
    expected_loss, expected_grads = evaluate(case.baseline, output, target)
    value, grads = evaluate(case.loss, output, target)
    shapes = f"for shapes {list(output.shape)} and {list(target.shape)}"
    limit_u = lines.CONTRACT_REPEAT.value * max(len(target), case.baseline_loss_u)
    if not distance_in_u(value, expected_loss) <= limit_u:
        return "limited", f"{shapes} the loss is {float(value):.7g}, the baseline's is {float(expected_loss):.7g}"
    if repeats(case, grads, expected_grads, "") != PASSED:
        ratio = float(grads[0].cpu().double().norm() / expected_grads[0].cpu().double().norm())
        return "limited", f"{shapes} the norm of the gradient is {ratio:.7g} times the baseline's"
    return PASSED


def check_nonfinite(spoil: float) -> Callable[[Case], Outcome]:
    """Returns the check of what the loss makes of a number that is not finite.

    Args:
        spoil: NaN or infinity.
    """
    what = "a NaN" if math.isnan(spoil) else "an infinity"

    def check(case: Case) -> Outcome:
        outcomes = []
        # One element of one tensor at a time, in its middle: no effect may depend on another spoilt element.
        for side in ("output", "target"):
            for index, name in enumerate(part_names(getattr(case, side))):
                output, target = cloned(case.output), cloned(case.target)
                spoilt = parts(output if side == "output" else target)
                if index < len(spoilt) and spoilt[index].numel():  # labels cannot be spoilt
                    spoilt[index].view(-1)[spoilt[index].numel() // 2] = spoil
                    place = f" in the {side}" if name is None else in_part(name, side)
                    status, reason = _spoilt(case, output, target, f"{what}{place}")
                    # Such a target is read by comparison, and no arithmetic of this training can spoil it.
                    harmless = side == "target" and not case.target_learns and are_labels(parts(case.target)[index])
                    outcomes.append(("limited" if harmless and status == "failed" else status, reason))
        # The worst outcome counts; of equal ones min() keeps the first.
        return min(outcomes, key=lambda outcome: GRAVITY.index(outcome[0]))

    return check


def _spoilt(case: Case, output: Outputs, target: Outputs, name: str) -> Outcome:
    """Whether the loss shows what the baseline shows of a number that is not finite."""
    try:
        expected_loss, expected_grads = evaluate(case.baseline, output, target)
    except Broken as error:
        return "not applicable", f"the baseline cannot handle {name}: {error}"
    # Some baselines hide it by design; then nothing can be asked of the candidate.
    if expected_loss.isfinite():
        return "not applicable", f"the baseline's loss is finite with {name}"
    value, grads = evaluate(case.loss, output, target)
    if value.isfinite():
        return "failed", f"hides {name}: the loss is {float(value):.7g}, the baseline's is {float(expected_loss)}"
    grad, expected = joined(grads), joined(expected_grads)
    due, found = int((~expected.isfinite()).sum()), int((~grad.isfinite()).sum())
    # The loss shows it, so nothing is hidden: a comparison with NaN chooses a branch, whose gradient is finite.
    if due and not found:
        return (
            "limited",
            f"with {name}, the gradient is finite, up to {float(grad.abs().max()):.4g}, the baseline's is not",
        )
    if found > due:
        return "limited", f"with {name}, {found} gradient elements are not finite, {due} with the baseline"
    if (grad.isnan() & expected.isinf()).any():
        return "limited", f"with {name}, the gradient has NaN where the baseline's has inf"
    return PASSED
