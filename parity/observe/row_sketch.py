"""Sketches of batches, whose rows arrive in any number of pieces; see `observe.sketch`.

Letters: R rows, F elements of a row.
"""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass, field

import numpy as np
import xxhash

from parity.observe.signs import (
    BLOCK,
    NARROW,
    NARROW_ROWS,
    ROWS,
    SUMS,
    VISIT,
    WIDE_ROWS,
    make_signs,
    repeated,
    summable,
)


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

    def add(self, array: np.ndarray, digest: xxhash.xxh3_64 | None = None) -> None:
        """Adds rows, piece by piece.

        Args:
            array: Rows, dtype[R, ...], or one row for a tensor without a dimension.
            digest: Is given each piece before it is summed.
        """
        values = summable(array)
        if not values.size:
            return
        table = values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(-1, 1)
        count, width = table.shape
        # Whole groups of rows, so that only the last piece has a remainder.
        group = _group(width) * SUMS
        length = max(1, 2 * VISIT // (group * width)) * group
        products = []
        with np.errstate(over="ignore", invalid="ignore"):
            for begin in range(0, count, length):
                piece = table[begin : begin + length]
                if digest:
                    digest.update(piece.data)
                products.append(_row_products(piece, self.rows + begin))
                self.square += _sum_of_squares(piece.reshape(-1))
            signed = np.concatenate(products) if len(products) > 1 else products[0]
            signed *= repeated(ROWS, self.rows + count)[self.rows :]
            # Row r enters sum r % 8; padded, so that the rows of one sum are a column.
            before, after = self.rows % SUMS, -(self.rows + count) % SUMS
            if before or after:
                signed = np.concatenate([np.zeros(before), signed, np.zeros(after)])
            self.sums += np.add.reduce(signed.reshape(-1, SUMS), axis=0, dtype=np.float64)
        self.rows += count

    @property
    def norm(self) -> float:
        """L2 norm of all rows."""
        return math.sqrt(self.square) if self.square >= 0 else math.nan


def _row_products(table: np.ndarray, first: int) -> np.ndarray:
    """The signed sum of each row of dtype[R, F], of which the first is row `first` of its batch; dtype[R]."""
    rows, width = table.shape
    if width <= NARROW:
        # The same signs for all rows would hide what is alike in all rows: the gradient of a cross-entropy sums to zero
        # in each row, which some signs of few classes show as nothing at all.
        begin = first * width
        signs = repeated(NARROW_ROWS, begin + table.size)[begin:].reshape(rows, width)
        narrow: np.ndarray = (table * signs).sum(axis=1)
        return narrow
    signs = _wide_signs(width, first % SUMS, table.dtype.char)
    # Long rows block by block, as the tensors above.
    blocks = [slice(begin, begin + BLOCK) for begin in range(0, width, BLOCK)]
    return functools.reduce(operator.iadd, [_short_row_products(table[:, block], signs[:, block]) for block in blocks])


def _group(width: int) -> int:
    """As many rows in one product as OpenBLAS takes without threads."""
    return max(1, BLOCK // width)


def _short_row_products(table: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """The same of rows of at most `BLOCK` elements, dtype[R, F], for the signs of eight rows, dtype[8, F]."""
    rows, width = table.shape
    group = _group(width)
    whole = rows // (group * SUMS) * group * SUMS
    products = np.empty(rows, table.dtype)
    for first, last, count in ((0, whole, group), (whole, rows // SUMS * SUMS, (rows - whole) // SUMS)):
        if last > first:
            cut = table[first:last].reshape(-1, count, SUMS, width).swapaxes(1, 2)
            into = products[first:last].reshape(-1, count, SUMS, 1).swapaxes(1, 2)
            np.matmul(cut, signs[:, :, None], out=into)
    rest = table[rows // SUMS * SUMS :]
    if len(rest):
        np.sum(rest * signs[: len(rest)], axis=1, out=products[rows // SUMS * SUMS :])
    return products


def _sum_of_squares(flat: np.ndarray) -> float:
    """Sum of the squares of dtype[N]."""
    blocks = flat.size // BLOCK
    lines = flat[: blocks * BLOCK].reshape(blocks, 1, BLOCK)
    rest = flat[blocks * BLOCK :]
    return float(np.matmul(lines, lines.swapaxes(1, 2)).sum(dtype=np.float64)) + float(rest @ rest)


@functools.lru_cache(maxsize=64)
def _wide_signs(width: int, first: int, dtype: str) -> np.ndarray:
    """The signs of the elements of eight rows, of which the first enters sum `first`; dtype[8, width].

    Each sum has signs of its own. With the same for all, a difference that is alike in all rows would be seen or
    overlooked as a whole.
    """
    return np.stack([make_signs(width, WIDE_ROWS + (first + row) % SUMS) for row in range(SUMS)]).astype(dtype)
