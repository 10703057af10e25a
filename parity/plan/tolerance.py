"""What two numbers of other tools' files may differ by."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """|candidate - baseline| <= atol + rtol * |baseline|, as in numpy.isclose."""

    rtol: float = 0.0
    atol: float = 0.0


EXACT = Tolerance()
