"""Whether the candidate's replicas are spread like the baseline's, on a device that is not deterministic. NumPy only.

Replicas of equal trials disagree there, so no two runs can be identical. What can be tested is whether all loss curves
come from one distribution, and how large a shift this test would have detected.

Letters: S steps, R baseline curves, Q candidate curves, N = R + Q, C columns that describe a curve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from parity.judge.permutation_test import (
    FEWEST_REPLICAS,
    LEVEL,
    ROUNDING_REL,
    describe,
    labellings,
    least_p,
    p_value_of,
    pool_curves,
    scale_steps,
)

# The shifts that are simulated, in sd of the replicas at each step, and the share of simulations that has to detect a
# shift.
SHIFTS = (1, 2, 3, 5, 10)
POWER = 0.9
# The sd of a share of 0.9 over 200 simulations is 0.02.
SIMULATIONS = 200
# Number of labellings in each simulation where they are drawn: it costs little power and keeps many replicas cheap.
_LABELLINGS = 500
# Fixed, so that judging twice says the same.
_SEED = 0


@dataclass(frozen=True)
class SpreadTest:
    """What the test of two groups of replicas found.

    Attributes:
        baseline: Number of baseline curves, R.
        candidate: Number of candidate curves, Q.
        floor_rel: The noise floor: the largest (max - min) / |mean| of the baseline's finite losses at any step.
        candidate_rel: The same for the candidate.
        least_p: The smallest p-value that so many replicas can give.
        p_value: None where `least_p` is above `LEVEL`, or the losses differ by no more than rounding at all steps.
        detectable: The smallest of `SHIFTS`, in sd of the replicas at each step, that the test detects in at least
            `POWER` of the simulations; None where it detects none so often, or there is no noise to simulate.
        power: Share of the simulations that detect this shift, or the largest of `SHIFTS`; None where there was no test
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
            return f"{sides} have nothing to test: at no common step do their losses differ by more than rounding."
        found = "are not spread alike" if self.rejected else "could not be distinguished"
        return (
            f"{sides} {found} (relative spread of the loss up to {self.candidate_rel:.2g} and {self.floor_rel:.2g}): "
            f"permutation test of the distances between loss curves, level {LEVEL:g}, p = {self.p_value:.2g}; "
            f"{self._explain_power()}."
        )

    def _explain_power(self) -> str:
        """What the test can detect, in words that continue a sentence."""
        if self.power is None:
            return "its power is unknown, since the losses do not vary within the sides"
        only = " only" if self.detectable is None else ""
        shift = self.detectable or SHIFTS[-1]
        return f"it detects a shift of {shift} sd at each step in {self.power:.0%} of simulations{only}"


def compare_replicas(baseline: np.ndarray, candidate: np.ndarray, *, rounding_rel: float = ROUNDING_REL) -> SpreadTest:
    """Tests whether the candidate's loss curves come from the baseline's distribution; equal input, equal answer.

    NaN, inf and -inf are outcomes like any other: see `permutation_test.describe`.

    Args:
        baseline: Losses of the baseline's replicas over the common steps; float64[R, S].
        candidate: Losses of the candidate's replicas over the same steps; float64[Q, S].
        rounding_rel: Steps at which all losses are this close, relative to the largest, are ignored.

    Returns:
        The test, its p-value and its power; the p-value is None where the test could not reject.

    Raises:
        ValueError: A side has no curve, or the sides differ in their steps.
    """
    losses = pool_curves(baseline, candidate)
    count = len(baseline)
    least = least_p(count, len(candidate))
    p_value, detectable, power = None, None, None
    columns, is_loss = describe(losses, rounding_rel=rounding_rel)
    # A test that cannot reject says nothing, and without columns there is nothing to test.
    if least <= LEVEL and columns.size:
        p_value = p_value_of(columns, labellings(count, len(candidate)))
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


def _largest_relative_spread(losses: np.ndarray) -> float:
    """The largest (max - min) / |mean| of the finite losses [N, S] of a step; 0 without any, inf at a mean of 0."""
    finite = np.isfinite(losses)
    scaled = scale_steps(losses, finite)
    # Infinities as the ends of an empty range: a step without a finite loss has no spread.
    high = np.where(finite, scaled, -np.inf).max(axis=0)
    low = np.where(finite, scaled, np.inf).min(axis=0)
    spreads = high > low
    # Numerator and denominator are scaled alike, so their ratio is that of the losses.
    mean = np.abs(scaled.sum(axis=0) / np.maximum(finite.sum(axis=0), 1))[spreads]
    with np.errstate(divide="ignore", over="ignore"):
        relative = (high[spreads] - low[spreads]) / mean
    return float(relative.max(initial=0.0))


def _simulate_power(columns: np.ndarray, is_loss: np.ndarray, baseline: int) -> tuple[int | None, float | None]:
    """The smallest shift that is detected in `POWER` of the simulations, and the share that detect it.

    A curve is simulated by normal weights on all residuals, each about the mean of its own side: a Gaussian process of
    their covariance, in N dimensions. It is not scaled anew, since a shift of as many sd at each step would scale all
    steps alike, and `separation` does not see that.

    Returns:
        As `SpreadTest.detectable` and `SpreadTest.power`.
    """
    curves = len(columns)
    # Two means are estimated, one for each side, which leaves N - 2 degrees of freedom.
    residuals = np.vstack([_residuals(columns[:baseline]), _residuals(columns[baseline:])]) / math.sqrt(curves - 2)
    # A shift moves losses; that a loss is NaN or infinite cannot be shifted.
    sd = np.sqrt(np.square(residuals).sum(axis=0)) * is_loss
    # Neither side varies at any step, so there is no noise to simulate.
    if not sd.any():
        return None, None
    # Coordinates with the distances of the columns, so that simulating costs the same at any number of steps.
    _, upper = np.linalg.qr(np.vstack([residuals, sd]).T)
    coordinates = upper.T
    weights = np.random.default_rng(_SEED).standard_normal((SIMULATIONS, curves, curves))
    noise = weights @ coordinates[:-1]
    # The same labellings for all simulations: only the curves change.
    members = labellings(baseline, curves - baseline, most=_LABELLINGS)
    power = 0.0
    # In ascending order, so the first that is detected often enough is the smallest.
    for shift in SHIFTS:
        # Only the candidate's curves are shifted; they are 0 in the observed labelling.
        shifted = noise + shift * np.outer(1 - members[0], coordinates[-1])
        power = sum(p_value_of(curve, members) <= LEVEL for curve in shifted) / SIMULATIONS
        if power >= POWER:
            return shift, power
    return None, power


def _residuals(side: np.ndarray) -> np.ndarray:
    """The curves [n, C] less their mean; exactly 0 where they are equal, which a mean of equal numbers may miss."""
    above = side - side.min(axis=0)
    residuals: np.ndarray = above - above.mean(axis=0)
    return residuals
