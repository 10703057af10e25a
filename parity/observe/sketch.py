"""Sketches of tensors: eight signed sums of the elements, from which the distance of two tensors can be estimated.

Each element of a tensor enters one of the eight sums, with a fixed pseudo-random sign. The sum of the squares of the
differences of two such sketches is then an estimate of ||a - b||**2 without either tensor.

Everything here runs on the host in NumPy, so a sketch does not depend on the device that computed the tensor. Matrix
products are cut into pieces that OpenBLAS does not spread over threads: the bits of a sketch do not depend on the
number of threads, and no thread is started in a user's training.

Letters: T tensors.

Source:
    D. Achlioptas, "Database-friendly random projections: Johnson-Lindenstrauss with binary coins", 2003; with one sum
    for each element, as in M. Charikar, K. Chen and M. Farach-Colton, "Finding frequent items in data streams", 2002.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from parity.observe.signs import BLOCK, BLOCKS, ELEMENT, REST, SUMS, VISIT, make_signs, repeated, summable

_ROW = BLOCK // SUMS


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where the elements of T tensors lie: their whole blocks, one after the other, and what is left after these.

    Attributes:
        block_signs: The sign of each block; float32[N, 1] of N blocks.
        signs: The sign of each element that is left; float32[M].
        block_begins: Where the blocks of each tensor begin, for those that have any; int64[<= T].
        block_tensors: Which tensor that is.
        starts: Where each sum begins, for those that have elements; int64[<= 8 T].
        sums: Which sum that is: 8 t + k for sum k of tensor t.
        begins: Where the elements of each tensor begin, for those that have any; int64[<= T].
        tensors: Which tensor that is.
    """

    block_signs: np.ndarray
    signs: np.ndarray
    block_begins: np.ndarray
    block_tensors: np.ndarray
    starts: np.ndarray
    sums: np.ndarray
    begins: np.ndarray
    tensors: np.ndarray


@functools.lru_cache(maxsize=64)
def _layout(sizes: tuple[int, ...]) -> _Layout:
    """The layout of tensors that have these numbers of elements."""
    nothing = np.zeros(0, np.float32)
    block_signs, block_begins, block_tensors, blocks = [nothing], [], [], 0
    rest_signs, starts, sums, begins, tensors, offset = [nothing], [], [], [], [], 0
    for tensor, size in enumerate(sizes):
        count, rest = divmod(size, BLOCK)
        if count:
            block_signs.append(repeated(BLOCKS, count))
            block_begins.append(blocks)
            block_tensors.append(tensor)
            blocks += count
        if rest:
            rest_signs.append(make_signs(BLOCK, REST)[:rest])
            begins.append(offset)
            tensors.append(tensor)
        # The first sums get one element more where the elements cannot be divided evenly.
        lengths = [rest // SUMS + (row < rest % SUMS) for row in range(SUMS)]
        for row, length in enumerate(lengths):
            if length:  # reduceat has no empty sums
                starts.append(offset)
                sums.append(SUMS * tensor + row)
                offset += length
    places = [np.array(each, np.int64) for each in (block_begins, block_tensors, starts, sums, begins, tensors)]
    return _Layout(np.concatenate(block_signs)[:, None], np.concatenate(rest_signs), *places)


@functools.cache
def _element_signs(dtype: str) -> np.ndarray:
    """The signs of the elements of each row of a block; dtype[_ROW]."""
    return make_signs(_ROW, ELEMENT).astype(dtype)


def norms_and_sketches(arrays: Sequence[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
    """The L2 norm and the sketch of each tensor.

    Args:
        arrays: T tensors on the host, float32 or float64[...]; other dtypes are summed in float32. None for a tensor
            that is missing.

    Returns:
        Norms, float64[T], and sketches, float64[T, 8]; NaN for a missing tensor. Sums are taken in the dtype of the
        tensor, so a sketch is off by a few of its units of rounding.
    """
    return sketch_flat([None if array is None else summable(array).reshape(-1) for array in arrays])


def sketch_flat(
    tensors: Sequence[np.ndarray | None],
    blocks: Callable[[int, int, np.ndarray], np.ndarray] | None = None,
    rests: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The same of flat tensors, piece by piece, so that each piece is in the cache while somebody else looks at it.

    What is left of each tensor after its last whole block is summed for all tensors at once: most tensors of a model
    are smaller than a block, and a call for each would cost more than its sums.

    Args:
        tensors: T tensors, float32 or float64[N]; None for one that is missing.
        blocks: Is called with the number of a tensor, where a piece of whole blocks begins in it, and this piece, of at
            most `VISIT` elements; it returns what is to be summed in its place.
        rests: Is called with what is left of all tensors, one after the other, and returns what is to be summed in its
            place; it may be overwritten.

    Returns:
        As `norms_and_sketches`.
    """
    layout = _layout(tuple([0 if flat is None else flat.size for flat in tensors]))
    squares, sums = np.zeros(len(tensors)), np.zeros((len(tensors), SUMS))
    products, lengths, left = [], [], []
    # An overflow is an infinity here, whose distance is not known; no warning is due in somebody's training.
    with np.errstate(over="ignore", invalid="ignore"):
        for number, flat in enumerate(tensors):
            if flat is None:
                squares[number] = sums[number] = np.nan
                continue
            size = flat.size
            if size < BLOCK:
                left.append(flat)
                continue
            whole = size // BLOCK * BLOCK
            for begin in range(0, whole, VISIT):
                piece = flat[begin : min(begin + VISIT, whole)]
                if blocks:
                    piece = blocks(number, begin, piece)
                lines = piece.reshape(-1, 1, BLOCK)
                products.append(np.matmul(lines.reshape(-1, SUMS, _ROW), _element_signs(flat.dtype.char)))
                lengths.append(np.matmul(lines, lines.swapaxes(1, 2)))
            left.append(flat[whole:])
        if products:
            signed = np.concatenate(products) * layout.block_signs
            sums[layout.block_tensors] = np.add.reduceat(signed, layout.block_begins, axis=0, dtype=np.float64)
            squared = np.concatenate(lengths).reshape(-1)
            squares[layout.block_tensors] = np.add.reduceat(squared, layout.block_begins, dtype=np.float64)
        if left:
            # A single array would not be copied, and what is summed is overwritten.
            joined = np.concatenate(left)
            if rests:
                joined = rests(joined)
            if layout.starts.size:
                sums.reshape(-1)[layout.sums] += np.add.reduceat(joined * layout.signs, layout.starts)
                np.multiply(joined, joined, out=joined)
                squares[layout.tensors] += np.add.reduceat(joined, layout.begins)
        return np.sqrt(squares), sums
