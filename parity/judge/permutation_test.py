"""Whether the candidate's replicas are spread like the baseline's, on a device that is not deterministic. NumPy only.

Replicas of equal trials disagree there, so no two runs can be identical. What can be tested is that all loss curves
come from one distribution: then every labelling of them as baseline and candidate was as likely as the one observed.

Letters: S steps, R baseline curves, Q candidate curves, N = R + Q, C columns that describe a curve, L labellings.

Source:
    R. A. Fisher, "The Design of Experiments", 1935, for the permutation test; G. J. Szekely and M. L. Rizzo, "Energy
    statistics: a class of statistics based on distances", J. Stat. Plan. Inference 143, 2013, for the distances.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from parity.plan import lines

LEVEL = lines.TEST_LEVEL.value
ROUNDING_REL = lines.SAME_LOSS.value
FEWEST_REPLICAS = 4  # that can reject at 5 % when each side has as many: 2 / C(8, 4) = 0.029, but 2 / C(6, 3) = 0.1


MOST_LABELLINGS = 5000
SHIFTS = (1, 2, 3, 5, 10)
SIMULATIONS = 200
POWER = 0.9

_LABELLINGS_OF_A_SIMULATION = 500  # where labellings are drawn; it costs little power and keeps many replicas cheap
_SEED = 0
# Added to the ratios of distances before their logarithm: else two curves that coincide by chance outweigh all others.
_RATIO_FLOOR = 0.03
# Far above what rounding does to a separation, far below what tells two labellings apart.
_TIE = 1e-9


@dataclass(frozen=True)
class SpreadTest:
    """What the test found.

    Attributes:
        baseline: Number of its curves.
        candidate: Number of its curves.
        floor_rel: The noise floor: the largest over the steps of the baseline replicas' (max - min) / |mean| of the
            loss; of those that are finite.
        candidate_rel: The same of the candidate's.
        least_p: The smallest p-value that so many replicas can give.
        p_value: None where `least_p` is above `LEVEL`, or the losses differ at no step beyond rounding.
        detectable: The smallest of `SHIFTS`, in sd of the replicas at each step, that the test finds in at least
            `POWER` of the simulations; None where it finds none so often, or there is no noise to simulate.
        power: Share of the simulations that find this shift, or the largest of `SHIFTS`; None where there was no test
            or no noise to simulate.
    """

    baseline: int
    candidate: int
    floor_rel: float
    candidate_rel: float
    least_p: float
    p_value: float | None
    detectable: int | None
    power: float | None

    @property
    def rejected(self) -> bool:
        """Whether the candidate's replicas are not spread like the baseline's."""
        return self.p_value is not None and self.p_value <= LEVEL

    def explain(self) -> str:
        """The test, its level, the p-value and the power, in one sentence."""
        sides = f"{self.candidate} candidate and {self.baseline} baseline replicas"
        if self.least_p > LEVEL:
            return (
                f"{sides} are too few for a permutation test at level {LEVEL:g}: the smallest p-value they can give is "
                f"{self.least_p:.2g}. Use --replicas {FEWEST_REPLICAS} or more."
            )
        if self.p_value is None:
            return f"{sides} have nothing to test: their losses differ at no common step beyond rounding."
        found = "are not spread alike" if self.rejected else "could not be told apart"
        return (
            f"{sides} {found} (relative spread of the loss up to {self.candidate_rel:.2g} and {self.floor_rel:.2g}): "
            f"permutation test of the distances between loss curves, level {LEVEL:g}, p = {self.p_value:.2g}; "
            f"{self._explain_power()}."
        )

    def _explain_power(self) -> str:
        if self.power is None:
            return "its power is unknown, since the losses do not vary within the sides"
        only = " only" if self.detectable is None else ""
        shift = self.detectable or SHIFTS[-1]
        return f"it finds a shift of {shift} sd at each step in {self.power:.0%} of simulations{only}"


def compare_replicas(baseline: np.ndarray, candidate: np.ndarray, *, rounding_rel: float = ROUNDING_REL) -> SpreadTest:
    """Tests whether the candidate's loss curves come from the baseline's distribution; equal input, equal answer.

    NaN, inf and -inf are outcomes like any other: see `describe`.

    Args:
        baseline: float64[R, S], the losses of replicas over the common steps.
        candidate: float64[Q, S].
        rounding_rel: Steps at which all losses are this near, relative to the largest, are not looked at.

    Raises:
        ValueError: A side has no curve, or the sides differ in their steps.
    """
    losses = _pool(baseline, candidate)
    count = len(baseline)
    least = least_p(count, len(candidate))
    p_value, detectable, power = None, None, None
    columns, is_loss = describe(losses, rounding_rel=rounding_rel)
    if least <= LEVEL and columns.size:
        p_value = _p_value(columns, labellings(count, len(candidate)))
        detectable, power = _simulate_power(columns, is_loss, count)
    return SpreadTest(
        baseline=count,
        candidate=len(candidate),
        floor_rel=_largest_relative_spread(losses[:count]),
        candidate_rel=_largest_relative_spread(losses[count:]),
        least_p=least,
        p_value=p_value,
        detectable=detectable,
        power=power,
    )


def permutation_p_value(
    baseline: np.ndarray, candidate: np.ndarray, *, rounding_rel: float = ROUNDING_REL
) -> float | None:
    """The p-value alone, at any number of replicas; None where the losses differ at no step beyond rounding.

    Args:
        baseline: float64[R, S].
        candidate: float64[Q, S].
        rounding_rel: Steps at which all losses are this near, relative to the largest, are not looked at.

    Raises:
        ValueError: A side has no curve, or the sides differ in their steps.
    """
    columns, _ = describe(_pool(baseline, candidate), rounding_rel=rounding_rel)
    return _p_value(columns, labellings(len(baseline), len(candidate))) if columns.size else None


def least_p(baseline: int, candidate: int) -> float:
    """The smallest p-value of so many curves.

    With as many on both sides a labelling and its mirror separate the curves equally well, so both are counted.

    >>> round(least_p(3, 3), 3), round(least_p(4, 4), 3), round(least_p(3, 4), 3)
    (0.1, 0.029, 0.029)
    """
    count = math.comb(baseline + candidate, baseline)
    if count > MOST_LABELLINGS:
        return 1 / MOST_LABELLINGS
    return (2 if baseline == candidate else 1) / count


def labellings(baseline: int, candidate: int, *, most: int = MOST_LABELLINGS) -> np.ndarray:
    """All ways to call `baseline` of the curves the baseline, or `most` of them; the first is the observed one.

    Returns:
        float64[L, N] of 1 for baseline and 0 for candidate. All C(N, R) where `MOST_LABELLINGS` hold them; else the
        observed one and random ones, so that the observed one counts and the level holds.

    Source:
        B. Phipson and G. K. Smyth, "Permutation P-values should never be zero", Stat. Appl. Genet. Mol. Biol. 9, 2010.
    """
    curves = baseline + candidate
    if math.comb(curves, baseline) <= MOST_LABELLINGS:
        chosen = np.array(list(itertools.combinations(range(curves), baseline)))
        members = np.zeros((len(chosen), curves))
        np.put_along_axis(members, chosen, 1.0, axis=1)
        return members
    members = np.tile(np.repeat([1.0, 0.0], [baseline, candidate]), (most, 1))
    np.random.default_rng(_SEED).permuted(members[1:], axis=1, out=members[1:])
    return members


def describe(losses: np.ndarray, *, rounding_rel: float = ROUNDING_REL) -> tuple[np.ndarray, np.ndarray]:
    """The columns whose Euclidean distances are tested: nothing here knows which curve is on which side.

    A step gives its loss and three indicators: is NaN, is inf, is -inf. A loss that is not finite is replaced by the
    mean of the finite ones at this step, so that its indicator alone tells. Columns that are equal in all
    curves, losses but for rounding, are dropped; the others are scaled to an sd of 1 over all curves.

    Args:
        losses: float64[N, S].
        rounding_rel: How near losses are equal, relative to the largest of their step.

    Returns:
        float64[N, C], and bool[C]: which columns are losses.
    """
    finite = np.isfinite(losses)
    scaled = _scale(losses, finite)
    above = np.where(finite, scaled - np.where(finite, scaled, np.inf).min(axis=0), 0.0)
    filled = np.where(finite, above, above.sum(axis=0) / np.maximum(finite.sum(axis=0), 1))
    columns = np.hstack([filled, np.isnan(losses), losses == np.inf, losses == -np.inf])
    is_loss = np.arange(columns.shape[1]) < losses.shape[1]
    differs = columns.max(axis=0) - columns.min(axis=0) > rounding_rel * is_loss
    columns, is_loss = columns[:, differs], is_loss[differs]
    centred = columns - columns.mean(axis=0)
    return centred / np.sqrt(np.square(centred).mean(axis=0)), is_loss


def separation(distances: np.ndarray, members: np.ndarray) -> np.ndarray:
    """How well each labelling separates the curves: large where the distances within its sides are small.

    With D the mean distance within a side, over that of all curves, it is -(R - 1) log D_R - (Q - 1) log D_Q. For
    R = Q the energy distance orders labellings by -(D_R + D_Q), which the wider side rules: between 4 + 4 random walks
    it finds a candidate 10 times as wide in 2 of 3 cases. Logarithms tell ratios, and find it in 99 %; a shift is
    found about as often by either. In the limit of many curves both are least for equal distributions and no others.

    Args:
        distances: float64[N, N].
        members: float64[L, N], of `labellings`.

    Returns:
        float64[L].
    """
    curves = len(distances)
    mean = distances.sum() / (curves * (curves - 1))
    total = np.zeros(len(members))
    for side in (members, 1 - members):
        count = int(side[0].sum())
        within = np.einsum("ln,ln->l", side @ distances, side) / max(count * (count - 1), 1)
        total -= (count - 1) * np.log(within / mean + _RATIO_FLOOR)
    return total


def _pool(baseline: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Both sides as float64[N, S]."""
    shapes = baseline.shape, candidate.shape
    if any(len(shape) != 2 or shape[0] == 0 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"Replicas have losses of shape {list(shapes[0])} and {list(shapes[1])}. "
            "Give [curves, steps], one curve or more on each side, and the same steps."
        )
    return np.concatenate([baseline, candidate]).astype(np.float64)


def _scale(losses: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Each step over its largest finite |loss|, so that no sum or square of it overflows; 0 where it is not finite."""
    known = np.where(finite, losses, 0.0)
    peak = np.abs(known).max(axis=0)
    return known / np.where(peak > 0, peak, 1.0)


def _largest_relative_spread(losses: np.ndarray) -> float:
    """The largest (max - min) / |mean| of the finite losses [N, S] of a step; 0 without any, inf at a mean of 0."""
    finite = np.isfinite(losses)
    scaled = _scale(losses, finite)
    high = np.where(finite, scaled, -np.inf).max(axis=0)
    low = np.where(finite, scaled, np.inf).min(axis=0)
    spreads = high > low
    mean = np.abs(scaled.sum(axis=0) / np.maximum(finite.sum(axis=0), 1))[spreads]
    with np.errstate(divide="ignore", over="ignore"):
        relative = (high[spreads] - low[spreads]) / mean
    return float(relative.max(initial=0.0))


def _distances(columns: np.ndarray) -> np.ndarray:
    """float64[N, N] of float64[N, C]; by differences, since inner products would set equal curves apart."""
    return np.array([np.linalg.norm(columns - curve, axis=1) for curve in columns])


def _p_value(columns: np.ndarray, members: np.ndarray) -> float:
    """Share of the labellings that separate the curves as well as the first does, which counts itself."""
    separations = separation(_distances(columns), members)
    return int((separations >= separations[0] - _TIE).sum()) / len(members)


def _simulate_power(columns: np.ndarray, is_loss: np.ndarray, baseline: int) -> tuple[int | None, float | None]:
    """The smallest shift that is found in `POWER` of the simulations, and the share that find it.

    A curve is simulated by normal weights on all residuals, each about the mean of its own side: a Gaussian process of
    their covariance, in N dimensions. It is not scaled anew, since a shift of as many sd at each step would scale all
    steps alike, and `separation` does not see that.

    Returns:
        As `SpreadTest.detectable` and `SpreadTest.power`.
    """
    curves = len(columns)
    residuals = np.vstack([_residuals(columns[:baseline]), _residuals(columns[baseline:])]) / math.sqrt(curves - 2)
    sd = np.sqrt(np.square(residuals).sum(axis=0)) * is_loss
    if not sd.any():
        return None, None
    # Coordinates with the distances of the columns, so that simulating costs the same at any number of steps.
    _, upper = np.linalg.qr(np.vstack([residuals, sd]).T)
    coordinates = upper.T
    weights = np.random.default_rng(_SEED).standard_normal((SIMULATIONS, curves, curves))
    noise = weights @ coordinates[:-1]
    members = labellings(baseline, curves - baseline, most=_LABELLINGS_OF_A_SIMULATION)
    power = 0.0
    for shift in SHIFTS:
        shifted = noise + shift * np.outer(1 - members[0], coordinates[-1])
        power = sum(_p_value(curve, members) <= LEVEL for curve in shifted) / SIMULATIONS
        if power >= POWER:
            return shift, power
    return None, power


def _residuals(side: np.ndarray) -> np.ndarray:
    """The curves [n, C] less their mean; exactly 0 where they are equal, which a mean of equal numbers may miss."""
    above = side - side.min(axis=0)
    residuals: np.ndarray = above - above.mean(axis=0)
    return residuals
