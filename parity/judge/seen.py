"""The limits of distances: what would have been seen in a pair, where it was not.

Letters: S steps that both traces have.
"""

from dataclasses import dataclass

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.distances import unit_after_equal_bits
from parity.judge.floors import least_jump, least_jumps
from parity.judge.parting import COMPUTED, parting_line


@dataclass(frozen=True)
class Seen:
    """The least relative differences that would not have passed as rounding, in a pair without an audit.

    Attributes:
        output: Of the output, where the two part.
        jump: Of the output, if it comes suddenly in a later step.
    """

    output: float
    jump: float


def find_seen(comparison: Comparison) -> Seen | None:
    """What would have been seen in a pair; None where no distance of its outputs is known.

    Args:
        comparison: The two traces.

    Raises:
        Trouble: A trace is damaged.
    """
    if not comparison.steps or comparison.distances("output") is None:
        return None
    return Seen(parting_line("output", comparison.unit), least_jump("output", comparison.unit))


def limits(comparison: Comparison, quantity: str) -> np.ndarray:
    """The distance of a quantity up to which nothing is asked at each step; float64[S].

    Up to the step at which the two part, what rounding can explain there; after it, the least jump.

    Args:
        comparison: The two traces.
        quantity: One of `trace.SKETCHED_QUANTITIES`.

    Raises:
        Trouble: A trace is damaged.
    """
    parted = comparison.first_index(among=COMPUTED)
    upto = comparison.steps if parted is None else parted[0] + 1
    found = least_jumps(comparison, quantity)
    found[:upto] = parting_line(quantity, unit_after_equal_bits(comparison.common, quantity))
    return found
