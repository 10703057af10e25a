"""Fixed pseudo-random signs of the elements of tensors, and the sizes in which these are summed."""

from __future__ import annotations

import functools
import math

import numpy as np

# Number of sums in a sketch. Eight put the distance within a factor of 3 in more than 99 of 100 cases.
SUMS = 8
# Elements of a tensor are taken in blocks of this size, each cut into SUMS rows. OpenBLAS uses threads from 9,216
# elements on (interface/gemv.c: 2304 * GEMM_MULTITHREAD_THRESHOLD).
BLOCK = 8192
# Elements that are looked at together, for a digest and several sums: 512 kB of float32 stay in the cache meanwhile.
VISIT = 16 * BLOCK
# Characters of the dtypes that are summed as they are: float32 and float64.
SUMMABLE = "fd"
# Signs repeat after this many rows of a batch or blocks of a tensor.
MOST_SIGNS = 1 << 16
# Most elements of a row that have signs of their own, instead of a sign for the row and one for the place in it.
NARROW = 64
# Signs of whole blocks, of their elements, of what is left after them, and of the rows of a batch; of all elements of
# narrow rows; and from the last one on those of the elements of wide rows, for each sum its own.
ELEMENT, BLOCKS, REST, ROWS, NARROW_ROWS, WIDE_ROWS = range(6)


@functools.cache
def make_signs(count: int, seed: int) -> np.ndarray:
    """Pseudo-random signs, 1 or -1; float32[count]. A longer array begins with the signs of a shorter one."""
    bits = np.unpackbits(_words(count, seed).view(np.uint8), bitorder="little")
    return bits[:count].astype(np.float32) * 2 - 1


def make_sign_bits(count: int, seed: int) -> np.ndarray:
    """The same with a bit each, the first in the lowest bit, 1 for 1 and 0 for -1; uint32[ceil(count / 32)]."""
    return _words(count, seed).view(np.uint32)[: math.ceil(count / 32)]


def _words(count: int, seed: int) -> np.ndarray:
    """Pseudo-random words with at least so many bits, uint64[...]."""
    # PCG64 as it is fixed in NumPy (NEP 19 allows other streams of `Generator` methods; raw bits never change).
    return np.random.PCG64(seed).random_raw(math.ceil(count / 64))


def repeated(seed: int, count: int) -> np.ndarray:
    """The signs of so many blocks or rows; float32[count]."""
    known = make_signs(MOST_SIGNS, seed)
    return known[:count] if count <= MOST_SIGNS else np.resize(known, count)


def summable(array: np.ndarray) -> np.ndarray:
    """The tensor in a dtype in which it can be summed: float32 or float64 as it is, anything else as float32.

    A complex number is two elements: its real and its imaginary part.
    """
    # By the character of the dtype: comparing dtypes takes ten times as long, some hundred times a step.
    if array.dtype.char in SUMMABLE:
        return array
    if array.dtype.kind == "c":
        # Of one dimension at least, whose elements can be seen as others.
        return np.atleast_1d(np.ascontiguousarray(array)).view(array.real.dtype)
    return array.astype(np.float32)
