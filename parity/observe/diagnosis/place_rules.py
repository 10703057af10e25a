"""Rules about places: some rows, columns or elements of the gradient are wrong while the others are right.

Shapes: R rows, C columns (all further dimensions flattened); gradients are float64 on the CPU.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from parity.observe.diagnosis.wrong_gradient import Match, Rule, WrongGradient, factor_of
from parity.observe.norms import l2_norm
from parity.store.tables import FindingKind

# Ranges of indices that are written out; further ones are counted.
MOST_RANGES = 4
# The axis over which each kind is measured.
_AXES: tuple[tuple[int, FindingKind], ...] = ((1, "rows"), (0, "columns"))


def _rows_or_columns(wrong: WrongGradient) -> Match | None:
    wrong_elements = _wrong_elements(wrong)
    for axis, kind in _AXES:
        # A row or column is wrong if its error is beyond rounding beside its own norm; one that is nearly zero is
        # measured beside ordinary elements instead.
        places = np.linalg.norm(wrong.grad - wrong.exact, axis=axis) > wrong.fit * (
            np.linalg.norm(wrong.exact, axis=axis) + wrong.near_zero * math.sqrt(wrong.grad.shape[axis])
        )
        # None or all of them wrong says nothing about the place.
        if not 0 < places.sum() < places.size:
            continue
        grad, exact, elements = (
            np.compress(places, side, axis=1 - axis) for side in (wrong.grad, wrong.exact, wrong_elements)
        )
        how = _how(grad, exact, wrong.fit) or _how_each(grad, exact, axis, wrong.fit)
        # Otherwise single wrong elements lie in these rows or columns, or the right ones are right by chance.
        if elements.sum() > elements.size / 2 and (how or 2 * places.sum() <= places.size):
            return Match(kind, detail=f"{kind} {_ranges(np.flatnonzero(places))} of {places.size} {how}".strip())
    return None


def _elements(wrong: WrongGradient) -> Match | None:
    places = _wrong_elements(wrong)
    if not places.any() or places.all():
        return None
    how = _how(wrong.grad[places], wrong.exact[places], wrong.fit)
    if not how and 2 * places.sum() > places.size:  # the right ones may be right by chance
        return None
    row, column = np.argwhere(places)[0]
    detail = f"{places.sum()} of {places.size} elements, the first [{row}, {column}] {how}".strip()
    return Match("elements", detail=detail)


def _wrong_elements(wrong: WrongGradient) -> np.ndarray:
    """Which elements are wrong; bool[R, C]."""
    places: np.ndarray = np.abs(wrong.grad - wrong.exact) > wrong.fit * np.abs(wrong.exact) + wrong.near_zero
    return places


def _how(grad: np.ndarray, exact: np.ndarray, fit: float) -> str:
    """What all wrong elements have in common, in parentheses: zero, or one factor; else ""."""
    if not grad.any():
        return "(zero)"
    factor = factor_of(grad, exact)
    return f"({factor:.6g} times)" if factor and l2_norm(grad - factor * exact) <= fit * l2_norm(grad) else ""


def _how_each(grad: np.ndarray, exact: np.ndarray, axis: int, fit: float) -> str:
    """The smallest and largest factor, if each row or column is the right one times a factor of its own; else ""."""
    # The least-squares factor of each row or column; 0 for one that is zero, without a division by zero.
    sizes = (exact**2).sum(axis=axis, keepdims=True)
    factors = (grad * exact).sum(axis=axis, keepdims=True) / np.where(sizes == 0, 1, sizes)
    fits = l2_norm(grad - factors * exact) <= fit * l2_norm(grad)
    return f"(each times a factor of its own, {factors.min():.6g} to {factors.max():.6g})" if fits else ""


def _ranges(indices: np.ndarray) -> str:
    """Indices as people write them: "0, 3 to 7"; with a regular gap "1, 3, … 95 (every second)"."""
    # A regular gap shows a stride; two or three indices can have one by chance.
    gaps = np.diff(indices)
    if len(indices) > 3 and gaps[0] > 1 and (gaps == gaps[0]).all():
        return f"{indices[0]}, {indices[1]}, … {indices[-1]} (every {_ordinal(int(gaps[0]))})"
    # A run begins wherever the index does not follow the one before.
    starts = [0, *(np.flatnonzero(gaps != 1) + 1)]
    runs = [indices[start:stop] for start, stop in itertools.pairwise([*starts, len(indices)])]
    shown = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs[:MOST_RANGES]]
    return ", ".join(shown) + (f", … ({len(indices)})" if len(runs) > MOST_RANGES else "")


def _ordinal(number: int) -> str:
    return "second" if number == 2 else "third" if number == 3 else f"{number}th"


PLACE_RULES: tuple[Rule, ...] = (_rows_or_columns, _elements)
