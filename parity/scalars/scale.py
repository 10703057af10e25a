"""What the numbers of two logs are compared in: a dtype, whole numbers, or the decimals that both have."""

from dataclasses import dataclass

import numpy as np

from parity.judge.ulp import bits_differ, ulp_distance
from parity.scalars.precision import Precision

# Half a unit of the last decimal is what rounding takes; a little more, since decimals are no binary fractions.
_HALF = 0.5 + 1e-6
# Order of the dtypes by their digits; numbers of two dtypes are compared in the one with fewer.
_NARROW_FIRST = ("bfloat16", "float16", "float32", "float64")
# The distance from 1 to the next number.
_EPSILONS = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


@dataclass(frozen=True)
class Scale:
    """What the numbers of two logs are compared in.

    Attributes:
        kind: A dtype, "whole" or "printed".
        decimals: Decimals of the side that has fewer, for "printed".
        mixed: Whether one side keeps more than the other.
        exact: For "printed": the dtype of the side that keeps floats, or "float64".
    """

    kind: str
    decimals: int
    mixed: bool
    exact: str = "float64"

    @classmethod
    def of(cls, baseline: Precision, candidate: Precision) -> "Scale":
        sides = (baseline, candidate)
        printed = [each.decimals for each in sides if each.kind == "printed"]
        kinds = {each.kind for each in sides}
        floats = [kind for kind in _NARROW_FIRST if kind in kinds]
        if printed:
            # Whole numbers among decimals were decimals once: 1 for 1.0.
            alike = (kinds == {"printed"} and printed[0] == printed[-1]) or kinds == {"printed", "whole"}
            return cls("printed", min(printed), not alike, (floats or ["float64"])[0])
        return cls(floats[0] if floats else "whole", 0, len(floats) > 1)

    @property
    def unit(self) -> str:
        if self.kind == "printed":
            return "in the last decimal" if self.decimals > 0 else "in the last printed digit"
        return "" if self.kind == "whole" else f"ulp of {self.kind}"

    @property
    def weak(self) -> str | None:
        """Why equal numbers say little, or None."""
        if self.kind == "printed":
            plural = "" if self.decimals == 1 else "s"
            kept = f"at most {self.decimals} decimal{plural}" if self.decimals > 0 else "no decimals"
            have = "one log has its numbers with" if self.mixed else "the logs have these numbers with"
            return f"{have} {kept}, so a difference below {max(self._step / 2, 5e-324):.1g} would not show"
        if self.mixed:
            return f"one log keeps {self.kind}, so the other one is rounded to it before they are compared"
        return None

    @property
    def _step(self) -> float:
        return max(float(10.0**-self.decimals), 5e-324)

    def round(self, values: np.ndarray) -> np.ndarray:
        """The numbers in the dtype of the comparison; float64[N]."""
        if self.kind in ("float16", "float32") and self.mixed:
            with np.errstate(over="ignore"):
                rounded = values.astype(self.kind).astype(np.float64)
            # A number that is too large for the dtype is not infinite.
            result: np.ndarray = np.where(np.isinf(rounded), values, rounded)
            return result
        return values

    def differs(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Whether two numbers differ, bit by bit where the log keeps bits; bool[N].

        A NaN is equal to a NaN: a log may have lost its other bits.
        """
        if self.kind == "printed" and self.mixed:
            with np.errstate(invalid="ignore", over="ignore"):
                same = (np.abs(left - right) <= _HALF * self._step) | (left == right)
        else:
            same = ~bits_differ(left, right)
        result: np.ndarray = ~(same | (np.isnan(left) & np.isnan(right)))
        return result

    def hidden(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Whether two numbers are not equal and do not differ either, since a log keeps too few digits; bool[N].

        Args:
            left: float64[N], not rounded.
            right: float64[N], not rounded.
        """
        if not self.mixed:
            return np.zeros(len(left), bool)
        differs = self.differs(self.round(left), self.round(right))
        nan = np.isnan(left) & np.isnan(right)
        # The shortest text of a float32 stands for it.
        if self.kind == "printed" and self.exact in ("float16", "float32"):
            with np.errstate(over="ignore"):
                left, right = (each.astype(self.exact).astype(np.float64) for each in (left, right))
        result: np.ndarray = bits_differ(left, right) & ~differs & ~nan
        return result

    def units(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Distance in the unit; int64[N], -1 where it cannot be counted."""
        if self.kind in _NARROW_FIRST:
            with np.errstate(over="ignore"):
                return ulp_distance(left, right, dtype=self.kind)
        with np.errstate(invalid="ignore", over="ignore"):
            count = np.rint(np.abs(left - right) / (self._step if self.kind == "printed" else 1.0))
        counted: np.ndarray = np.where(count < 2.0**62, count, -1.0).astype(np.int64)  # NaN is not below either
        return counted

    def resolution(self, values: np.ndarray) -> np.ndarray:
        """The relative size of one unit at each number; float64[N]."""
        if self.kind in _EPSILONS:
            return np.full(len(values), _EPSILONS[self.kind])
        magnitude = np.maximum(np.abs(np.nan_to_num(values, posinf=0.0, neginf=0.0)), np.finfo(np.float64).tiny)
        result: np.ndarray = (self._step if self.kind == "printed" else 1.0) / magnitude
        return result
