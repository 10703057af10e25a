"""A permutation test of loss curves: whether two groups of them come from one distribution. NumPy only.

If they do, every labelling of the curves as baseline and candidate was as likely as the observed one, so the p-value is
the share of the labellings that separate the curves at least as well.

Letters: S steps, R baseline curves, Q candidate curves, N = R + Q, C columns that describe a curve, L labellings.

Source:
    R. A. Fisher, "The Design of Experiments", 1935, for the permutation test; G. J. Szekely and M. L. Rizzo, "Energy
    statistics: a class of statistics based on distances", J. Stat. Plan. Inference 143, 2013, for the distances.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from parity.plan import lines

# Names for readers of the formulas; value and source of both are in plan/lines.
LEVEL = lines.TEST_LEVEL.value
ROUNDING_REL = lines.SAME_LOSS.value
# Fewest curves of each side that can reject at 5 %: 2 / C(8, 4) = 0.029, but 2 / C(6, 3) = 0.1.
FEWEST_REPLICAS = 4
# More labellings than these are drawn at random: a p-value near 0.05 is then right to 0.003 (one sd), and 7 + 7 curves
# are still counted exactly.
MOST_LABELLINGS = 5000

# Fixed, so that judging twice says the same.
_SEED = 0
# Added to the ratios of distances before their logarithm: else two curves that coincide by chance outweigh all others.
# Chosen so that only curves that nearly coincide reach it: 3 % of the mean distance.
_RATIO_FLOOR = 0.03
# Separations this near are equal: far above the rounding of a separation, far below the distance of two labellings.
_TIE = 1e-9


def permutation_p_value(
    baseline: np.ndarray, candidate: np.ndarray, *, rounding_rel: float = ROUNDING_REL
) -> float | None:
    """The p-value alone, at any number of replicas.

    Args:
        baseline: Losses of the baseline's replicas; float64[R, S].
        candidate: Losses of the candidate's replicas; float64[Q, S].
        rounding_rel: Steps at which all losses are this close, relative to the largest, are ignored.

    Returns:
        The p-value, between 0 and 1; None where the losses differ at no step by more than rounding.

    Raises:
        ValueError: A side has no curve, or the sides differ in their steps.
    """
    columns, _ = describe(pool_curves(baseline, candidate), rounding_rel=rounding_rel)
    # Without a column all curves are equal, and no labelling separates them better than another.
    return p_value_of(columns, labellings(len(baseline), len(candidate))) if columns.size else None


def least_p(baseline: int, candidate: int) -> float:
    """The smallest p-value that the given numbers of curves can give.

    With equally many on both sides, a labelling and its mirror separate the curves equally well, so both are counted.

    Args:
        baseline: Number of baseline curves, R.
        candidate: Number of candidate curves, Q.

    >>> round(least_p(3, 3), 3), round(least_p(4, 4), 3), round(least_p(3, 4), 3)
    (0.1, 0.029, 0.029)
    """
    count = math.comb(baseline + candidate, baseline)
    if count > MOST_LABELLINGS:
        # Of drawn labellings only the observed one is sure to separate the curves that well.
        return 1 / MOST_LABELLINGS
    return (2 if baseline == candidate else 1) / count


def labellings(baseline: int, candidate: int, *, most: int = MOST_LABELLINGS) -> np.ndarray:
    """The ways to label `baseline` of the curves as the baseline, or a sample of them; the first is the observed one.

    Args:
        baseline: Number of baseline curves, R.
        candidate: Number of candidate curves, Q.
        most: Number of labellings to draw where there are more than `MOST_LABELLINGS`.

    Returns:
        float64[L, N] of 1 for baseline and 0 for candidate. All C(N, R) labellings if they are at most
        `MOST_LABELLINGS`; else the observed one and random ones, so that the observed one counts and the level holds.

    Source:
        B. Phipson and G. K. Smyth, "Permutation P-values should never be zero", Stat. Appl. Genet. Mol. Biol. 9, 2010.
    """
    curves = baseline + candidate
    if math.comb(curves, baseline) <= MOST_LABELLINGS:
        # `combinations` begins with the first positions, which are the baseline's: the observed labelling is row 0.
        chosen = np.array(list(itertools.combinations(range(curves), baseline)))
        members = np.zeros((len(chosen), curves))
        np.put_along_axis(members, chosen, 1.0, axis=1)
        return members
    members = np.tile(np.repeat([1.0, 0.0], [baseline, candidate]), (most, 1))
    # `permuted` shuffles each row by itself; row 0, the observed labelling, is left as it is.
    np.random.default_rng(_SEED).permuted(members[1:], axis=1, out=members[1:])
    return members


def describe(losses: np.ndarray, *, rounding_rel: float = ROUNDING_REL) -> tuple[np.ndarray, np.ndarray]:
    """The columns whose Euclidean distances are tested: nothing here knows which curve is on which side.

    A step gives its loss and three indicators: is NaN, is inf, is -inf. A loss that is not finite is replaced by the
    mean of the finite ones at this step, so that only its indicator shows it. Columns that are equal in
    all curves (losses: to rounding) are dropped; the others are scaled to an sd of 1 over all curves.

    Args:
        losses: float64[N, S].
        rounding_rel: Losses of a step that are this close, relative to the largest, are equal.

    Returns:
        float64[N, C], and bool[C]: which columns are losses.
    """
    finite = np.isfinite(losses)
    scaled = scale_steps(losses, finite)
    # Above the smallest loss of the step, so that equal losses are exactly 0 and their mean is too.
    above = np.where(finite, scaled - np.where(finite, scaled, np.inf).min(axis=0), 0.0)
    filled = np.where(finite, above, above.sum(axis=0) / np.maximum(finite.sum(axis=0), 1))
    # One column for each kind: NaN, inf and -inf are three different outcomes.
    columns = np.hstack([filled, np.isnan(losses), losses == np.inf, losses == -np.inf])
    is_loss = np.arange(columns.shape[1]) < losses.shape[1]
    # Rounding is allowed for losses only: two indicators that differ at all do differ.
    differs = columns.max(axis=0) - columns.min(axis=0) > rounding_rel * is_loss
    columns, is_loss = columns[:, differs], is_loss[differs]
    centred = columns - columns.mean(axis=0)
    return centred / np.sqrt(np.square(centred).mean(axis=0)), is_loss


def separation(distances: np.ndarray, members: np.ndarray) -> np.ndarray:
    """How well each labelling separates the curves: large where the distances within its sides are small.

    With D the mean distance within a side, over that of all curves, it is -(R - 1) log D_R - (Q - 1) log D_Q. For
    R = Q the energy distance orders labellings by -(D_R + D_Q), which the wider side rules: between 4 + 4 random walks
    it finds a candidate 10 times as wide in 2 of 3 cases. Logarithms compare ratios, and find it in 99 %; a shift is
    found about as often by either. In the limit of many curves both are least for equal distributions and no others.

    Args:
        distances: float64[N, N].
        members: float64[L, N], the result of `labellings`.

    Returns:
        float64[L].
    """
    curves = len(distances)
    # The diagonal is 0 and not counted: no curve has a distance from itself.
    mean = distances.sum() / (curves * (curves - 1))
    total = np.zeros(len(members))
    for side in (members, 1 - members):
        count = int(side[0].sum())
        # x' D x of each row x is the sum of the distances within its side. A side of one curve has none, and weight 0.
        within = np.einsum("ln,ln->l", side @ distances, side) / max(count * (count - 1), 1)
        total -= (count - 1) * np.log(within / mean + _RATIO_FLOOR)
    return total


def pool_curves(baseline: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Both sides as float64[N, S], the baseline first.

    Args:
        baseline: Any float dtype[R, S].
        candidate: Any float dtype[Q, S].

    Raises:
        ValueError: A side has no curve, or the sides differ in their steps.
    """
    shapes = baseline.shape, candidate.shape
    if any(len(shape) != 2 or shape[0] == 0 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"Replicas have losses of shape {list(shapes[0])} and {list(shapes[1])}. "
            "Give [curves, steps], one curve or more on each side, and the same steps."
        )
    return np.concatenate([baseline, candidate]).astype(np.float64)


def scale_steps(losses: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Each step over its largest finite |loss|, so that no sum or square of it overflows; 0 where it is not finite.

    Args:
        losses: float64[N, S].
        finite: Which of them are finite; bool[N, S].

    Returns:
        float64[N, S], between -1 and 1.
    """
    # Infinity must not become the peak: it would turn all other losses into 0.
    known = np.where(finite, losses, 0.0)
    peak = np.abs(known).max(axis=0)
    return known / np.where(peak > 0, peak, 1.0)


def _distances(columns: np.ndarray) -> np.ndarray:
    """float64[N, N] of float64[N, C]; by differences, since inner products would give equal curves a distance."""
    return np.array([np.linalg.norm(columns - curve, axis=1) for curve in columns])


def p_value_of(columns: np.ndarray, members: np.ndarray) -> float:
    """The share of the labellings that separate the curves at least as well as the first, which counts too.

    Args:
        columns: The curves, as `describe` returns them; float64[N, C].
        members: float64[L, N], the result of `labellings`.
    """
    separations = separation(_distances(columns), members)
    # Ties count against the observed labelling, so that the level holds.
    return int((separations >= separations[0] - _TIE).sum()) / len(members)
