"""What is true of a pair, without parity: where the two part when they are trained in float64.

Two loops that mean the same then agree to far more digits than any line of parity; two that do not are apart.
"""

from collections.abc import Iterator

import numpy as np

from .loop import History, Loop, float64, train
from .pair import Pair

# Right pairs are apart by 1e-13 (the square root of it where Adam divides by a gradient that is nearly zero); the
# smallest faults, a decay of 1e-4 and eps inside of the root, by 1e-8 and more.
APART = 1e-9


class Histories:
    """Histories of loops in float64, trained once each."""

    def __init__(self) -> None:
        self._known: dict[Loop, History] = {}

    def of(self, loop: Loop) -> History:
        """The history of a loop."""
        if loop not in self._known:
            with float64():
                self._known[loop] = train(loop)
        return self._known[loop]


def distances(baseline: History, candidate: History) -> np.ndarray:
    """The largest relative distance of loss, parameters and buffers after each common step; float64[S]."""
    # A resumed loop has the last steps only.
    steps = min(len(baseline.losses), len(candidate.losses))
    return np.array(
        [max(_distance(*sides) for sides in _sides(baseline, candidate, -step)) for step in range(steps, 0, -1)]
    )


def _sides(baseline: History, candidate: History, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield np.array([baseline.losses[step]]), np.array([candidate.losses[step]])
    yield baseline.parameters[step], candidate.parameters[step]
    yield baseline.buffers[step], candidate.buffers[step]


def _distance(baseline: np.ndarray, candidate: np.ndarray) -> float:
    """||candidate - baseline|| / ||baseline||; infinite where one has a NaN, or another number of elements."""
    if baseline.shape != candidate.shape:
        return np.inf
    apart = np.linalg.norm(candidate - baseline) / max(float(np.linalg.norm(baseline)), 1e-300)
    return float(apart) if np.isfinite(apart) else np.inf


def parting(pair: Pair, histories: Histories) -> int | None:
    """The step after which the two are apart in float64, or None."""
    baseline, candidate = histories.of(pair.baseline), histories.of(pair.candidate)
    apart = distances(baseline, candidate) > APART
    return int(np.argmax(apart)) + pair.candidate.first_step if apart.any() else None
