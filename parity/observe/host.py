"""Tensors on the host: whatever the device, the layout or the kind of a tensor, its elements as a NumPy array."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import torch

# Kinds of tensors that are their own elements, rather than a description of others.
PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
# What is asked of many tensors at once, for which the calls one by one take 80 microseconds of a step.
_kind = operator.attrgetter("__class__", "layout", "is_cpu", "requires_grad")
_dtype = operator.attrgetter("dtype")
# The kinds that `on_host` returns as they are.
_HOSTS = frozenset((plain, torch.strided, True, False) for plain in PLAIN)
# Dtypes that NumPy does not have.
_NOT_IN_NUMPY = frozenset(
    getattr(torch, name)
    for name in ("bfloat16", *(f"float8_{kind}" for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")))
    if hasattr(torch, name)  # the last one since torch 2.7
)


def all_on_host(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """`on_host` of each tensor."""
    plain = set(map(_kind, tensors)) <= _HOSTS and not any_lazy(tensors)
    return list(tensors) if plain else list(map(on_host, tensors))


def is_lazy(tensor: torch.Tensor) -> bool:
    """Whether a tensor is to be conjugated or negated when somebody asks for its elements: its memory is not so yet."""
    return tensor.is_neg() or tensor.is_conj()


def any_lazy(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether any of the tensors `is_lazy`."""
    return any(map(torch.Tensor.is_neg, tensors)) or any(map(torch.Tensor.is_conj, tensors))


def all_arrays_of(hosts: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """`array_of` of each tensor, with `exact`."""
    if _NOT_IN_NUMPY.isdisjoint(map(_dtype, hosts)) and all(map(torch.Tensor.is_contiguous, hosts)):
        return list(map(torch.Tensor.numpy, hosts))
    return [array_of(host, exact=True) for host in hosts]


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """The elements of a tensor on the CPU, dense and outside of the graph; the tensor itself where it is all of this.

    Of a tensor that is spread over ranks (a DTensor, as FSDP2 makes them) these are the elements of this rank. The
    gradient of a sparse embedding is made dense, in which repeated rows are added up.
    """
    tensor = dense(tensor)
    return tensor if tensor.is_cpu else tensor.cpu()


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """The same on the tensor's own device."""
    # A step asks this some hundred times: each check costs less than the call that it saves.
    if tensor.requires_grad:
        tensor = tensor.detach()
    if type(tensor) not in PLAIN:
        local = getattr(tensor, "to_local", None)
        tensor = tensor if local is None else local()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return tensor.resolve_conj().resolve_neg() if is_lazy(tensor) else tensor


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor in C order; uint8[N]."""
    # A dimension of one element keeps whatever stride it has, with which nothing can be seen as bytes.
    flat = tensor.contiguous().reshape(-1)
    return flat.as_strided((flat.numel(),), (1,)).view(torch.uint8)


def array_of(host: torch.Tensor, *, exact: bool = False) -> np.ndarray:
    """The elements in C order; a contiguous tensor is not copied.

    Args:
        host: From `on_host`.
        exact: Whether dtypes that NumPy does not have are to be seen as bytes, rather than converted to float32.
    """
    if host.dtype in _NOT_IN_NUMPY:
        host = flat_bytes(host) if exact else host.float()
    array = host.numpy()
    # In C order whatever the strides, so that the layout in memory does not belong to a digest.
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)
