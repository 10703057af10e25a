"""Tensors that stay in their memory from step to step, such as parameters and the states of optimizers."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import torch

from parity.observe.digest import digests_of_arrays, form_of, seeds_of
from parity.observe.host import PLAIN, all_arrays_of, all_on_host, is_lazy
from parity.plan.trial import DigestKind


class StandingTensors:
    """Arrays and digests of T tensors, of which that is looked up once which stays as it is.

    A step of a small model asks for some fifty of them: comparing where they are takes 40 microseconds, and finding the
    memory and the seed of each 150.

    Args:
        kind: How they are digested.

    Attributes:
        arrays: The elements of each tensor as bytes or numbers, as `array_of` returns them with `exact`.
        seeds: The seeds of their digests.
    """

    def __init__(self, kind: DigestKind = "xxh3") -> None:
        self.kind = kind
        self.arrays: list[np.ndarray] = []
        self._tensors: list[torch.Tensor] = []
        self._places: list[object] | None = None
        self.seeds: tuple[int, ...] = ()

    def look(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Looks at these tensors; returns whether all of them are those of the last call, in the same memory."""
        again = same(tensors, self._tensors)
        if again and self._places is not None and self._places == places_of(tensors):
            return True
        self._tensors = list(tensors)
        self.arrays = all_arrays_of(all_on_host(tensors))
        self.seeds = seeds_of(tensors)
        # Not before the second call with these tensors: gradients are others at each step.
        self._places = places_of(tensors) if again and all(map(_is_on_memory, tensors)) else None
        return False

    def digests(self) -> list[int]:
        """The digest of each tensor as it is now; uint64[T]."""
        return digests_of_arrays(self.arrays, self.seeds, self.kind)


def same(objects: Sequence[object], known: Sequence[object]) -> bool:
    """Whether these are the very objects that are known; they must be kept, since identities are given again."""
    return len(objects) == len(known) and all(map(operator.is_, objects, known))


def places_of(tensors: Sequence[torch.Tensor]) -> list[object] | None:
    """Where tensors are, and what they are there: `tensor.data = other` can change each of these without the others.

    None where one of them has no memory of its own.
    """
    try:
        addresses = [*map(torch.Tensor.data_ptr, tensors)]
    except RuntimeError:  # of sparse ones, and of those that a transformation of torch.func wraps
        return None
    return [
        *addresses,
        *map(type, tensors),
        *map(torch.Tensor.stride, tensors),
        *map(torch.Tensor.is_neg, tensors),
        *map(torch.Tensor.is_conj, tensors),
        *map(form_of, tensors),
    ]


def _is_on_memory(tensor: torch.Tensor) -> bool:
    """Whether the array of a tensor is on the tensor's own memory, and so sees what becomes of it."""
    plain = type(tensor) in PLAIN and tensor.is_cpu and tensor.layout is torch.strided and tensor.is_contiguous()
    return plain and not is_lazy(tensor)
