"""Byte-exact fingerprints of tensors: equal bytes, shape and dtype give equal digests, on every device."""

import functools
import operator
from collections.abc import Callable, Sequence

import numpy as np
import torch
import xxhash

from parity.observe.host import array_of, on_host
from parity.observe.word_sums import finished, word_sum
from parity.plan.trial import DigestKind

# Of an array rather than `array.data`, for which asking takes three times as long as a short digest.
xxh3: Callable[[np.ndarray, int], int] = xxhash.xxh3_64_intdigest  # type: ignore[assignment]  # NumPy has no Buffer
# What the digest of a tensor depends on, beside its bytes: dtype and shape.
form_of = operator.attrgetter("dtype", "shape")
# The digest of a missing tensor (a parameter without a gradient).
MISSING = 0


def digest(tensor: torch.Tensor | None) -> int:
    """XXH3 (64 bits) of the elements' bytes in C order, seeded with dtype and shape; uint64.

    A tensor of an accelerator is copied to the host first, so the digest of the same numbers is the same everywhere.
    It distinguishes -0.0 from 0.0, one NaN from another, and any order of the elements from any other.

    Args:
        tensor: dtype[...] on any device and in any layout; None for a tensor that is missing.

    Returns:
        The digest; `MISSING` for None.

    Source:
        github.com/Cyan4973/xxHash, doc/xxhash_spec.md.
    """
    return MISSING if tensor is None else digest_of_host(on_host(tensor))


def digest_of_host(host: torch.Tensor | None) -> int:
    """The digest of a tensor that `host.on_host` returned; `MISSING` for None."""
    if host is None:
        return MISSING
    return digest_of_array(array_of(host, exact=True), host)


def digest_of_array(array: np.ndarray, tensor: torch.Tensor) -> int:
    """The digest of a tensor whose elements are in this array, from `host.array_of` with `exact`."""
    return xxh3(array, seed_of(tensor))


def combine(digests: np.ndarray) -> int:
    """One digest of several, uint64[N], in their order; uint64."""
    return xxh3(digests, 0)


def seed_of(tensor: torch.Tensor) -> int:
    """The seed for the digest of a tensor; uint64."""
    # Equal bytes of another dtype or shape are another tensor, so both go into the seed.
    return _seed(tensor.dtype, tensor.shape)


def seeds_of(tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """`seed_of` of each tensor."""
    return _seeds(tuple(map(form_of, tensors)))


def digests_of_arrays(arrays: Sequence[np.ndarray], seeds: Sequence[int], kind: DigestKind) -> list[int]:
    """The digests of tensors in these arrays, from `host.array_of` with `exact`, with the seeds of the tensors."""
    if kind == "xxh3":
        return list(map(xxh3, arrays, seeds))
    found: list[int] = finished(np.array(list(map(word_sum, arrays)), np.uint64), seeds).tolist()
    return found


def row_seed(host: torch.Tensor) -> int:
    """The seed for the digest of rows of this dtype and shape, whose number is not known yet; uint64."""
    return _seed(host.dtype, host.shape[1:], "rows" if host.dim() else "scalars")


# A training has few pairs of dtype and shape, and asks for each of them at every step.
@functools.cache
def _seed(dtype: torch.dtype, shape: torch.Size, of: str = "") -> int:
    """The seed of a digest: XXH3 of the dtype, the shape and a word for what has them; uint64."""
    return xxhash.xxh3_64_intdigest(f"{of}{dtype} {tuple(shape)}".encode())


# A step of a small model asks for some fifty seeds: one by one they take 60 microseconds.
@functools.lru_cache(maxsize=64)
def _seeds(forms: tuple[tuple[torch.dtype, torch.Size], ...]) -> tuple[int, ...]:
    return tuple(_seed(dtype, shape) for dtype, shape in forms)
