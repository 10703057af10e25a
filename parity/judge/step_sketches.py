"""The sketches of single steps, and whether one is a multiple of another. Sketches are linear.

Letters: T tensors of a quantity.
"""

from __future__ import annotations

import numpy as np

from parity.judge.columns import lists
from parity.judge.common_steps import CommonSteps
from parity.judge.segments import segments
from parity.store.trace import SKETCH_SUMS

# Largest part of a difference that a pattern may leave, relative. Sketches of rounding are off by some 1e-6; a pattern
# that does not fit leaves some 1.
FIT = 0.02


def sketches_at(side: CommonSteps, quantity: str, index: int) -> np.ndarray | None:
    """The sketches of a step; float64[T, 8]. None where the step does not exist or its sketches are not stored."""
    row = side.list_at(f"{quantity}_sketches", index) if 0 <= index < side.steps else None
    return None if row is None else np.nan_to_num(np.asarray(row, np.float64).reshape(-1, SKETCH_SUMS))


def gradients_at(side: CommonSteps, index: int) -> np.ndarray | None:
    """The sketches of the gradients that the optimizer received; float64[T, 8], or None."""
    # Stored only where something has changed the gradient between backward and the optimizer's step.
    found = sketches_at(side, "step_grad", index)
    return sketches_at(side, "param_grad", index) if found is None else found


def parameters_before(side: CommonSteps, index: int) -> np.ndarray | None:
    """The sketches of the parameters before a step: those at the beginning, and all updates since; or None."""
    initial = side.trace.record.initial_sketches
    if initial is None:
        return None
    total = np.asarray(initial, np.float64)
    rows = side.trace.rows(0)
    # Segment by segment, since the sketches of a long trace take gigabytes.
    for segment in segments(rows, rows, side.begin + index):
        for row in lists(rows.read(["update_sketches"], segment.left)["update_sketches"]):
            if row is None:
                return None
            total = total + np.asarray(row, np.float64)
    return total.reshape(-1, SKETCH_SUMS)


def factor_between(left: np.ndarray, right: np.ndarray, *, fit: float = FIT) -> float | None:
    """The factor by which `left` has to be multiplied to give `right`; None where no factor does.

    Args:
        left: float64[N].
        right: float64[N].
        fit: Largest part of `right` that the multiple may leave, relative.
    """
    size = float(left @ left)
    if not np.isfinite(size) or not size or not np.isfinite(right).all():
        return None
    factor = float(left @ right) / size
    rest = np.linalg.norm(right - factor * left)
    return factor if rest <= fit * np.linalg.norm(right) or (not right.any() and not factor) else None
