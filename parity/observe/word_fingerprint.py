"""Fingerprints by words: tensors of an accelerator are digested and summed there, and fetched by block."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from parity.observe.deferred import Slots
from parity.observe.device_sums import TensorSums, kinds_of, layout_of, on_device
from parity.observe.digest import MISSING, seeds_of
from parity.observe.fingerprint import Fingerprint, fingerprint
from parity.observe.host import PLAIN, any_lazy, dense
from parity.observe.signs import SUMS
from parity.observe.standing import places_of, same

# What decides where a tensor is digested, and its seed; asked of many at once, which would take a while one by one.
_form = operator.attrgetter("__class__", "layout", "device", "dtype", "shape")
# Which tensors a part of a fingerprint is of, and what makes it.
Part = tuple[Sequence[int], Callable[[], Fingerprint]]
# The numbers of the tensors that the host digests, and by device those that their device digests, dense.
Split = tuple[list[int], list[tuple["OnDevice", list[torch.Tensor]]]]


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


class OnDevice:
    """What one device digests of a quantity.

    Args:
        tensors: The tensors, by their numbers in the quantity.
        summed: Whether norms and sketches are wanted as well as digests.

    Attributes:
        places: Their numbers.
    """

    def __init__(self, tensors: Mapping[int, torch.Tensor], *, summed: bool) -> None:
        given = list(tensors.values())
        self.places = list(tensors)
        self._device = given[0].device
        self._seeds = seeds_of(given)
        self._sums = TensorSums(layout_of(self._device, kinds_of(given)), summed=summed)

    def launch(
        self, tensors: Sequence[torch.Tensor], slots: Slots, before: Sequence[torch.Tensor] | None = None
    ) -> Callable[[], Fingerprint]:
        """Has the device take the fingerprint of tensors of the same dtypes and shapes; returns what fetches it.

        Args:
            tensors: The tensors, dense.
            slots: Where their numbers are written.
            before: What they were, as `TensorSums.take` has it.
        """
        slot = slots.take(self._seeds, self._device)
        whole = all(map(torch.Tensor.is_contiguous, tensors))
        self._sums.take(tensors if whole else [each.detach().contiguous() for each in tensors], slot.out, before)
        return slot.get


class WordFingerprints:
    """The fingerprints of a quantity, step by step.

    Where its tensors are is found out only where one has another dtype, shape or device than the step before.

    Args:
        summed: Whether norms and sketches are wanted as well as digests; without, those that a device gives are zeros.
    """

    def __init__(self, *, summed: bool = True) -> None:
        self._summed = summed
        self._slots = Slots()
        self._forms: list[Any] = []
        self._plain = False
        self._here: list[int] = []
        self._there: list[OnDevice] = []
        # The tensors of the last call, where they were (None if that is not all that counts), and what `split` found.
        self._met: list[torch.Tensor | None] = []
        self._places: list[object] | None = None
        self._found: Split = ([], [])

    def forget(self) -> None:
        """Lets go of the tensors of the last call, which would be kept for nothing where others are to come."""
        self._met, self._places, self._found = [], None, ([], [])

    def take(self, tensors: Sequence[torch.Tensor | None]) -> Fingerprint | DeferredFingerprint:
        """The fingerprint of tensors, dtype[...] on any devices; None for one that is missing."""
        here, there = self.split(tensors)
        if not there:
            return fingerprint(tensors, "words")
        parts: list[Part] = [(each.places, each.launch(given, self._slots)) for each, given in there]
        if here:
            # Now, since the tensors may change.
            found = fingerprint([tensors[number] for number in here], "words")
            parts.append((here, lambda: found))
        return DeferredFingerprint(len(tensors), parts)

    def update(
        self,
        tensors: Sequence[torch.Tensor],
        before: Mapping[int, torch.Tensor],
        update_here: Callable[[Sequence[torch.Tensor]], Fingerprint],
    ) -> Fingerprint | DeferredFingerprint:
        """The digests of tensors, and the norms and sketches of what was added to them since the last visit.

        Args:
            tensors: dtype[...] on any devices.
            before: What those that a device digests were, by their numbers; made what they are now.
            update_here: Finds it for those that the host digests.
        """
        here, there = self.split(tensors)
        if not there:
            return update_here([tensors[number] for number in here])
        parts: list[Part] = []
        for each, given in there:
            parts.append((each.places, each.launch(given, self._slots, [before[number] for number in each.places])))
        if here:
            found = update_here([tensors[number] for number in here])
            parts.append((here, lambda: found))
        return DeferredFingerprint(len(tensors), parts)

    def split(self, tensors: Sequence[torch.Tensor | None]) -> Split:
        """The numbers of the tensors that the host digests, and by device those that their device digests, dense."""
        if self._places is not None and same(tensors, self._met) and self._places == places_of(_present(tensors)):
            return self._found
        # What is spread over ranks or sparse is another tensor of elements at each look.
        forms = [each if each is None else _form(each) for each in tensors]
        if forms == self._forms and self._plain:
            given = [_all_dense([tensors[place] for place in each.places]) for each in self._there]
        else:
            here, there = _by_place(tensors, summed=self._summed)
            self._here, self._there = here, [OnDevice(mine, summed=self._summed) for mine in there.values()]
            self._forms = forms
            self._plain = all(form is None or (form[0] in PLAIN and form[1] is torch.strided) for form in forms)
            given = [[*mine.values()] for mine in there.values()]
        self._found = self._here, [*zip(self._there, given, strict=True)]
        present = _present(tensors)
        # Of a tensor that is lazy, what was found is a copy.
        self._places = places_of(present) if self._plain and not any_lazy(present) else None
        self._met = [*tensors]
        return self._found


def _present(tensors: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def _all_dense(tensors: list[Any]) -> list[torch.Tensor]:
    """`dense` of each of some plain tensors."""
    # To detach each of them, for which nothing here asks, takes longer than all else.
    return list(map(dense, tensors)) if any_lazy(tensors) else tensors


def _by_place(
    tensors: Sequence[torch.Tensor | None], *, summed: bool
) -> tuple[list[int], dict[torch.device, dict[int, torch.Tensor]]]:
    """The numbers of the tensors that the host digests, and by device those that their device digests, dense."""
    here: list[int] = []
    there: dict[torch.device, dict[int, torch.Tensor]] = {}
    for number, tensor in enumerate(tensors):
        if tensor is None:
            continue
        own = dense(tensor)
        if on_device(own, summed=summed):
            there.setdefault(own.device, {})[number] = own
        else:
            here.append(number)
    return here, there
