"""Numbers of two traces that are NaN or infinite on one side only."""

from __future__ import annotations

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.verdict import NotFinite
from parity.store.trace import NORMED_QUANTITIES


def not_finite(comparison: Comparison, quantity: str, step: int, *, infinite: bool) -> NotFinite | None:
    """The only side whose loss, or norm of another quantity, is NaN, or infinite if that counts; None if none is."""
    if quantity not in ("loss", *NORMED_QUANTITIES):
        return None
    baseline, candidate = (int(side[step]) for side in finiteness(comparison, quantity, infinite=infinite))
    # Equal on both sides, with or without a NaN: nothing sets them apart.
    if baseline == candidate:
        return None
    worst = max(baseline, candidate)
    return NotFinite("candidate" if candidate == worst else "baseline", "infinite" if worst == 1 else "NaN")


def _number(quantity: str) -> str:
    """The column with the number of a quantity: the loss, or the norm of another quantity."""
    return "loss" if quantity == "loss" else f"{quantity}_norm"


def finiteness(comparison: Comparison, quantity: str, *, infinite: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each side and step: 0 for a finite number, 1 for an infinite one that counts, 2 for a NaN; int64[S] twice."""
    numbers = comparison.both(_number(quantity))
    baseline, candidate = (2 * np.isnan(side) + infinite * np.isinf(side) for side in numbers)
    return baseline, candidate
