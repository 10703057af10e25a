"""The choice of points of a long series that are drawn, so that nothing that stands out is lost.

Letters: N is the number of values of a series, K the number of those that are drawn.
"""

from collections.abc import Iterable

import numpy as np


def thin(values: np.ndarray, *, most: int, always: Iterable[int] = ()) -> np.ndarray:
    """Chooses values of a series: the smallest and largest of each stretch, and whatever must not be lost.

    It keeps the two ends, the extremes of each stretch (and so those of the series), the values asked for, and every
    value that is not finite; where there are more of those than half of `most`, the first and last of each kind in each
    stretch.

    Args:
        values: The series; float64[N].
        most: Approximate number of values to keep, at least 4.
        always: Indices to keep in any case.

    Returns:
        Indices in ascending order, all of them where N is at most `most`; int64[K].

    >>> thin(np.array([0.0, 0, 0, 9, 0, 0, 0, 0, np.nan, 0, 0, 0]), most=4)
    array([ 0,  3,  8, 11])
    """
    count = len(values)
    if count <= most:
        return np.arange(count)
    stretches = max(1, most // 4)  # each keeps up to two extremes, and may keep values that are not finite
    # Rounded up, so that the stretches cover all values.
    width = -(-count // stretches)
    finite = np.isfinite(values)
    # An index may be asked for that the series does not have; it is removed at the end.
    kept = [np.array([0, count - 1]), np.array(sorted(always), np.int64)]
    # The smallest of the negated values is the largest.
    for sign in (1, -1):
        lowest = _lowest(np.where(finite, sign * values, np.inf), width)
        # In a stretch without a finite value the index means nothing.
        kept.append(lowest[finite[lowest]])
    kept.append(_not_finite(values, width, most=most // 2))
    # An index is often chosen for several reasons; `unique` also sorts.
    chosen = np.unique(np.concatenate(kept))
    return chosen[(chosen >= 0) & (chosen < count)]


def _not_finite(values: np.ndarray, width: int, *, most: int) -> np.ndarray:
    """Indices of values that are not finite: all, or of many the first and last of each kind in each stretch."""
    places = np.flatnonzero(~np.isfinite(values))
    if len(places) <= most:
        return places
    kept = [np.empty(0, np.int64)]
    # Each kind by itself: many NaNs must not hide a single infinity.
    for kind in (np.isnan(values), np.isposinf(values), np.isneginf(values)):
        of_kind = np.flatnonzero(kind)
        for side in (of_kind, of_kind[::-1]):
            # `unique` gives the first place in each stretch; of the reversed places, this is the last.
            kept.append(side[np.unique(side // width, return_index=True)[1]])
    return np.concatenate(kept)


def _lowest(values: np.ndarray, width: int) -> np.ndarray:
    """Index of the smallest value of each stretch; int64[stretches]."""
    stretches = -(-len(values) // width)
    # Padded with infinity, which is never smaller than a value, to whole stretches.
    padded = np.full(stretches * width, np.inf)
    padded[: len(values)] = values
    lowest: np.ndarray = np.arange(stretches) * width + padded.reshape(stretches, width).argmin(axis=1)
    return lowest
