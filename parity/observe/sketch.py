"""Sketches of tensors: eight signed sums of the elements, from which the distance of two tensors can be estimated.

Each element of a tensor enters one of the eight sums, with a fixed pseudo-random sign. The sum of the squares of the
differences of two such sketches is then an estimate of ||a - b||**2 without either tensor.

Everything here runs on the host in NumPy, so a sketch does not depend on the device that computed the tensor. Matrix
products are cut into pieces that OpenBLAS does not spread over threads: the bits of a sketch do not depend on the
number of threads, and no thread is started in a user's training.

Letters: T tensors, R rows, F elements of a row.

Source:
    D. Achlioptas, "Database-friendly random projections: Johnson-Lindenstrauss with binary coins", 2003; with one sum
    for each element, as in M. Charikar, K. Chen and M. Farach-Colton, "Finding frequent items in data streams", 2002.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

# Number of sums in a sketch. Eight put the distance within a factor of 3 in more than 99 of 100 cases.
SUMS = 8
# Elements of a tensor are taken in blocks of this size, each cut into SUMS rows. OpenBLAS uses threads from 9,216
# elements on (interface/gemv.c: 2304 * GEMM_MULTITHREAD_THRESHOLD).
_BLOCK = 8192
_ROW = _BLOCK // SUMS
# Signs repeat after this many rows of a batch or blocks of a tensor.
_MOST_SIGNS = 1 << 16


@functools.cache
def _signs(count: int, seed: int) -> np.ndarray:
    """Pseudo-random signs, 1 or -1; float32[count]. A longer array begins with the signs of a shorter one."""
    # PCG64 as it is fixed in NumPy (NEP 19 allows other streams of `Generator` methods; raw bits never change).
    words = np.random.PCG64(seed).random_raw(math.ceil(count / 64)).view(np.uint8)
    return np.unpackbits(words, bitorder="little")[:count].astype(np.float32) * 2 - 1


def _repeated(seed: int, count: int) -> np.ndarray:
    """The signs of so many blocks or rows; float32[count]."""
    signs = _signs(_MOST_SIGNS, seed)
    return signs[:count] if count <= _MOST_SIGNS else np.resize(signs, count)


# Signs of the elements of a row, of whole blocks, of what is left after them, and of the rows of a batch.
_ELEMENT, _BLOCKS, _REST, _ROWS, _NARROW_ROWS = range(5)
# Most elements of a row that have signs of their own, instead of a sign for the row and one for the place in it.
_NARROW = 64


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where the elements after the last whole block of each of T tensors lie, if they are put one after the other.

    Attributes:
        signs: The sign of each of these elements; float32[N].
        starts: Where each sum begins, for those that have elements; int64[<= 8 T].
        sums: Which sum that is: 8 t + k for sum k of tensor t.
        begins: Where the elements of each tensor begin, for those that have any; int64[<= T].
        tensors: Which tensor that is.
    """

    signs: np.ndarray
    starts: np.ndarray
    sums: np.ndarray
    begins: np.ndarray
    tensors: np.ndarray


@functools.lru_cache(maxsize=64)
def _layout(sizes: tuple[int, ...]) -> _Layout:
    """The layout for tensors that have these numbers of elements after their last whole block, each below `_BLOCK`."""
    signs, starts, sums, begins, tensors = [np.zeros(0, np.float32)], [], [], [], []
    offset = 0
    for tensor, size in enumerate(sizes):
        if not size:
            continue
        signs.append(_signs(_BLOCK, _REST)[:size])
        begins.append(offset)
        tensors.append(tensor)
        # The first sums get one element more where the elements cannot be divided evenly.
        lengths = [size // SUMS + (row < size % SUMS) for row in range(SUMS)]
        for row, length in enumerate(lengths):
            if length:  # reduceat has no empty sums
                starts.append(offset)
                sums.append(SUMS * tensor + row)
                offset += length
    return _Layout(np.concatenate(signs), *(np.array(each, np.int64) for each in (starts, sums, begins, tensors)))


def norms_and_sketches(arrays: Sequence[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
    """The L2 norm and the sketch of each tensor.

    Args:
        arrays: T tensors on the host, float32 or float64[...]; other dtypes are summed in float32. None for a tensor
            that is missing.

    Returns:
        Norms, float64[T], and sketches, float64[T, 8]; NaN for a missing tensor. Sums are taken in the dtype of the
        tensor, so a sketch is off by a few of its units of rounding.
    """
    count = len(arrays)
    squares, sums = np.zeros(count), np.zeros((count, SUMS))
    rests: list[np.ndarray] = []
    # An overflow is an infinity here, whose distance is not known; no warning is due in somebody's training.
    with np.errstate(over="ignore", invalid="ignore"):
        for index, array in enumerate(arrays):
            if array is None:
                squares[index] = sums[index] = np.nan
                rests.append(_NOTHING)
                continue
            flat = summable(array).reshape(-1)
            blocks = flat.size // _BLOCK
            if blocks:
                whole = flat[: blocks * _BLOCK]
                cut = whole.reshape(blocks, SUMS, _ROW)
                signs = _signs(_ROW, _ELEMENT).astype(flat.dtype, copy=False)
                sums[index] = _repeated(_BLOCKS, blocks) @ np.matmul(cut, signs)
                lines = whole.reshape(blocks, 1, _BLOCK)
                squares[index] = np.matmul(lines, lines.swapaxes(1, 2)).sum(dtype=np.float64)
            rests.append(flat[blocks * _BLOCK :])
        _add_rests(rests, squares, sums)
        return np.sqrt(squares), sums


def _add_rests(rests: Sequence[np.ndarray], squares: np.ndarray, sums: np.ndarray) -> None:
    """Adds the elements after the last whole block of each tensor to its square and its sums, all tensors at once."""
    layout = _layout(tuple(rest.size for rest in rests))
    if not layout.starts.size:
        return
    # One array of all of them: most tensors of a model are small, and one call for each would cost more than the sums.
    joined = np.concatenate([rest for rest in rests if rest.size])
    signed = joined * layout.signs
    sums.reshape(-1)[layout.sums] += np.add.reduceat(signed, layout.starts)
    np.multiply(joined, joined, out=joined)
    squares[layout.tensors] += np.add.reduceat(joined, layout.begins)


def summable(array: np.ndarray) -> np.ndarray:
    """The tensor in a dtype in which it can be summed: float32 or float64 as it is, anything else as float32."""
    # By the character of the dtype: comparing dtypes takes ten times as long, some hundred times a step.
    return array if array.dtype.char in "fd" else array.astype(np.float32)


@dataclass
class RowSketch:
    """The sketch of a batch, to which rows are added: k batches of b rows have the sketch of one batch of k b rows.

    Attributes:
        square: Sum of the squares of all elements.
        sums: The sums; float64[8].
        rows: Number of rows so far.
    """

    square: float = 0.0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(SUMS))
    rows: int = 0

    def add(self, array: np.ndarray) -> None:
        """Adds rows; dtype[R, ...], or one row for a tensor without a dimension."""
        values = summable(array)
        if not values.size:
            return
        table = values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(-1, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            products = _row_products(table, self.rows)
            self.square += _sum_of_squares(table.reshape(-1))
            signed = products * _repeated(_ROWS, self.rows + len(table))[self.rows :]
            # Row r enters sum r % 8; padded, so that the rows of one sum are a column.
            first = self.rows % SUMS
            padded = np.zeros(math.ceil((first + len(signed)) / SUMS) * SUMS)
            padded[first : first + len(signed)] = signed
            self.sums += padded.reshape(-1, SUMS).sum(axis=0)
        self.rows += len(table)

    @property
    def norm(self) -> float:
        """L2 norm of all rows."""
        return math.sqrt(self.square) if self.square >= 0 else math.nan


def _row_products(table: np.ndarray, first: int) -> np.ndarray:
    """The signed sum of each row of dtype[R, F], of which the first is row `first` of its batch; dtype[R]."""
    rows, width = table.shape
    if width <= _NARROW:
        # The same signs for all rows would hide what is alike in all rows: the gradient of a cross-entropy sums to zero
        # in each row, which some signs of few classes show as nothing at all.
        begin = first * width
        signs = _repeated(_NARROW_ROWS, begin + table.size)[begin:].reshape(rows, width)
        narrow: np.ndarray = (table * signs).sum(axis=1)
        return narrow
    if width <= _BLOCK:
        signs = _signs(_BLOCK, _ELEMENT)[:width].astype(table.dtype, copy=False)
        # As many rows in one product as OpenBLAS takes without threads.
        group = max(1, _BLOCK // width)
        whole = rows // group * group
        parts = [np.matmul(table[:whole].reshape(-1, group, width), signs).reshape(-1)] if whole else []
        return np.concatenate([*parts, table[whole:] @ signs]) if whole < rows else parts[0]
    # Long rows block by block, as the tensors above.
    blocks = width // _BLOCK
    cut = table[:, : blocks * _BLOCK].reshape(rows, blocks, _BLOCK)
    signs = _signs(_BLOCK, _ELEMENT).astype(table.dtype, copy=False)
    products = np.matmul(cut, signs) @ _repeated(_BLOCKS, blocks)
    rest = table[:, blocks * _BLOCK :]
    added: np.ndarray = products + rest @ _signs(_BLOCK, _REST)[: rest.shape[1]]
    return added


def _sum_of_squares(flat: np.ndarray) -> float:
    """Sum of the squares of dtype[N]."""
    blocks = flat.size // _BLOCK
    lines = flat[: blocks * _BLOCK].reshape(blocks, 1, _BLOCK)
    rest = flat[blocks * _BLOCK :]
    return float(np.matmul(lines, lines.swapaxes(1, 2)).sum(dtype=np.float64)) + float(rest @ rest)


_NOTHING = np.zeros(0, np.float32)
