"""Byte-exact fingerprints of tensors: equal bytes, shape and dtype give equal digests, on every device."""

import functools

import numpy as np
import torch
import xxhash

# The digest of a missing tensor (a parameter without a gradient).
MISSING = 0

# Dtypes that NumPy does not have; their elements are digested as bytes.
_NOT_IN_NUMPY = {torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}


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
    if tensor is None:
        return MISSING
    # Equal bytes of another dtype or shape are another tensor, so both go into the seed. `.data` is a view: nothing is
    # copied.
    return xxhash.xxh3_64_intdigest(_elements(tensor).data, _seed(tensor.dtype, tensor.shape))


def combine(digests: np.ndarray) -> int:
    """One digest of several, uint64[N], in their order; uint64."""
    return xxhash.xxh3_64_intdigest(digests.data)


def _elements(tensor: torch.Tensor) -> np.ndarray:
    """The elements in C order, on the host; a contiguous tensor of the CPU is not copied."""
    # A step digests some 40 tensors: the two checks cost less than the calls that they save.
    host = tensor.detach() if tensor.requires_grad else tensor
    host = host if host.is_cpu else host.cpu()
    if host.dtype in _NOT_IN_NUMPY:
        host = host.contiguous().reshape(-1).view(torch.uint8)
    # In C order whatever the strides, so that the layout in memory does not belong to the digest.
    return np.ascontiguousarray(host.numpy())


# A training has few pairs of dtype and shape, and asks for each of them at every step.
@functools.cache
def _seed(dtype: torch.dtype, shape: torch.Size) -> int:
    """The seed of a digest: XXH3 of the dtype and the shape in words; uint64."""
    return xxhash.xxh3_64_intdigest(f"{dtype} {tuple(shape)}".encode())
