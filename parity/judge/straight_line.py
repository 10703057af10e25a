"""Whether errors lie on a straight line over the exact numbers, as those of a fault do, or are scattered, as noise is.

Another temperature stretches log-probabilities and moves them; a constant that is missing moves them. The errors of
rounding have hardly any slope or mean.
"""

from dataclasses import dataclass

import numpy as np

# Share of the squared errors that a line has to explain. Seen in 48 computations of transformers of 2 to 48 layers, in
# bfloat16, float16 and float32, with other orders of summation and wider residual streams: at most 0.07.
SHARE = 0.25
# Largest probability that scattered errors lie as near to a line by chance. Seen in these: at least 1e-4.
CHANCE = 1e-9
# Root mean square of the line, in units of the dtype's noise; a smaller one does no harm.
SIZE = 0.5
# The line slopes if its slope is more than so many standard errors. Seen in these: at most 3.1.
SLOPING = 8.0
# And if its ends are apart by more than this share of its largest value.
FLAT = 0.1


@dataclass(frozen=True)
class StraightLine:
    """The line that is nearest to errors: error = offset + slope * exact.

    Attributes:
        offset, slope: See above.
        size: Root mean square of the line, in units of each number's noise.
        share: Share of the squared errors that the line explains, in the same units: 0 to 1.
        chance: Probability that independent normal errors lie as near to a line (the F test of both parameters).
        sloping: Whether its slope is larger than chance explains.
    """

    offset: float
    slope: float
    size: float
    share: float
    chance: float
    sloping: bool

    @property
    def systematic(self) -> bool:
        """Whether the errors follow the line, as those of noise do not."""
        return self.share >= SHARE and self.chance <= CHANCE and self.size >= SIZE


def straight_line(exact: np.ndarray, errors: np.ndarray, unit: np.ndarray) -> StraightLine | None:
    """Fits a line to errors by least squares, each in units of its noise.

    Args:
        exact: float64[N], finite.
        errors: float64[N].
        unit: float64[N], the size of the noise of each, greater than 0.

    Returns:
        None where an error is not finite, or there are fewer than three different numbers.
    """
    # Equal numbers are mostly one number that was computed several times, with one error.
    _, places = np.unique(exact, return_index=True)
    if len(places) < 3 or not np.isfinite(errors).all():
        return None
    exact, errors, unit = exact[places], errors[places] / unit[places], unit[places]
    columns = np.stack([1 / unit, exact / unit], axis=1)
    fitted, _, _, _ = np.linalg.lstsq(columns, errors, rcond=None)
    line = columns @ fitted
    left, total, free = float(np.sum((errors - line) ** 2)), float(np.sum(errors**2)), len(errors) - 2
    if not total:
        return StraightLine(0.0, 0.0, 0.0, 0.0, 1.0, False)
    # With two parameters, the probability of the F distribution is a power of what the line leaves.
    chance = min(left / total, 1.0) ** (free / 2)
    slope_error = np.sqrt(left / free * np.linalg.pinv(columns.T @ columns)[1, 1])
    rise, most = abs(fitted[1]) * np.ptp(exact), np.max(np.abs(line * unit))
    return StraightLine(
        offset=float(fitted[0]),
        slope=float(fitted[1]),
        size=float(np.sqrt(np.mean(line**2))),
        share=max(1 - left / total, 0.0),
        chance=float(chance),
        sloping=bool(abs(fitted[1]) > SLOPING * slope_error and rise > FLAT * most),
    )
