"""Whether two curves are alike but for the numbers of their steps: counted from 0 and 1, or anew after a resume."""

from dataclasses import dataclass

import numpy as np

from parity.judge.ulp import relative
from parity.scalars.growth import FLOOR
from parity.scalars.log import Series
from parity.scalars.scale import Scale

# Fewer steps that agree may be chance, as they are where a curve hardly changes.
ENOUGH = 8


@dataclass(frozen=True)
class Renumbering:
    """A step of each side from which on they agree, step by step.

    Attributes:
        baseline, candidate: The first such step in the numbering of each side.
    """

    baseline: int
    candidate: int


def renumbering_of(baseline: Series, candidate: Series, scale: Scale) -> Renumbering | None:
    """Looks for other numbers of the candidate's steps with which the curves begin alike, to the rounding of a step.

    Tried are one step earlier and later, and those with which the first or the last steps of both sides are the same.

    Args:
        baseline: Its numbers.
        candidate: Its numbers.
        scale: What they are compared in.
    """
    if not len(baseline.steps) or not len(candidate.steps):
        return None
    ends = [int(baseline.steps[at]) - int(candidate.steps[at]) for at in (0, -1)]
    for offset in sorted({1, -1, *ends} - {0}, key=abs):
        steps, places, others = np.intersect1d(
            baseline.steps, candidate.steps + offset, assume_unique=True, return_indices=True
        )
        left, right = scale.round(baseline.values[places]), scale.round(candidate.values[others])
        if _begin_alike(left, right, scale):
            return Renumbering(int(steps[0]), int(steps[0]) - offset)
    return None


def _begin_alike(left: np.ndarray, right: np.ndarray, scale: Scale) -> bool:
    left, right = left[:ENOUGH], right[:ENOUGH]
    # Too few, or those of a flat curve, which is like itself at any step.
    if len(np.unique(left)) < ENOUGH:
        return False
    with np.errstate(invalid="ignore", over="ignore"):
        share = np.where(scale.differs(left, right), relative(np.abs(left - right), left), 0.0)
    return bool(np.all(share <= FLOOR * scale.resolution(left)))
