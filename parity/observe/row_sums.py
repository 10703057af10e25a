"""Digests, sketches and norms of rows that arrive batch by batch, computed where they are by `row_kernels`."""

from __future__ import annotations

import functools

import numpy as np
import torch

from parity.observe.device_sums import NUMBERS, as_read, current, moved, weights_on
from parity.observe.signs import (
    BLOCK,
    MOST_SIGNS,
    NARROW,
    NARROW_ROWS,
    ROWS,
    SUMS,
    WIDE_ROWS,
    make_sign_bits,
    make_signs,
)

# Units of a row that a program of `row_tiles` takes at least and at most, and most programs: each adds ten numbers.
_LANES, _MOST_PARTS, _MOST_PROGRAMS = 128, 8, 2048
# Rows as wide as this have more places than 32 bits count.
_WIDEST = 2**30


def add_rows(rows: torch.Tensor, out: torch.Tensor, *, first_row: int, first_word: int, summed: bool) -> None:
    """Has the device add the numbers of rows to those of the rows before; the host does not wait for it.

    Args:
        rows: dtype[R, F], contiguous.
        out: The numbers so far, as `TensorSums.take` has them; int64[12].
        first_row: Number of rows before.
        first_word: Number of words before.
        summed: Whether sketch and norm are wanted as well as the digest.
    """
    from parity.observe import row_kernels

    if not rows.numel():
        return
    device, (count, width) = rows.device, rows.shape
    row_signs, narrow_signs = _row_signs(device)
    with current(device):
        if summed and width > NARROW:
            if width >= _WIDEST:
                raise NotImplementedError(f"Rows of {width} elements are digested with digest='xxh3' only.")
            read = as_read(row_kernels.row_tiles, rows.dtype, summed=True)
            units = -(-width // read["PACKED"])
            parts = min(_MOST_PARTS, 1 << (-(-units // _LANES) - 1).bit_length())
            segments = -(-units // (_LANES * parts))
            tall = (first_row + count - 1) // SUMS - first_row // SUMS + 1
            groups = -(-tall * segments // _MOST_PROGRAMS)
            programs = segments * -(-tall // groups)
            found = torch.empty((programs, NUMBERS), dtype=torch.int64, device=device)
            row_kernels.row_tiles[(programs,)](
                rows.data_ptr(),
                count,
                width,
                first_row,
                first_word,
                segments,
                groups,
                found,
                out,
                weights_on(device),
                _wide_signs(device, width),
                row_signs,
                PARTS=parts,
                **read,
            )
        else:
            programs = -(-rows.numel() // BLOCK)
            found = torch.empty((programs, NUMBERS), dtype=torch.int64, device=device) if summed else out
            row_kernels.row_blocks[(programs,)](
                rows.data_ptr(),
                rows.numel(),
                width,
                first_row,
                first_word,
                found,
                out,
                weights_on(device),
                narrow_signs,
                row_signs,
                **as_read(row_kernels.row_blocks, rows.dtype, summed=summed),
            )


@functools.cache
def _row_signs(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The signs of rows, and of the elements of narrow rows; float32[65536]."""
    return moved(make_signs(MOST_SIGNS, ROWS), device), moved(make_signs(MOST_SIGNS, NARROW_ROWS), device)


@functools.lru_cache(maxsize=16)
def _wide_signs(device: torch.device, width: int) -> torch.Tensor:
    """The signs of the elements of wide rows for each sum, in bits; int32[8, ceil(width / 32)]."""
    return moved(np.stack([make_sign_bits(width, WIDE_ROWS + row) for row in range(SUMS)]).view(np.int32), device)
