"""How the difference of two curves goes on after its first step: gradually, as rounding grows, or in a jump."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

# Between two logged steps, the largest difference so far may grow by this factor before it counts as a jump. Seen in
# 145 pairs of trainings of 150 steps (Adam, AdamW, SGD with momentum) that an ulp of a weight set apart: at most 0.9.
JUMP = 32.0
# In units of the numbers: differences up to here are as rounding of one step leaves them, and may come at once.
FLOOR = 16.0


@dataclass(frozen=True)
class Growth:
    """How a difference goes on.

    Attributes:
        kind: "gradual": it starts with what rounding of a step leaves, and no step adds much more than was there;
            "jump": at `step` it becomes `factor` times the largest before it; "large": it starts beyond rounding of one
            step, `factor` units; "not finite": at `step` one side becomes NaN or infinite.
        step: The step, of the first difference for "gradual" and "large".
        factor: See `kind`; for "gradual" the largest difference over the first, at least one unit.
    """

    kind: Literal["gradual", "jump", "large", "not finite"]
    step: int
    factor: float


def growth_of(steps: np.ndarray, share: np.ndarray, differs: np.ndarray, *, resolution: np.ndarray) -> Growth:
    """Describes how the relative difference of two curves grows.

    Args:
        steps: int64[N].
        share: float64[N], the relative difference; 0 where the numbers are equal, inf where they cannot be compared.
        differs: bool[N], true somewhere.
        resolution: float64[N], the relative size of one unit of the numbers.
    """
    first = int(np.argmax(differs))
    units = share / resolution
    if units[first] > FLOOR * JUMP and np.isfinite(units[first]):
        return Growth("large", int(steps[first]), float(units[first]))
    # Of each step, the largest difference before it, and no less than what rounding of one step leaves: the distance of
    # two curves that cross is 0 for a moment.
    with np.errstate(invalid="ignore", over="ignore"):
        floor = FLOOR * resolution
        before = np.maximum(np.concatenate([[0.0], np.maximum.accumulate(share)[:-1]]), floor)
        jumps = np.flatnonzero(share > JUMP * before)
    broken = np.flatnonzero(np.isinf(share))
    if len(broken) and (not len(jumps) or broken[0] <= jumps[0]):
        return Growth("not finite", int(steps[broken[0]]), float("inf"))
    if len(jumps):
        at = jumps[0]
        return Growth("jump", int(steps[at]), float(share[at] / before[at]))
    return Growth("gradual", int(steps[first]), float(share.max() / max(share[first], resolution[first])))
