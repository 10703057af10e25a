"""Which parameter has made two outputs or updates differ, where the steps' updates and gradients show that.

An update is what a parameter has changed since the step before, so it also has what was added to the parameter outside
of the optimizer's step.

Letters: T parameter tensors.
"""

from __future__ import annotations

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.distances import Distances
from parity.judge.step_sketches import FIT, gradients_at, parameters_before, sketches_at
from parity.plan import lines

# Gradients that agree to this part, relative, have updates that are nearly equally long.
_AGREE = 1e-3
# Two updates are of other lengths where one is this many times as long. An optimizer that divides by the gradient's
# size turns signs of elements that are zero but for rounding, and leaves the length.
_LONGER = 1.5
# How many times longer than another one's an update must be that its own, unequal, gradient is not the reason.
_MUCH_LONGER = 3.0
# Steps before that show how long the updates of a parameter are.
_PAST = 10
# A parameter was changed where its update is this part off from what the gradients make of the other parameters.
_OFF = 0.1
# An update is known only where it is this many roundings of its parameter.
_ROUNDINGS = 100.0
_SIDES = ("baseline", "candidate")


def describe_moved(comparison: Comparison, index: int) -> str | None:
    """Which parameter differs at a step whose outputs do, and why; None where the traces do not show it.

    Args:
        comparison: The two traces.
        index: Position of the step among the common ones.

    Raises:
        Trouble: A trace is damaged.
    """
    found = _measured(comparison)
    if not index or found is None:
        return None
    gradients, updates = found
    unequal = _unequal_length(comparison, gradients, updates, index - 1)
    return unequal or _changed_outside(comparison, gradients, updates, index)


def describe_unequal_update(comparison: Comparison, index: int) -> str | None:
    """A parameter whose update is missing, or has another length after gradients that agree; None where there is none.

    Args:
        comparison: The two traces.
        index: Position of the step among the common ones.

    Raises:
        Trouble: A trace is damaged.
    """
    found = _measured(comparison)
    return _unequal_length(comparison, *found, index) if found else None


def _measured(comparison: Comparison) -> tuple[Distances, Distances] | None:
    """The distances of the gradients that the optimizers received and of the updates, of as many tensors."""
    gradients = comparison.distances("step_grad") or comparison.distances("param_grad")
    updates = comparison.distances("update")
    if gradients is None or updates is None or gradients.tensors != updates.tensors:
        return None
    return gradients, updates


def _unequal_length(comparison: Comparison, gradients: Distances, updates: Distances, index: int) -> str | None:
    """The parameter whose updates differ most in length, after gradients that agree; None where all do, or none."""
    if comparison.state.named[index]:
        return None
    short, long = _lengths(updates, index)
    agree = (gradients.at(index).each[0] <= max(_AGREE, lines.FAR_NARROW.value * comparison.unit)) & (
        np.minimum(*_lengths(gradients, index)) > 0
    )
    apart = agree & _known(comparison, long) & (long > _LONGER * short)
    # Where the updates of all parameters differ in length, no single parameter is the cause.
    if not apart.any() or apart[agree].all():
        return None
    tensor = int(np.argmax(np.where(apart, long - short, 0.0)))
    name = comparison.baseline.record.param_names[tensor]
    step = comparison.first_step + index
    left, right = (float(norm[tensor]) for norm in _norms(updates, index))
    if not short[tensor]:
        side = _SIDES[0 if not left else 1]
        return f"its update is missing: the {side} does not update {name} in step {step}, though it has a gradient"
    return (
        f"the update of {name} in step {step} is {right / left:.3g} times as long in the candidate as in the baseline, "
        "though their gradients agree"
    )


def _changed_outside(comparison: Comparison, gradients: Distances, updates: Distances, index: int) -> str | None:
    """The parameter that was changed outside of the optimizer's step on one side, since the step before."""
    tensor = int(np.argmax(np.nan_to_num(updates.at(index).absolute[0])))
    follows = [_follows(comparison, side, index, tensor) for side in (0, 1)]
    if sorted(map(str, follows)) == ["False", "True"]:
        side = follows.index(False)
    elif (found := _too_long(comparison, gradients, updates, index, tensor)) is not None:
        side = found
    else:
        return None
    name = comparison.baseline.record.param_names[tensor]
    return f"the parameter {name} was changed outside of the optimizer's step in the {_SIDES[side]}"


def _follows(comparison: Comparison, side: int, index: int, tensor: int) -> bool | None:
    """Whether a parameter's update is made of gradient, update before and parameter as all others are.

    Returns:
        None where the others are not made of these either, as those of Adam, or it is between yes and no.
    """
    steps = comparison.common[side]
    update, gradient = sketches_at(steps, "update", index), gradients_at(steps, index)
    if update is None or gradient is None or gradient.shape != update.shape or not gradient[tensor].any():
        return None
    before, parameters = sketches_at(steps, "update", index - 1), parameters_before(steps, index)
    sources = [each for each in (gradient, before, parameters) if each is not None and each.shape == update.shape]
    others = np.arange(len(update)) != tensor
    table = np.stack([each[others].reshape(-1) for each in sources], axis=1)
    wanted = update[others].reshape(-1)
    # As many sums as there are factors can always be explained.
    if len(wanted) <= 2 * len(sources) or not wanted.any() or not np.isfinite(table).all():
        return None
    factors, *_ = np.linalg.lstsq(table, wanted, rcond=None)
    if np.linalg.norm(wanted - table @ factors) > FIT * np.linalg.norm(wanted):
        return None
    made = sum(factor * each[tensor] for factor, each in zip(factors, sources, strict=True))
    off = np.linalg.norm(update[tensor] - made) / max(np.linalg.norm(made), np.linalg.norm(update[tensor]), 1e-300)
    return True if off <= FIT else False if off > _OFF else None


def _too_long(comparison: Comparison, gradients: Distances, updates: Distances, index: int, tensor: int) -> int | None:
    """The side on which an update is far longer than its gradient, its own past and the other updates explain."""
    lengths = [float(norm[tensor]) for norm in _norms(updates, index)]
    side = int(np.argmax(lengths))
    slopes = [float(norm[tensor]) for norm in _norms(gradients, index)]
    before = updates.between(max(0, index - _PAST), index)
    past = (before.norms, before.other_norms)[side][:, tensor]
    if min(slopes) <= 0 or not past.all() or not np.isfinite([*lengths, *slopes]).all():
        return None
    explained = max(1.0, slopes[side] / slopes[1 - side])
    short, long = _lengths(updates, index)
    others = np.delete(long > (long[tensor] / max(short[tensor], 1e-300)) / _MUCH_LONGER * short, tensor)
    is_long = lengths[side] > _MUCH_LONGER * max(explained * lengths[1 - side], float(past.max()))
    return side if is_long and not others.any() and _known(comparison, long)[tensor] else None


def _lengths(distances: Distances, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The shorter and the longer of the two norms of each tensor; float64[T] each."""
    left, right = _norms(distances, index)
    return np.minimum(left, right), np.maximum(left, right)


def _norms(distances: Distances, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The norms of each tensor on both sides; float64[T] each."""
    here = distances.at(index)
    return here.norms[0], here.other_norms[0]


def _known(comparison: Comparison, length: np.ndarray) -> np.ndarray:
    """Whether updates of these lengths are more than the rounding of their parameters; bool[T]."""
    sizes = comparison.baseline.record.initial_norms
    if not sizes or len(sizes) != len(length):
        return np.zeros(len(length), bool)
    known: np.ndarray = length > _ROUNDINGS * comparison.unit * np.array(sizes)
    return known
