"""What is true of a pair, without parity: where the two part when they are trained in float64.

Two loops that mean the same then agree to far more digits than any line of parity; two that do not are apart.
"""

import numpy as np

from .loop import History

# Right pairs are apart by 1e-13 (the square root of it where Adam divides by a gradient that is nearly zero); the
# smallest faults, a decay of 1e-4 and eps inside of the root, by 1e-8 and more.
APART = 1e-9


def distances(baseline: History, candidate: History) -> np.ndarray:
    """The largest relative distance of loss, parameters and buffers after each common step; float64[S]."""
    first = max(baseline.first_step, candidate.first_step)
    sides = [
        zip(*(getattr(side, name)[first - side.first_step :] for side in (baseline, candidate)), strict=False)
        for name in ("losses", "parameters", "buffers")
    ]
    return np.array([max(_distance(*each) for each in step) for step in zip(*sides, strict=True)])


def _distance(baseline: np.ndarray | float, candidate: np.ndarray | float) -> float:
    """||candidate - baseline|| / ||baseline||; infinite where one has a NaN, or another number of elements."""
    if np.shape(baseline) != np.shape(candidate):
        return np.inf
    apart = np.linalg.norm(np.subtract(candidate, baseline)) / max(float(np.linalg.norm(baseline)), 1e-300)
    return float(apart) if np.isfinite(apart) else np.inf


def parting(baseline: History, candidate: History) -> int | None:
    """The step after which two loops are apart in float64, or None."""
    apart = distances(baseline, candidate) > APART
    return int(np.argmax(apart)) + max(baseline.first_step, candidate.first_step) if apart.any() else None
