"""Parameters that nobody moves, and buffers that do not follow from the training.

Letters: T tensors of a quantity.
"""

from __future__ import annotations

import numpy as np

from parity.judge.columns import matrix
from parity.judge.common_steps import Both, CommonSteps
from parity.judge.segments import segments
from parity.store.trace import SKETCH_SUMS


def unmoved(both: Both) -> np.ndarray:
    """Whether neither side moves a parameter in any of the common steps; bool[T]. False where that is not known.

    Raises:
        Trouble: A trace is damaged.
    """
    sides = [_moved(side) for side in both]
    if sides[0] is None or sides[1] is None:
        return np.zeros(1, bool)
    return np.asarray(~(sides[0] | sides[1]))


def moved_by_rounding(both: Both, line: float) -> np.ndarray:
    """Whether the gradient of a parameter is zero but for rounding in the first common step, on both sides; bool[T].

    An optimizer that divides by the gradient's size moves such a parameter (a bias before a batch norm) by whole steps
    in random directions, and it reaches nothing. False where that is not known.

    Args:
        both: The common steps of the two traces.
        line: The largest length of such a gradient, relative to that of all parameters.

    Raises:
        Trouble: A trace is damaged.
    """
    found = np.ones(1, bool)
    for side in both:
        norms = side.list_at("param_grad_norms", 0) if side.steps else None
        if norms is None or len(found) not in (1, len(norms)):
            return np.zeros(1, bool)
        norms = np.nan_to_num(np.asarray(norms, np.float64))
        found = found & (norms > 0) & (norms <= line * np.linalg.norm(norms))
    return found


def _moved(side: CommonSteps) -> np.ndarray | None:
    """Whether a side moves each parameter in any of the common steps; bool[T]. None where that is not known."""
    moved: np.ndarray | None = None
    for segment in segments(side.rows(), side.rows(), side.steps):
        rows = matrix(side.rows().read(["update_norms"], segment.left)["update_norms"])
        if rows is None or not rows[1].all() or (moved is not None and rows[0].shape[1:] != moved.shape):
            return None
        here = np.nan_to_num(rows[0]).any(axis=0)
        moved = np.asarray(here if moved is None else moved | here)
    return moved


def idle_buffers(both: Both) -> np.ndarray:
    """Whether the distance of a buffer says nothing, as that of a counter or of a constant; bool[T] or bool[1].

    Raises:
        Trouble: A trace is damaged.
    """
    return np.asarray(_counters(both) | _constant(both))


def _constant(both: Both) -> np.ndarray:
    """Whether each buffer is a constant on both sides, as a table of positions is: it shows in the outputs."""
    constant = np.ones(1, bool)
    for side in both:
        for name, width in (("buffer_norms", 1), ("buffer_sketches", SKETCH_SUMS)):
            still = _still(side, name) if side.steps > 1 else None
            if still is None:
                return np.zeros(1, bool)
            constant = constant & still.reshape(-1, width).all(axis=1)
    return constant


def _still(side: CommonSteps, name: str) -> np.ndarray | None:
    """Whether each of the W numbers of a column is the same in all rows; bool[W]. None where lengths differ."""
    first, still = None, None
    for segment in segments(side.rows(), side.rows(), side.steps):
        rows = matrix(side.rows().read([name], segment.left)[name])
        if rows is None or (first is not None and rows[0].shape[1:] != first.shape):
            return None
        if first is None or still is None:
            first, still = rows[0][0], np.ones(rows[0].shape[1], bool)
        still &= (rows[0] == first).all(axis=0)
    return still


def _counters(both: Both) -> np.ndarray:
    """Whether each buffer is a counter of batches: what it does to the training shows in the running averages."""
    names = both[0].trace.record.buffer_names or []
    return np.array([name.endswith("num_batches_tracked") for name in names], bool)
