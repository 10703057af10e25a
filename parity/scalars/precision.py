"""What the numbers of a log are: floats kept exactly, or decimals that were rounded when they were printed."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

Kind: TypeAlias = Literal["float16", "bfloat16", "float32", "float64", "whole", "printed"]

# 17 significant digits are enough for every float64, and 9 for every float32. Of numbers that were computed, a log that
# keeps floats exactly has one with at least 16, or at least 8; one with more than 9 is a float32 that became a float64.
_FLOAT64_DIGITS, _FLOAT32_DIGITS, _WIDENED_DIGITS = 16, 8, 10
_EXPONENT = re.compile(r"\s*([-+]?\d*)(?:\.(\d*))?[eE]([-+]?\d+)\s*")


@dataclass(frozen=True)
class Precision:
    """What the numbers of a series are.

    Attributes:
        kind: The dtype of floats that are kept exactly; "whole" for whole numbers; "printed" for decimals that were
            rounded when they were printed.
        decimals: For printed numbers, most digits after the point that one of them has; may be negative. Otherwise 0.
    """

    kind: Kind
    decimals: int = 0


def precision_of(texts: Iterable[str], values: np.ndarray) -> Precision:
    """Finds out what the numbers of a text are.

    Args:
        texts: The numbers as they are written.
        values: The same numbers; float64[N].

    >>> precision_of(["8.0407", "7.5"], np.array([8.0407, 7.5]))
    Precision(kind='printed', decimals=4)
    >>> precision_of(["8.040699958801270"], np.array([8.040699958801270]))
    Precision(kind='float32', decimals=0)
    """
    digits = decimals = 0
    whole = True
    for text in texts:
        before, point, after = text.partition(".")
        exponent = 0
        if "n" in text or "e" in text or "E" in text:
            found = _EXPONENT.fullmatch(text)
            if not found:  # nan, inf
                continue
            before, after, exponent = found[1], found[2] or "", int(found[3])
            point = "."
        whole = whole and not point
        decimals = max(decimals, len(after) - exponent)
        significant = f"{before}{after}".lstrip("+-0 ")
        # Zeros at the end are those of a fixed number of decimals.
        digits = max(digits, len(significant.rstrip("0")))
        if digits >= _FLOAT64_DIGITS and not whole:
            break
    finite = values[np.isfinite(values)]
    if whole:
        return Precision("whole")
    with np.errstate(over="ignore"):
        narrow = finite.astype(np.float32)
    if digits >= _WIDENED_DIGITS and np.array_equal(narrow, finite):
        return Precision("float32")
    if digits >= _FLOAT64_DIGITS:
        return Precision("float64")
    # The shortest text of a float32 is no float32 in float64.
    if digits >= _FLOAT32_DIGITS and all(float(str(each)) == value for each, value in zip(narrow, finite, strict=True)):
        return Precision("float32")
    return Precision("printed", decimals)


def as_stored(values: np.ndarray, precision: Precision) -> np.ndarray:
    """The numbers of a text as floats of their dtype, since the shortest text of a float32 stands for a float32."""
    return values.astype(np.float32).astype(np.float64) if precision.kind == "float32" else values
