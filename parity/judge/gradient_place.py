"""Whether two loops recorded the gradient of backward at different points: one before it was clipped, one after."""

from __future__ import annotations

import numpy as np

from parity.judge.differences import Comparison
from parity.plan import lines


def recorded_elsewhere(comparison: Comparison) -> bool:
    """Whether the gradients of backward differ only because one side alone changes its gradient after recording it.

    Clipping in a hook, or before `recorder.backward()`, gives the optimizer the same gradient as clipping afterwards.
    If both sides change theirs, clipping may hide a wrong gradient, so the gradients of backward are compared.

    Args:
        comparison: The two traces.

    Raises:
        Trouble: A trace is damaged.
    """
    if comparison.own or not all(map(comparison.compares, ("param_grad", "step_grad"))):
        return False
    backward, received = comparison.distances("param_grad"), comparison.distances("step_grad")
    if backward is None or received is None:
        return False
    apart = (backward.whole > lines.FAR.value) & (lines.JUMP.value * received.whole < backward.whole)
    sides = [_changed(comparison, side)[apart] for side in (0, 1)]
    return bool(apart.any()) and any(one.all() and not other.any() for one, other in (sides, sides[::-1]))


def _changed(comparison: Comparison, side: int) -> np.ndarray:
    """Whether a side's gradient is longer or shorter at the optimizer's step than after backward; bool[S]."""
    before, after = (comparison.both(f"{name}_norm")[side] for name in ("param_grad", "step_grad"))
    changed: np.ndarray = np.abs(after - before) > lines.CHANGED_NORM.value * before
    return changed
