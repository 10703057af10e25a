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
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from parity.observe.signs import BLOCK, BLOCKS, ELEMENT, REST, SUMS, VISIT, make_signs, repeated, summable

_ROW = BLOCK // SUMS
# Numbers of a tensor: its sums, and the sum of its squares.
_NUMBERS = SUMS + 1


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where the elements of T tensors lie: their whole blocks, one after the other, and what is left after these.

    A row of numbers is made for each block and for each tensor: its sums, and the sum of the squares.

    Attributes:
        count: T.
        pieces: The pieces of whole blocks, of at most `VISIT` elements: number of the tensor, and where they begin and
            end in it.
        lines: Which blocks these are, among those of all tensors.
        block_signs: The sign of each block for its sums; float32[N, 1] of N blocks.
        signs: The sign of each element that is left; float32[M].
        block_begins: Where the blocks of each tensor begin, for those that have any; int64[<= T].
        block_tensors: Which tensor that is.
        begins: Where each sum of what is left begins, and M later each sum of squares; int64[<= 9 T].
        places: Where it belongs in the rows of numbers.
    """

    count: int
    pieces: list[tuple[int, int, int]]
    lines: list[slice]
    block_signs: np.ndarray
    signs: np.ndarray
    block_begins: np.ndarray
    block_tensors: np.ndarray
    begins: np.ndarray
    places: np.ndarray


@functools.lru_cache(maxsize=64)
def _layout(sizes: tuple[int, ...]) -> _Layout:
    """The layout of tensors that have these numbers of elements."""
    nothing = np.zeros(0, np.float32)
    pieces, lines, block_signs, block_begins, block_tensors, blocks = [], [], [nothing], [], [], 0
    rest_signs, starts, sums, begins, squares, offset = [nothing], [], [], [], [], 0
    for tensor, size in enumerate(sizes):
        count, rest = divmod(size, BLOCK)
        for begin in range(0, size - rest, VISIT):
            end = min(begin + VISIT, size - rest)
            pieces.append((tensor, begin, end))
            lines.append(slice(blocks + begin // BLOCK, blocks + end // BLOCK))
        if count:
            block_signs.append(repeated(BLOCKS, count))
            block_begins.append(blocks)
            block_tensors.append(tensor)
            blocks += count
        if rest:
            rest_signs.append(make_signs(BLOCK, REST)[:rest])
            begins.append(offset)
            squares.append(_NUMBERS * tensor + SUMS)
        # The first sums get one element more where the elements cannot be divided evenly.
        lengths = [rest // SUMS + (row < rest % SUMS) for row in range(SUMS)]
        for row, length in enumerate(lengths):
            if length:  # reduceat has no empty sums
                starts.append(offset)
                sums.append(_NUMBERS * tensor + row)
                offset += length
    begins = [*starts, *(offset + begin for begin in begins)]
    numbers = [np.array(each, np.int64) for each in (block_begins, block_tensors, begins, [*sums, *squares])]
    signs = np.concatenate(block_signs)[:, None], np.concatenate(rest_signs)
    return _Layout(len(sizes), pieces, lines, *signs, *numbers)


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
    cut = Cut([summable(array) for array in arrays if array is not None])
    norms, sketches = cut.norms_and_sketches([cut.rest(), *cut.pieces])
    present = [array is not None for array in arrays]
    return spread(norms, present, np.nan), spread(sketches, present, np.nan)


def spread(values: np.ndarray, present: Sequence[bool], missing: float) -> np.ndarray:
    """The values of the tensors that are present, dtype[<= T, ...], and `missing` for the others; dtype[T, ...]."""
    if len(values) == len(present):
        return values
    spread = np.full((len(present), *values.shape[1:]), missing, values.dtype)
    spread[np.array(present)] = values
    return spread


_size = operator.attrgetter("size")


class Cut:
    """T tensors, float32 or float64[...], cut into pieces of whole blocks and what is left after the last of these.

    What is left is summed for all tensors at once: most tensors of a model are smaller than a block, and a call for
    each would cost more than its sums.

    Attributes:
        places: For each piece the number of its tensor, and where it begins and ends in it.
        pieces: The pieces, of at most `VISIT` elements, on the tensors' memory.
        rests: What is left of each tensor, on its memory.
    """

    def __init__(self, tensors: Sequence[np.ndarray]) -> None:
        self._layout = _layout(tuple(map(_size, tensors)))
        self.pieces, self.rests = [], list(tensors)
        for number, begin, end in self._layout.pieces:
            flat = tensors[number].reshape(-1)
            self.pieces.append(flat[begin:end])
            self.rests[number] = flat[end:]
        self.places = self._layout.pieces

    def rest(self) -> np.ndarray:
        """A copy of what is left of all tensors, one after the other; dtype[M]."""
        return np.concatenate(self.rests, axis=None) if self.rests else np.zeros(0, np.float32)

    def norms_and_sketches(self, values: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The same of numbers that lie as those of the tensors do.

        Args:
            values: What is to be summed in the place of `rest()`, then of each piece. Each is asked for when the one
                before has been summed, so that whoever gives them finds them still in the cache.

        Returns:
            As `sketch.norms_and_sketches`.
        """
        layout, given = self._layout, iter(values)
        # The sums of each tensor, and of its squares.
        found = np.zeros((layout.count, _NUMBERS))
        # An overflow is an infinity here, whose distance is not known; no warning is due in somebody's training.
        with np.errstate(over="ignore", invalid="ignore"):
            rest = next(given)
            # Signed elements and squares in one array, since a call costs more here than its sums.
            terms = np.empty((2, rest.size), rest.dtype)
            np.multiply(rest, layout.signs, out=terms[0])
            np.multiply(rest, rest, out=terms[1])
            found.reshape(-1)[layout.places] += np.add.reduceat(terms.reshape(-1), layout.begins)
            # Each tensor has a share in the rest, be it empty, so that this is the widest of their dtypes.
            table = np.empty((len(layout.block_signs), _NUMBERS), rest.dtype)
            for lines, piece in zip(layout.lines, given, strict=True):
                blocks, signs = piece.reshape(-1, 1, BLOCK), _element_signs(piece.dtype.char)
                np.matmul(piece.reshape(-1, SUMS, _ROW), signs, out=table[lines, :SUMS])
                np.matmul(blocks, blocks.swapaxes(1, 2), out=table[lines, SUMS:, None])
            if layout.pieces:
                table[:, :SUMS] *= layout.block_signs
                found[layout.block_tensors] += np.add.reduceat(table, layout.block_begins, axis=0, dtype=np.float64)
            return np.sqrt(found[:, SUMS]), found[:, :SUMS]
