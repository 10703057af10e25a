"""Tensors on the host: whatever the device, the layout or the kind of a tensor, its elements as a NumPy array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

# Dtypes that NumPy does not have.
_NOT_IN_NUMPY = frozenset({torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2})


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """The elements of a tensor on the CPU, dense and outside of the graph; the tensor itself where it is all of this.

    Of a tensor that is spread over ranks (a DTensor, as FSDP2 makes them) these are the elements of this rank. The
    gradient of a sparse embedding is made dense, in which repeated rows are added up.
    """
    # A step asks this some hundred times: each check costs less than the call that it saves.
    if tensor.requires_grad:
        tensor = tensor.detach()
    if type(tensor) not in _PLAIN:
        local = getattr(tensor, "to_local", None)
        tensor = tensor if local is None else local()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return tensor if tensor.is_cpu else tensor.cpu()


_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


class StandingArrays:
    """The arrays of tensors that stay in their memory from step to step, such as parameters and optimizer states.

    What does not change is looked up once: a step asks for some hundred of them.
    """

    def __init__(self) -> None:
        self._known: list[tuple[torch.Tensor | None, int, np.ndarray]] = []

    def get_all(self, tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
        """The elements of each tensor as bytes or numbers, as `array_of` returns them with `exact`."""
        known = self._known
        if len(known) != len(tensors):
            known = self._known = [(None, 0, _NOTHING)] * len(tensors)
        found = []
        for place, tensor in enumerate(tensors):
            standing, address, array = known[place]
            if standing is not tensor or address != tensor.data_ptr():
                array = array_of(on_host(tensor), exact=True)
                # Only an array on the tensor's own memory sees what becomes of it.
                if type(tensor) in _PLAIN and tensor.is_cpu and array.ctypes.data == tensor.data_ptr():
                    known[place] = (tensor, tensor.data_ptr(), array)
            found.append(array)
        return found


_NOTHING = np.zeros(0)


def array_of(host: torch.Tensor, *, exact: bool = False) -> np.ndarray:
    """The elements in C order; a contiguous tensor is not copied.

    Args:
        host: From `on_host`.
        exact: Whether dtypes that NumPy does not have are to be seen as bytes, rather than converted to float32.
    """
    if host.dtype in _NOT_IN_NUMPY:
        host = host.contiguous().reshape(-1).view(torch.uint8) if exact else host.float()
    array = host.numpy()
    # In C order whatever the strides, so that the layout in memory does not belong to a digest.
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)
