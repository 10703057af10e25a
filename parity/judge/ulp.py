"""Distances of numbers: in units in the last place, relative, and bit by bit."""

import numpy as np

# Integers as wide as the floats.
_INTEGERS = {"float16": np.int16, "float32": np.int32, "float64": np.int64}


def ulp_distance(baseline: np.ndarray, candidate: np.ndarray, *, dtype: str) -> np.ndarray:
    """Counts the steps from one representable number to the next between each pair.

    Args:
        baseline: float64[N], each a value of the dtype.
        candidate: float64[N], each a value of the dtype.
        dtype: "float16", "bfloat16", "float32" or "float64".

    Returns:
        int64[N], in ulp: 0 for equal numbers (0.0 and -0.0 are), 1 for neighbours, -1 where one is NaN.

    Raises:
        ValueError: The shapes differ, or the dtype is not one of these.

    >>> ulp_distance(np.array([1.0]), np.array([1.0 + 2**-23]), dtype="float32")
    array([1])

    Source:
        Bruce Dawson, "Comparing Floating Point Numbers, 2012 Edition".
    """
    if baseline.shape != candidate.shape:
        raise ValueError(f"shapes {baseline.shape} and {candidate.shape} differ")
    nan = np.isnan(baseline) | np.isnan(candidate)
    # A NaN has no position among the numbers; any other number will do, since -1 replaces the result.
    left, right = (_ordinal(np.where(nan, 0.0, side), dtype) for side in (baseline, candidate))
    # What int64 cannot count gets its largest number.
    distance = np.minimum(steps_between(left, right), np.uint64(np.iinfo(np.int64).max))
    return np.where(nan, -1, distance.astype(np.int64))


def steps_between(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The distance of two positions, int64[N] each; uint64[N]."""
    # Two float64 numbers of opposite sign may be further apart than int64 can count, but never than uint64 can.
    steps: np.ndarray = np.maximum(left, right).view(np.uint64) - np.minimum(left, right).view(np.uint64)
    return steps


def positions(bits: np.ndarray) -> np.ndarray:
    """The position of each float among all floats of its dtype, 0 for zero; int64[N] of its bits, int8 to int64[N]."""
    # Floats of one sign are in the order of their bits. Negative ones run the other way, so they are mirrored at zero,
    # which makes -0.0 and 0.0 the same position.
    wide = bits.astype(np.int64)
    return np.where(wide < 0, int(np.iinfo(bits.dtype).min) - wide, wide)


def of_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The numbers of bfloat16, which is the upper half of a float32; float32[N] of uint16[N]."""
    numbers: np.ndarray = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return numbers


def relative(absolute: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """The absolute difference over |baseline|; 0 where the difference is 0, even beside a baseline of 0.

    Args:
        absolute: float64[N].
        baseline: float64[N].

    Returns:
        float64[N]; inf where only the baseline is 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(absolute == 0, 0.0, absolute / np.abs(baseline))


def _ordinal(values: np.ndarray, dtype: str) -> np.ndarray:
    """The position of each number among all numbers of its dtype, 0 for zero; int64[N]."""
    if dtype == "bfloat16":  # the upper half of a float32
        return _ordinal(values, "float32") >> 16
    if dtype not in _INTEGERS:
        raise ValueError(f"The dtype {dtype!r} has no ulp. Known dtypes: {', '.join((*_INTEGERS, 'bfloat16'))}.")
    with np.errstate(over="ignore"):  # infinite, where a damaged file has what the dtype cannot hold
        return positions(values.astype(dtype).view(_INTEGERS[dtype]))


def bits_differ(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether two numbers differ in any bit, as -0.0 and 0.0 do, or two different NaNs.

    Args:
        left: float64[N].
        right: float64[N].

    Returns:
        bool[N].
    """
    # As integers: != of floats takes -0.0 and 0.0 as equal, and every NaN as different.
    differs: np.ndarray = np.ascontiguousarray(left).view(np.uint64) != np.ascontiguousarray(right).view(np.uint64)
    return differs
