"""The least distances that can be a jump, and the tensors that are left out of them.

Letters: S steps that both traces have; T tensors of a quantity.
"""

from __future__ import annotations

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.window import MOST, largest_before
from parity.plan import lines


def least_jump(quantity: str, unit: float) -> float:
    """The least relative distance of a quantity that can be a jump.

    Args:
        quantity: One of `trace.SKETCHED_QUANTITIES`.
        unit: The unit roundoff u.
    """
    line = lines.JUMP_GRADIENT if quantity == "param_grad" else lines.JUMP_FLOOR
    return max(line.value, lines.FAR_NARROW.value * unit)


def least_jumps(comparison: Comparison, quantity: str) -> np.ndarray:
    """The least relative distance that can be a jump at each step; float64[S].

    Args:
        comparison: The two traces.
        quantity: One of `trace.SKETCHED_QUANTITIES`.

    Raises:
        Trouble: A trace is damaged.
    """
    floor = np.full(comparison.steps, least_jump(quantity, comparison.unit))
    if quantity not in ("update", "buffer"):
        return floor
    line = lines.JUMP_UPDATE if quantity == "update" else lines.JUMP_BUFFER
    quiet = np.full(comparison.steps, max(line.value, 64 * comparison.unit))
    if quantity == "buffer":
        quiet = np.maximum(quiet, _from_updates(comparison))
    return np.where(_quiet(comparison), np.minimum(quiet, floor), floor)


def judged_distance(comparison: Comparison, quantity: str) -> np.ndarray | None:
    """The relative distance of all tensors together in which a jump is looked for, float64[S]; None if it is not known.

    Args:
        comparison: The two traces.
        quantity: One of `trace.SKETCHED_QUANTITIES`.

    Raises:
        Trouble: A trace is damaged.
    """
    distances = comparison.distances(quantity)
    if distances is None:
        return None
    parts = distances.each_part()
    return np.concatenate(
        [part.without(noise_of(comparison, quantity, begin, begin + part.steps)).whole for begin, part in parts]
    )


def _quiet(comparison: Comparison) -> np.ndarray:
    """Whether the gradients have been near each other for some steps, so that their updates must be, too; bool[S]."""
    gradients = comparison.distances("step_grad")
    if gradients is None:
        return np.zeros(comparison.steps, bool)
    whole = np.nan_to_num(gradients.whole, nan=np.inf)
    largest = np.maximum(whole, largest_before(np.minimum(whole, MOST)[:, None])[:, 0])
    quiet: np.ndarray = largest < lines.QUIET.value
    return quiet


def _from_updates(comparison: Comparison) -> np.ndarray:
    """The distance of the buffers that follows from that of the last two updates at each step; float64[S].

    An average of the parameters has the update of the step in it, the statistics of a batch norm that of the step
    before. Though the gradients are near each other, noise in the faint ones may have turned an update of Adam.
    """
    updates, buffers = comparison.distances("update"), comparison.distances("buffer")
    if updates is None or buffers is None:
        return np.full(comparison.steps, np.inf)
    moved = np.where(np.isnan(updates.whole_absolute), np.inf, updates.whole_absolute)
    moved[1:] = np.maximum(moved[1:], moved[:-1])
    follows: np.ndarray = np.full(comparison.steps, np.inf)
    np.divide(lines.JUMP_UPDATE_FOLLOWS.value * moved, buffers.whole_norm, out=follows, where=buffers.whole_norm > 0)
    return follows


def noise_of(comparison: Comparison, quantity: str, begin: int, end: int) -> np.ndarray | None:
    """Which tensors to leave out at some steps, since their gradient is zero but for rounding.

    An optimizer that divides a gradient by its size, as Adam does, makes whole steps of the noise of such a gradient.

    Args:
        comparison: The two traces.
        quantity: One of `trace.SKETCHED_QUANTITIES`.
        begin: Position of the first of the steps.
        end: Position after the last.

    Returns:
        bool[end - begin, T]; None where no tensor is left out.

    Raises:
        Trouble: A trace is damaged.
    """
    gradients = comparison.distances("step_grad") if quantity == "update" else None
    if gradients is None:
        return None
    first = max(0, begin - int(lines.JUMP_WINDOW.value))
    here = gradients.between(first, end)
    distances = np.nan_to_num(here.each, nan=np.inf)
    noise = distances > lines.NOISE.value
    # As the steps before have shown, since a fault moves the gradient of its own step as well. Where all of them were
    # equal to the bit they have shown nothing.
    recent = np.where(largest_before(np.minimum(distances, MOST)) > 0, largest_before(noise.astype(float)) > 0, noise)
    # Trainings that have drifted apart have gradients that far apart in all tensors, which are not noise.
    found: np.ndarray = recent & (here.norms < lines.NOISE_LENGTH.value * here.whole_norm[:, None])
    return found[begin - first :] if found[begin - first :].any() else None
