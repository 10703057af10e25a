"""Rules about the gradient as a whole: scaled, offset, permuted, of lower precision, of another loss.

Shapes: R rows, C columns (all further dimensions flattened); gradients are float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from parity.observe.diagnosis.hypotheses import OtherLoss, gradient, has_low_precision, in_low_precision, other_losses
from parity.observe.diagnosis.wrong_gradient import Match, Rule, WrongGradient, factor_of, flat
from parity.observe.norms import l2_norm
from parity.plan import lines
from parity.plan.named_constants import name_constant

# An explanation must also leave less than this share of the error. Both shares are chosen: where an error is little
# more than rounding, the limits of `lines` alone would let any explanation pass.
OFFSET_SHARE = 1 / 2
OTHER_LOSS_SHARE = 1 / 4
# Precisions that leave at most this many times what the best one leaves are named beside it: float16 and TF32 have
# mantissas of the same length, so both may fit, and rounding decides which is nearer.
AS_GOOD = 1.5
# bfloat16, the coarsest precision, has a relative spacing of 2**-7; errors of 2**-5 cannot come from rounding to it.
COARSEST_ERROR = 2.0**-5
# Rows on which another loss is tried before it is tried on all of them. Chosen: a sixteenth of a batch of 256.
SCREENED_ROWS = 16


def _nonfinite(wrong: WrongGradient) -> Match | None:
    """Whether elements are not finite that are finite in the oracle's gradient."""
    spoilt = ~np.isfinite(wrong.grad) & np.isfinite(wrong.exact)
    if not spoilt.any():
        return None
    return Match("nan", detail=f"{int(spoilt.sum())} of {spoilt.size} elements of the gradient are not finite")


def _zero(wrong: WrongGradient) -> Match | None:
    """Whether the gradient is zero everywhere."""
    return None if wrong.grad.any() else Match("zero")


def _root(wrong: WrongGradient) -> Match | None:
    """Whether it is the gradient of the square root of the baseline's loss: a scale that changes with the loss."""
    loss = wrong.oracle(wrong.output, wrong.target)[0]
    # d sqrt(L) = dL / (2 sqrt(L)).
    if not loss > 0 or not wrong.fits(wrong.exact / (2 * math.sqrt(loss))):
        return None
    target = wrong.own_target
    is_mse = target is not None and target.is_floating_point() and target.shape == wrong.output.shape
    return Match("other loss", detail="RMSE" if is_mse else "the square root of the baseline's")


def _scaled(wrong: WrongGradient) -> Match | None:
    """Whether it is the oracle's gradient times one factor."""
    # A factor of 0 is the zero gradient, which an earlier rule has named.
    factor = factor_of(wrong.grad, wrong.exact)
    return Match("scaled", factor) if factor and wrong.fits(factor * wrong.exact) else None


def _offset(wrong: WrongGradient) -> Match | None:
    """Whether it is the oracle's gradient with one number added to each element."""
    difference = wrong.grad - wrong.exact
    added = float(difference.mean())
    left = l2_norm(difference - added)
    # Half the limit of a suspicious gradient: what is left is then as good as a right gradient.
    allowed = max(wrong.error_limit / 2 * l2_norm(wrong.exact), lines.OFFSET_FIT.value * wrong.error)
    return Match("offset", added) if left <= allowed and left < OFFSET_SHARE * wrong.error else None


def _permuted(wrong: WrongGradient) -> Match | None:
    """Whether it has the oracle's numbers in another order; names the order if it is a known one."""
    # The least and the largest first, which are cheaper than sorting, and seldom the same.
    ends, others = ([each.min(), each.max()] for each in (wrong.grad, wrong.exact))
    if not np.allclose(ends, others, rtol=wrong.fit, atol=wrong.near_zero):
        return None
    # Sorted, both have the same numbers whatever the order; this is cheaper than the orders below and comes next.
    same_numbers = np.allclose(
        np.sort(wrong.grad, axis=None), np.sort(wrong.exact, axis=None), rtol=wrong.fit, atol=wrong.near_zero
    )
    if not same_numbers:
        return None
    for name, other in _orders(wrong.exact):
        if wrong.fits(other):
            return Match("permuted", detail=name)
    return Match("permuted", detail="the right numbers at other places")


def _orders(exact: np.ndarray) -> Sequence[tuple[str, np.ndarray]]:
    """The gradient in other orders of its elements, each with its name."""
    rows, columns = exact.shape
    steps = [step for size in (rows, columns) for step in (1, -1) if size > 1]
    rolled = [
        (f"{name} shifted by {step}", np.roll(exact, step, axis=axis))
        for axis, name in enumerate(("rows", "columns"))
        # Each step once, and none if neither axis can be shifted.
        for step in dict.fromkeys(steps)
    ]
    return [
        ("rows in reverse", exact[::-1]),
        ("columns in reverse", exact[:, ::-1]),
        ("rows and columns in reverse", exact[::-1, ::-1]),
        ("column-major order taken for row-major", exact.T.reshape(rows, columns)),
        ("row-major order taken for column-major", exact.reshape(columns, rows).T),
        *rolled,
    ]


def _precision(wrong: WrongGradient) -> Match | None:
    """Whether a lower precision explains the error, emulated, or else read from the bits of the gradient itself."""
    emulated = in_low_precision(
        wrong.output,
        wrong.target,
        baseline=wrong.baseline,
        oracle=wrong.oracle,
        exact=wrong.exact.reshape(wrong.raw.shape),
    )
    left = [(l2_norm(wrong.grad - flat(other)), name) for name, other in emulated]
    least = min(left)[0]
    if least <= lines.PRECISION_FIT.value * wrong.error:
        names = dict.fromkeys(name for size, name in left if size <= AS_GOOD * least)
        return Match("precision", detail=" or ".join(names))
    name = has_low_precision(wrong.raw) if wrong.error <= COARSEST_ERROR * l2_norm(wrong.exact) else None
    return Match("precision", detail=name) if name else None


def _other_loss(wrong: WrongGradient) -> Match | None:
    """The loss whose gradient, times a factor that has a name, leaves the least of the error."""
    if wrong.own_target is None:
        return None
    shaped = wrong.grad.reshape(wrong.raw.shape)
    best, found = OTHER_LOSS_SHARE * wrong.error, None
    screened = _some_rows(wrong, wrong.own_target, shaped)
    for name, loss in other_losses(wrong.output, wrong.own_target, shaped).items():
        if screened is not None and _cannot_fit(loss, *screened, size=l2_norm(wrong.grad)):
            continue
        other = gradient(loss, wrong.output, wrong.own_target)
        if other is None or not other.any():
            continue
        other = flat(other)
        # People divide by other counts than the mean does, so the loss may fit up to a factor; `_times` judges that
        # factor.
        factor = factor_of(wrong.grad, other)
        left = l2_norm(wrong.grad - factor * other)
        fits = left <= lines.OTHER_LOSS_FIT.value * l2_norm(wrong.grad)
        if fits and left < best and (times := _times(factor, wrong)) is not None:
            best, found = left, name + times
    return Match("other loss", detail=found) if found else _smoothed_labels(wrong, wrong.own_target)


def _some_rows(
    wrong: WrongGradient, target: torch.Tensor, grad: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray] | None:
    """Every so many rows of output, target and gradient, for `_cannot_fit`; None where that is not possible.

    A row's gradient of another loss of a regression is its own, but for a factor that all rows have.
    """
    # In one dimension, the cosine is one of all rows together.
    if not target.is_floating_point() or target.shape != wrong.output.shape or wrong.output.dim() < 2:
        return None
    every = len(wrong.output) // SCREENED_ROWS
    return (wrong.output[::every], target[::every], grad[::every]) if every > 1 else None


def _cannot_fit(loss: OtherLoss, output: torch.Tensor, target: torch.Tensor, grad: np.ndarray, *, size: float) -> bool:
    """Whether some rows alone leave so much that the loss does not fit the whole gradient, with whatever factor.

    Args:
        loss: Another loss of a regression.
        output: Some rows.
        target: The same rows.
        grad: The candidate's gradient of these rows; float64.
        size: Norm of the candidate's whole gradient.
    """
    other = gradient(loss, output, target)
    # Where these rows say nothing, all of them are looked at.
    if other is None or not other.any():
        return False
    left = l2_norm(grad - factor_of(grad, other) * other)
    # The factor that is best for all rows leaves at least as much of these; twice the line, since it is rounded.
    return left > 2 * lines.OTHER_LOSS_FIT.value * size


def _times(factor: float, wrong: WrongGradient) -> str | None:
    """The words for a factor: "" for 1; None for a factor without a meaning, with which the loss does not fit."""
    if abs(factor - 1) <= lines.OTHER_LOSS_FIT.value:
        return ""
    rows = len(wrong.grad)
    named = name_constant([factor], rows=[rows], elements=[wrong.grad.size]) if factor > 0 else None
    return f" times {named}" if named else None


def _smoothed_labels(wrong: WrongGradient, target: torch.Tensor) -> Match | None:
    """Whether the labels were smoothed: the error is a multiple of (label - 1/C), the same multiple in every row."""
    if target.is_floating_point() or wrong.output.dim() != 2 or target.shape != wrong.output.shape[:1]:
        return None
    rows, classes = wrong.grad.shape
    # Smoothing takes weight from the label and gives it to all classes alike, which moves the gradient in this
    # direction.
    direction = np.full((rows, classes), -1 / classes)
    direction[np.arange(rows), target.numpy()] += 1
    difference = wrong.grad - wrong.exact
    share = factor_of(difference, direction)
    allowed = max(lines.OTHER_LOSS_FIT.value * l2_norm(difference), wrong.fit * l2_norm(wrong.grad))
    if l2_norm(difference - share * direction) > allowed:
        return None
    return Match("other loss", detail=f"label smoothing of {share * rows:.3g}")


# From the most exact to the least.
WHOLE_RULES: tuple[Rule, ...] = (_nonfinite, _zero, _root, _scaled, _permuted, _offset, _precision, _other_loss)
