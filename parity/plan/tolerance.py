"""What two numbers of other tools' files may differ by, and the words for what was found."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Word: TypeAlias = Literal["identical", "within", "undecided", "differ"]
# From the best to the worst, with the exit status of each.
EXIT_STATUSES: dict[Word, int] = {"identical": 0, "within": 0, "undecided": 3, "differ": 1}


@dataclass(frozen=True)
class Tolerance:
    """|candidate - baseline| <= atol + rtol * |baseline|, as in numpy.isclose."""

    rtol: float = 0.0
    atol: float = 0.0


EXACT = Tolerance()
