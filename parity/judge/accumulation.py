"""Steps that are cut into several batches, one after the other or one a rank: what that says of a difference.

Letters: R rows of a step; K batches of a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from parity.judge.differences import Comparison
from parity.plan import lines

# Quantities whose difference other factors explain.
_SCALED = ("output_grad", "target_grad", "param_grad")


def explain_batches(comparison: Comparison, index: int, quantity: str) -> str | None:
    """What the batches of a step have to do with a difference that rounding cannot explain; None where nothing.

    Args:
        comparison: The two traces.
        index: Position of the step among the common ones.
        quantity: The quantity that differs.

    Raises:
        Trouble: A trace is damaged.
    """
    if comparison.own:
        return _explain_parts(comparison, "each rank has rows of its own")
    if not comparison.state.known or not comparison.state.accumulated[index]:
        return None
    if quantity in ("output", "buffer"):
        return _explain_parts(comparison, "the steps are cut into other batches")
    return _explain_factors(comparison, index) if quantity in _SCALED else None


def _explain_parts(comparison: Comparison, how: str) -> str | None:
    """Why a model computes other numbers for parts of a batch, in words; None where nothing is known of it."""
    if _has_batch_statistics(comparison):
        return f"{how}, and a model that normalises over its batch (BatchNorm) computes other numbers for them"
    if _draws(comparison):
        return f"{how}, and draws other random numbers for them (dropout, or what prepares the data)"
    return None


def _draws(comparison: Comparison) -> bool:
    """Whether the baseline draws random numbers."""
    side = comparison.common[0]
    if (words := side.words("generator_digests")) is not None:
        return bool((words != words[0]).any())
    rows = [row for row in side.lists("generator_digests") if row is not None]
    return any(not np.array_equal(row, rows[0]) for row in rows)


def _has_batch_statistics(comparison: Comparison) -> bool:
    """Whether a module of the baseline keeps running averages of its batches."""
    return any(name.endswith("running_mean") for name in comparison.baseline.record.buffer_names or [])


def _explain_factors(comparison: Comparison, index: int) -> str | None:
    """In words, the factors where they account for the ratio of the two gradients; None where they do not."""
    sides = comparison.state.batches_at(index)
    rows = [int(side[index]) for side in comparison.both("rows")]
    norms = [float(side[index]) for side in comparison.both("output_grad_norm")]
    observed = norms[1] / norms[0] if norms[0] > 0 else math.nan
    for summed in (False, True):
        weights = [_weights(*side, rows=count, summed=summed) for side, count in zip(sides, rows, strict=True)]
        if any(each is None for each in weights) or len({len(each) for each in weights if each is not None}) != 1:
            return None
        ratios = np.divide(weights[1], weights[0])  # type: ignore[arg-type]  # None was excluded above
        margin = 1 + lines.CONSTANT_FIT.value
        if not ratios.min() / margin <= observed <= ratios.max() * margin:
            continue
        if np.allclose(ratios, 1, rtol=lines.SAME_SETTING.value, atol=0):
            return None  # the factors belong to these batches, and the gradients are as large as they ought to be
        return _words(sides[0], sides[1], rows=rows, ratios=ratios, summed=summed)
    return None


def _weights(factors: Sequence[float], batches: Sequence[int], *, rows: int, summed: bool) -> np.ndarray | None:
    """What the loss of each row is multiplied by, float64[R], for losses that are sums or means over rows.

    None where this is not known.
    """
    batches = batches or [rows]
    if len(factors) != len(batches) or not all(batches) or not all(factors):
        return None
    return np.repeat(
        [factor / (1 if summed else count) for factor, count in zip(factors, batches, strict=True)], batches
    )


def _words(
    baseline: tuple[Sequence[float], Sequence[int]],
    candidate: tuple[Sequence[float], Sequence[int]],
    *,
    rows: Sequence[int],
    ratios: np.ndarray,
    summed: bool,
) -> str:
    """The factors in words."""
    shown = []
    for (factors, batches), count in zip((baseline, candidate), rows, strict=True):
        shown.append(f"{_listed(factors)} for batches of {_listed(batches or [count])} rows")
    found = f"the factors of the losses are {shown[0]} in the baseline and {shown[1]} in the candidate"
    if np.allclose(ratios, ratios[0], rtol=lines.SAME_SETTING.value, atol=0):
        return f"{found}: every gradient is scaled by {ratios[0]:.6g}"
    what = "factors that differ for losses that are sums over rows" if summed else "a mean of means over unequal counts"
    return f"{found}, {what}: the gradients of rows are scaled by {ratios.min():.6g} to {ratios.max():.6g}"


def _listed(values: Sequence[float]) -> str:
    """Numbers in words.

    >>> _listed([0.5, 0.25, 0.25])
    '0.5, 0.25 and 0.25'
    >>> _listed([0.125] * 8)
    '0.125 (8 times)'
    """
    found = [f"{value:.6g}" for value in values]
    if len(set(found)) == 1:
        return found[0] if len(found) == 1 else f"{found[0]} ({len(found)} times)"
    if len(found) > 8:
        found = [*found[:7], "…", found[-1]]
    return f"{', '.join(found[:-1])} and {found[-1]}"
