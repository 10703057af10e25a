"""How far two tensors are apart, in figures, in one pass over both and in the memory of a block."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from parity.checkpoints.dtypes import Dtype, dtype_of, rounded
from parity.checkpoints.tensor import StoredTensor

# Bytes of a block that is looked at for equality, and elements of one whose figures are made: both fit into a cache.
_BLOCK_BYTES, _BLOCK = 2**20, 2**16
# Where fewer than one in so many elements of a block differ, only those are looked at.
_SPARSE = 4
# Lower ends of the bins of a histogram, in ulp.
BINS = (1, 2, 10, 100, 1_000, 1_000_000)
# Least share of a tensor that a constant factor has to leave for the factor to be named.
_UNEXPLAINED = 1e-6


@dataclass(frozen=True)
class Figures:
    """Figures of two tensors of equal shape.

    Attributes:
        elements: Number of elements.
        different: Number of these whose bits differ; of tensors of two dtypes, whose numbers do.
        first_at, largest_at: Flat index of the first that differs, and of the largest absolute difference.
        baseline_value, candidate_value: The numbers there.
        ulp: Largest distance, or None where a distance in ulp has no meaning.
        histogram: Number of elements from each of `BINS` on, up to the next.
        zeros: Zeros that differ in their sign only.
        payloads: NaN on both sides with other bits.
        not_finite: NaN or infinite on one side, or differing in it.
        signs: Elements that are the same but for the sign, without zeros.
        norm, candidate_norm: L2 norms of what is finite.
        relative: Norm of the difference over the norm of the baseline.
        largest_absolute, largest_relative: Of single elements; inf where one is not finite.
        factor: c where the candidate is c times the baseline but for rounding, else None.
        narrowed: Of two dtypes, whether the narrower tensor is the wider one rounded to its dtype.
        violations: Elements outside of the tolerance; 0 where there is none.
    """

    elements: int
    different: int = 0
    first_at: int = -1
    largest_at: int = -1
    baseline_value: float = 0.0
    candidate_value: float = 0.0
    ulp: int | None = None
    histogram: tuple[int, ...] = ()
    zeros: int = 0
    payloads: int = 0
    not_finite: int = 0
    signs: int = 0
    norm: float = 0.0
    candidate_norm: float = 0.0
    relative: float = 0.0
    largest_absolute: float = 0.0
    largest_relative: float = 0.0
    factor: float | None = None
    narrowed: bool | None = None
    violations: int = 0


@dataclass
class _Sums:
    """The figures while blocks are added."""

    different: int = 0
    first_at: int = -1
    largest_at: int = -1
    values: tuple[float, float] = (0.0, 0.0)
    ulp: int = 0
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(len(BINS), np.int64))
    zeros: int = 0
    payloads: int = 0
    not_finite: int = 0
    signs: int = 0
    # <x, x>, <x, d> and <d, d> of the baseline x and the difference d.
    xx: float = 0.0
    xd: float = 0.0
    dd: float = 0.0
    absolute: float = -1.0
    relative: float = 0.0
    violations: int = 0


def equal(baseline: np.ndarray, candidate: np.ndarray) -> bool:
    """Whether two tensors have the same bytes; uint8[N] each."""
    if len(baseline) != len(candidate):
        return False
    spans = range(0, len(baseline), _BLOCK_BYTES)
    # Words compare eight times as fast as bytes; what they leave of the last block is compared as bytes.
    return all(
        _same(baseline[begin : begin + _BLOCK_BYTES], candidate[begin : begin + _BLOCK_BYTES]) for begin in spans
    )


def _same(mine: np.ndarray, other: np.ndarray) -> bool:
    whole = len(mine) // 8 * 8
    return np.array_equal(mine[:whole].view("<u8"), other[:whole].view("<u8")) and np.array_equal(
        mine[whole:], other[whole:]
    )


def figures(baseline: StoredTensor, candidate: StoredTensor, *, rtol: float, atol: float) -> Figures:
    """Figures of two tensors of the same shape and dtype.

    Args:
        baseline: The one that the other is compared with.
        candidate: The other one.
        rtol: Relative tolerance, as in numpy.isclose.
        atol: Absolute tolerance.
    """
    dtype = dtype_of(baseline.dtype)
    sums = _Sums()
    count = 0
    for begin, mine, other in _blocks(dtype.bits(baseline.read()), dtype.bits(candidate.read())):
        count += len(mine)
        x = dtype.numbers(mine)
        sums.xx += _square(x)
        differs = mine != other
        found = int(np.count_nonzero(differs))
        if not found:
            continue
        places = np.flatnonzero(differs) if found < len(mine) // _SPARSE else None
        if places is not None:
            mine, other, x = mine[places], other[places], x[places]
        sums.first_at = sums.first_at if sums.first_at >= 0 else begin + int(np.argmax(differs))
        sums.different += found
        if dtype.kind == "float":
            _add_bits(sums, dtype, mine, other)
        y = dtype.numbers(other)
        _add_numbers(sums, begin, places, x, y, tolerance=(rtol, atol))
        if dtype.kind == "int" and (rtol or atol):
            # Whole numbers that float64 does not tell apart are outside of every tolerance.
            inexact = (mine != other) & (np.maximum(np.abs(x), np.abs(y)) >= 2.0**53)
            sums.violations += int(np.count_nonzero(inexact & (np.abs(y - x) <= atol + rtol * np.abs(x))))
    ulp = sums.ulp if dtype.kind == "float" else None
    return _figures(sums, count, ulp=ulp, narrowed=None)


def figures_of_two_dtypes(baseline: StoredTensor, candidate: StoredTensor, *, rtol: float, atol: float) -> Figures:
    """Figures of two tensors of floats of the same shape, both widened to float64, which is exact."""
    left, right = dtype_of(baseline.dtype), dtype_of(candidate.dtype)
    wide, narrow = (left, right) if left.unit < right.unit else (right, left)
    name = candidate.dtype if narrow is right else baseline.dtype
    sums = _Sums()
    count, narrowed = 0, True
    for begin, mine, other in _blocks(left.bits(baseline.read()), right.bits(candidate.read())):
        count += len(mine)
        x, y = left.numbers(mine), right.numbers(other)
        sums.xx += _square(x)
        wider, narrower = (x, y) if wide is left else (y, x)
        as_narrow = rounded(wider, name) if narrowed else None
        narrowed = as_narrow is not None and np.array_equal(as_narrow, narrower, equal_nan=True)
        places = np.flatnonzero((x != y) & ~(np.isnan(x) & np.isnan(y)))
        if len(places):
            sums.first_at = sums.first_at if sums.first_at >= 0 else begin + int(places[0])
            sums.different += len(places)
            _add_numbers(sums, begin, places, x[places], y[places], tolerance=(rtol, atol))
    return _figures(sums, count, ulp=None, narrowed=narrowed)


def _blocks(mine: np.ndarray, other: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for begin in range(0, len(mine), _BLOCK):
        yield begin, mine[begin : begin + _BLOCK], other[begin : begin + _BLOCK]


def _dot(x: np.ndarray, y: np.ndarray) -> float:
    """The sum of products. Not np.dot: its threads wait for each other longer than a block takes, on a busy machine."""
    return float(np.einsum("i,i->", x, y))


def _square(x: np.ndarray) -> float:
    """The sum of the squares of what is finite."""
    total = _dot(x, x)
    if not np.isfinite(total):
        x = np.where(np.isfinite(x), x, 0.0)
        total = _dot(x, x)
    return total


def _add_bits(sums: _Sums, dtype: Dtype, mine: np.ndarray, other: np.ndarray) -> None:
    """Adds what the bits of floats show; some of them may be equal."""
    sign = mine.dtype.type(2 ** (8 * dtype.size - 1))
    changed = mine ^ other
    if (changed < sign).all():
        distances = np.maximum(mine, other) - np.minimum(mine, other)
    else:
        sums.signs += int(np.count_nonzero((changed == sign) & (mine != sign) & (other != sign)))
        distances = dtype.ulp(mine, other)
        sums.zeros += int(np.count_nonzero((distances == 0) & (changed != 0)))
    nan = dtype.is_nan(mine), dtype.is_nan(other)
    if nan[0].any() or nan[1].any():
        sums.payloads += int(np.count_nonzero(nan[0] & nan[1] & (changed != 0)))
        distances = distances[~(nan[0] | nan[1])]
    largest = int(distances.max(initial=0))
    sums.ulp = max(sums.ulp, largest)
    at_least = [int(np.count_nonzero(distances >= distances.dtype.type(least))) for least in BINS if least <= largest]
    at_least += [0] * (len(BINS) + 1 - len(at_least))
    sums.histogram += -np.diff(at_least)


def _add_numbers(
    sums: _Sums, begin: int, places: np.ndarray | None, x: np.ndarray, y: np.ndarray, *, tolerance: tuple[float, float]
) -> None:
    """Adds what the numbers show; some of them may be equal.

    Args:
        sums: What has been added so far.
        begin: Flat index of the block.
        places: Index of each number in the block; None for all of it.
        x: float64[K], the baseline's.
        y: float64[K], the candidate's.
        tolerance: The relative one and the absolute one.
    """
    rtol, atol = tolerance
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        given = x
        difference = y - x
        dd = _dot(difference, difference)
        size = np.abs(x)
        absolute = np.abs(difference)
        if not np.isfinite(dd):
            finite = np.isfinite(x) & np.isfinite(y)
            # Equal infinities and NaN with other bits are no distance apart; others cannot be compared.
            alike = (np.isnan(x) & np.isnan(y)) | (x == y)
            difference, size = np.where(finite, difference, 0.0), np.where(finite, size, 1.0)
            absolute = np.where(finite, absolute, np.where(alike, 0.0, np.inf))
            sums.not_finite += int(np.count_nonzero(~finite & ~alike))
            x, dd = np.where(finite, x, 0.0), _dot(difference, difference)
        # 0 / 0, of equal zeros, is NaN, which fmax passes over.
        sums.relative = float(np.fmax(sums.relative, np.fmax.reduce(absolute / size)))
        sums.xd += _dot(x, difference)
    sums.dd += dd
    if rtol or atol:
        with np.errstate(over="ignore"):
            allowed = atol + rtol * size
        sums.violations += int(np.count_nonzero(~((absolute <= allowed) & np.isfinite(absolute))))
    at = int(np.argmax(absolute))
    if absolute[at] > sums.absolute:
        sums.absolute = float(absolute[at])
        sums.largest_at = begin + (at if places is None else int(places[at]))
        sums.values = (float(given[at]), float(y[at]))


def _figures(sums: _Sums, count: int, *, ulp: int | None, narrowed: bool | None) -> Figures:
    # y = x + d, so these are sums of what has been added up.
    xy, yy = sums.xx + sums.xd, max(0.0, sums.xx + 2 * sums.xd + sums.dd)
    norm = float(np.sqrt(sums.xx))
    relative = float(np.sqrt(sums.dd)) / norm if norm else (np.inf if sums.dd else 0.0)
    return Figures(
        elements=count,
        different=sums.different,
        first_at=sums.first_at,
        largest_at=sums.largest_at,
        baseline_value=sums.values[0],
        candidate_value=sums.values[1],
        ulp=ulp,
        histogram=tuple(sums.histogram.tolist()),
        zeros=sums.zeros,
        payloads=sums.payloads,
        not_finite=sums.not_finite,
        signs=sums.signs,
        norm=norm,
        candidate_norm=float(np.sqrt(yy)),
        relative=float(relative),
        largest_absolute=max(0.0, sums.absolute),
        largest_relative=sums.relative,
        factor=_factor(sums.xx, xy, yy) if sums.different > 1 and not sums.not_finite else None,
        narrowed=narrowed,
        violations=sums.violations,
    )


def _factor(xx: float, xy: float, yy: float) -> float | None:
    """The constant factor between two tensors, or None where a constant does not explain their difference."""
    if not xx or not yy:
        return None
    factor = xy / xx
    # What remains of y without factor * x, squared, beside y squared; the sums are exact to about 1e-15.
    unexplained = abs(yy - factor * xy) / yy
    explained = unexplained < _UNEXPLAINED**2 + 1e-14
    return factor if explained and abs(factor - 1) > 100 * _UNEXPLAINED else None
