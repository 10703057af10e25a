"""Fingerprints by words: tensors of an accelerator are digested and summed there, and fetched by block."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence

import numpy as np
import torch

from parity.observe.deferred import Slots
from parity.observe.device_sums import WITH_KERNELS, TensorSums, on_device
from parity.observe.digest import MISSING, seeds_of
from parity.observe.fingerprint import Fingerprint, fingerprint
from parity.observe.host import PLAIN, dense
from parity.observe.signs import SUMS

# What decides where a tensor is digested; of many at once, for which the calls one by one take most of a step.
_kind = operator.attrgetter("__class__", "layout", "device", "dtype")
# Which tensors a part of a fingerprint is of, and what makes it.
Part = tuple[Sequence[int], Callable[[], Fingerprint]]


class DeferredFingerprint:
    """A fingerprint of T tensors, parts of which are still on devices.

    Whoever asks for an attribute waits for the devices. They are those of `Fingerprint`.
    """

    deferred = True

    def __init__(self, count: int, parts: Sequence[Part]) -> None:
        self._count, self._parts = count, parts
        self._found: Fingerprint | None = None

    @property
    def found(self) -> Fingerprint:
        """The fingerprint."""
        if self._found is None:
            count = self._count
            digests, norms = np.full(count, MISSING, np.uint64), np.full(count, math.nan)
            sketches = np.full((count, SUMS), math.nan)
            for places, make in self._parts:
                part, at = make(), np.array(places, np.intp)
                digests[at], norms[at], sketches[at] = part.digests, part.norms, part.sketches
            self._found, self._parts = Fingerprint(digests, norms, sketches), ()
        return self._found

    @property
    def digests(self) -> np.ndarray:
        """As `Fingerprint.digests`."""
        return self.found.digests

    @property
    def norms(self) -> np.ndarray:
        """As `Fingerprint.norms`."""
        return self.found.norms

    @property
    def sketches(self) -> np.ndarray:
        """As `Fingerprint.sketches`."""
        return self.found.sketches

    @property
    def digest(self) -> int:
        """As `Fingerprint.digest`."""
        return self.found.digest

    @property
    def norm(self) -> float:
        """As `Fingerprint.norm`."""
        return self.found.norm


class WordFingerprints:
    """The fingerprints of a quantity, step by step.

    Args:
        summed: Whether norms and sketches are wanted as well as digests; without, those that a device gives are zeros.
    """

    def __init__(self, *, summed: bool = True) -> None:
        self._summed = summed
        self._sums: dict[torch.device, tuple[TensorSums, Slots]] = {}

    def take(self, tensors: Sequence[torch.Tensor | None]) -> Fingerprint | DeferredFingerprint:
        """The fingerprint of tensors, dtype[...] on any devices; None for one that is missing."""
        here, there = split(tensors, summed=self._summed)
        if not there:
            return fingerprint(tensors, "words")
        parts: list[Part] = [(list(places), self.launch(list(places.values()))) for places in there.values()]
        if here:
            # Now, since the tensors may change.
            found = fingerprint(list(here.values()), "words")
            parts.append((list(here), lambda: found))
        return DeferredFingerprint(len(tensors), parts)

    def launch(
        self, tensors: Sequence[torch.Tensor], before: Sequence[torch.Tensor] | None = None
    ) -> Callable[[], Fingerprint]:
        """Has a device take the fingerprint of tensors; returns what fetches it.

        Args:
            tensors: Tensors of one device, from `split`.
            before: What they were, as `TensorSums.take` has it.
        """
        device = tensors[0].device
        if device not in self._sums:
            self._sums[device] = TensorSums(summed=self._summed), Slots()
        sums, slots = self._sums[device]
        slot = slots.take(seeds_of(tensors), device)
        whole = all(map(torch.Tensor.is_contiguous, tensors))
        sums.take(tensors if whole else [each.detach().contiguous() for each in tensors], slot.out, before)
        return slot.get


def split(
    tensors: Sequence[torch.Tensor | None], *, summed: bool
) -> tuple[dict[int, torch.Tensor], dict[torch.device, dict[int, torch.Tensor]]]:
    """Tensors by their numbers: those that the host digests, and by device those that their device digests; dense."""
    present = {number: tensor for number, tensor in enumerate(tensors) if tensor is not None}
    kinds = set(map(_kind, present.values()))
    # Mostly all are of one kind and one device: to look at each of them takes as long as all else.
    if len(kinds) == 1:
        made, layout, device, dtype = next(iter(kinds))
        # Complex numbers may have to be conjugated first, see `host.dense`.
        if made in PLAIN and layout is torch.strided and device.type in WITH_KERNELS and not dtype.is_complex:
            first = next(iter(present.values()))
            return ({}, {device: present}) if on_device(first, summed=summed) else (present, {})
    here: dict[int, torch.Tensor] = {}
    there: dict[torch.device, dict[int, torch.Tensor]] = {}
    for number, tensor in present.items():
        own = dense(tensor)
        (there.setdefault(own.device, {}) if on_device(own, summed=summed) else here)[number] = own
    return here, there
