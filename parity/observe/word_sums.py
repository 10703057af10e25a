"""Digests that an accelerator computes as well as a CPU: sums of the 32-bit words of a tensor, weighted by place.

All is modulo 2**64, where the order of a sum does not matter, so each device gets the same sum to the bit:

    t[i] = w[i] * PLACES[i % 2048],   sum over i of (t[i] ^ (t[i] >> 32)) * weight(i // 2048)

with the words w of the tensor's bytes in C order, little-endian, the last one filled up with zeros. Weights are odd, so
a change of a single word always changes the sum. The shift puts the high bits, where signs are, into the low ones: of
a product alone two flipped signs would change 33 bits only.

Letters: N words.

Source:
    The multiply-add hashing of M. Dietzfelbinger, "Universal hashing and k-wise independent random variables via
    integer arithmetic without primes", 1996, with a shift in between; the weights of blocks are splitmix64 of
    G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators", 2014.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import numpy as np

# Words of a block.
BLOCK_WORDS = 2048
# Of splitmix64.
STEP, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
# A seed that `signs` does not use.
_SEED = 2048
# Blocks that are summed together: 256 kB of products stay in the cache meanwhile.
_VISIT = 8
_HALF = np.uint64(32)
_KNOWN = 4096


@functools.cache
def place_weights() -> np.ndarray:
    """The odd pseudo-random weight of each place in a block; uint64[2048]."""
    # PCG64 as it is fixed in NumPy, as in `signs`.
    weights: np.ndarray = np.random.PCG64(_SEED).random_raw(BLOCK_WORDS) | np.uint64(1)
    return weights


def block_weights(first: int, count: int) -> np.ndarray:
    """The odd weights of so many blocks, from the block of this number on; uint64[count]."""
    weights: np.ndarray = mixed(np.arange(first, first + count, dtype=np.uint64)) | np.uint64(1)
    return weights


def mixed(numbers: np.ndarray) -> np.ndarray:
    """The output function of splitmix64 for each of these states, a bijection; uint64[...]."""
    with np.errstate(over="ignore"):
        numbers = numbers + np.uint64(STEP)
        numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(FIRST)
        numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(SECOND)
        made: np.ndarray = numbers ^ (numbers >> np.uint64(31))
    return made


def finished(sums: np.ndarray, seeds: Sequence[int] | np.ndarray) -> np.ndarray:
    """The digests of tensors, of their sums and the seeds of their dtypes and shapes; uint64[T] of T tensors.

    A bijection: tensors of one dtype and shape have equal digests only if their sums are equal.
    """
    return mixed(sums ^ np.asarray(seeds, np.uint64))


def word_sum(array: np.ndarray, first: int = 0) -> int:
    """The sum of the words of an array's bytes, dtype[...] in C order; uint64.

    Args:
        array: The array.
        first: The number of words that come before it.
    """
    total = 0
    for words in words_of(array):
        total += _sum_of_words(words, first)
        first += len(words)
    return total % 2**64


def words_of(array: np.ndarray) -> list[np.ndarray]:
    """The words of an array's bytes: the whole ones, and one that is filled up with zeros; uint32[N] each."""
    if sys.byteorder != "little":
        raise NotImplementedError("Digests of words are defined for little-endian machines; use digest='xxh3'.")
    flat = array.reshape(-1).view(np.uint8)
    whole = len(flat) // 4 * 4
    found = [flat[:whole].view(np.uint32)]
    if whole < len(flat):
        last = np.zeros(4, np.uint8)
        last[: len(flat) - whole] = flat[whole:]
        found.append(last.view(np.uint32))
    return found


def padded_rows(table: np.ndarray) -> np.ndarray:
    """Rows, dtype[R, F], each filled up with zeros to whole words; dtype[R, F] itself where they are."""
    spare = -table.shape[1] * table.itemsize % 4
    if not spare:
        return table
    table = np.ascontiguousarray(table).view(np.uint8)
    return np.concatenate([table, np.zeros((len(table), spare), np.uint8)], axis=1)


def _sum_of_words(words: np.ndarray, first: int) -> int:
    """The sum of uint32[N], of which the first is word `first`; not reduced."""
    # Two buffers for all pieces: to get new memory for each takes ten times as long as its sum.
    scratch = np.empty((2, min(len(words), _VISIT * BLOCK_WORDS)), np.uint64)
    begin, total = 0, 0
    while begin < len(words):
        block, place = divmod(first + begin, BLOCK_WORDS)
        left = len(words) - begin
        # A part of a block, or as many whole ones as are looked at together.
        short = place or left < BLOCK_WORDS
        count = 1 if short else min(left // BLOCK_WORDS, _VISIT)
        width = min(left, BLOCK_WORDS - place)
        end = begin + count * width
        total += _of_blocks(words[begin:end].reshape(count, width), block, place, scratch[:, : count * width])
        begin = end
    return total


def _of_blocks(table: np.ndarray, block: int, place: int, scratch: np.ndarray) -> int:
    """The sum of the words of consecutive blocks from the same place in each, uint32[B, <= 2048]."""
    products, shifted = scratch.reshape(2, *table.shape)
    np.copyto(products, table)
    np.multiply(products, place_weights()[place : place + table.shape[1]], out=products)
    np.right_shift(products, _HALF, out=shifted)
    np.bitwise_xor(products, shifted, out=products)
    sums = np.add.reduce(products, axis=1)
    end = block + len(table)
    weights = _known_weights()[block:end] if end <= _KNOWN else block_weights(block, len(table))
    return int(np.add.reduce(sums * weights))


@functools.cache
def _known_weights() -> np.ndarray:
    """The weights of the first blocks, which most tensors have no more of."""
    return block_weights(0, _KNOWN)
