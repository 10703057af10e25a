"""The fingerprints of tensors whose rows arrive batch by batch, such as those of outputs.

Letters: T tensors, R rows, F elements of a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import xxhash

from parity.observe.deferred import Slot, Slots, read
from parity.observe.device_sums import COUNTED, NUMBERS, on_device
from parity.observe.digest import combine, row_seed
from parity.observe.host import array_of, dense, flat_bytes, on_host
from parity.observe.row_sketch import RowSketch
from parity.observe.row_sums import add_rows
from parity.observe.signs import SUMMABLE
from parity.observe.word_sums import finished, padded_rows, word_sum
from parity.plan.trial import DigestKind


class _Tensor(Protocol):
    """What is known of the rows of one tensor.

    Attributes:
        rows: Their number.
        sketched: Whether it has a norm and a sketch.
        deferred: Whether its device still has something of it.
    """

    rows: int
    sketched: bool
    deferred: bool

    def add(self, tensor: torch.Tensor) -> None:
        """Adds rows, dtype[R, ...]."""

    def copy(self) -> _Tensor:
        """A copy, to which more rows can be added; without the sketch."""

    def now(self) -> int:
        """The digest of the rows so far, to which more may be added; waits for the device."""

    def get(self) -> tuple[int, float, np.ndarray]:
        """Digest, sum of squares and sketch, float64[8], when all rows have been added."""


class _HashedRows:
    """Rows that are digested by XXH3, on the host."""

    deferred = False

    def __init__(self, seed: int, *, sketched: bool) -> None:
        self.rows, self.sketched = 0, sketched
        self._digest = xxhash.xxh3_64(seed=seed)
        self._sketch = RowSketch()

    def add(self, tensor: torch.Tensor) -> None:
        host = on_host(tensor)
        array = array_of(host, exact=True)
        self.rows += len(host) if host.dim() else 1
        if not self.sketched:
            self._digest.update(array.data)
        elif array.dtype.char in SUMMABLE:
            # One visit: each piece is digested while it is in the cache.
            self._sketch.add(array, self._digest)
        else:
            self._digest.update(array.data)
            self._sketch.add(array_of(host))

    def copy(self) -> _HashedRows:
        made = _HashedRows(0, sketched=False)
        made.rows, made._digest = self.rows, self._digest.copy()
        return made

    def now(self) -> int:
        return self._digest.intdigest()

    def get(self) -> tuple[int, float, np.ndarray]:
        return self.now(), self._sketch.square, self._sketch.sums


class _SummedRows:
    """Rows whose words are summed on the host."""

    deferred = False

    def __init__(self, seed: int, *, sketched: bool) -> None:
        self.rows, self.sketched = 0, sketched
        self._seed, self._sum, self._words = seed, 0, 0
        self._sketch = RowSketch()

    def add(self, tensor: torch.Tensor) -> None:
        host = on_host(tensor)
        rows = len(host) if host.dim() else 1
        self.rows += rows
        if not host.numel():
            return
        table = padded_rows(array_of(host, exact=True).reshape(rows, -1))
        self._sum = (self._sum + word_sum(table, self._words)) % 2**64
        self._words += table.nbytes // 4
        if self.sketched:
            self._sketch.add(array_of(host))

    def copy(self) -> _SummedRows:
        made = _SummedRows(self._seed, sketched=False)
        made.rows, made._sum, made._words = self.rows, self._sum, self._words
        return made

    def now(self) -> int:
        return int(finished(np.array([self._sum], np.uint64), [self._seed])[0])

    def get(self) -> tuple[int, float, np.ndarray]:
        return self.now(), self._sketch.square, self._sketch.sums


class _DeviceRows:
    """Rows whose words are summed on their device."""

    def __init__(self, seed: int, slot: Slot | None, out: torch.Tensor, *, sketched: bool) -> None:
        self.rows, self.sketched, self.deferred = 0, sketched, slot is not None
        self._seed, self._words = seed, 0
        # Where the device adds rows; int64[12].
        self._slot, self._out = slot, out

    def add(self, tensor: torch.Tensor) -> None:
        # A later batch may come from elsewhere, or have a dtype that no device sums.
        given = dense(tensor).to(self._out.device)
        summed = self.sketched and on_device(given)
        rows = len(given) if given.dim() else 1
        if self.sketched and not summed:
            self._out[1:NUMBERS].view(torch.float64).fill_(math.nan)
        if given.numel():
            table = given.reshape(rows, -1).contiguous()
            spare = -table.shape[1] * table.element_size() % 4
            if spare:
                # Each row is filled up to whole words, which are digested apart from what is summed.
                filled = torch.nn.functional.pad(flat_bytes(table).reshape(rows, -1), (0, spare))
                add_rows(filled, self._out, first_row=0, first_word=self._words, summed=False)
            if summed or not spare:
                out = torch.zeros_like(self._out) if spare else self._out
                add_rows(table, out, first_row=self.rows, first_word=self._words, summed=summed)
            if summed and spare:
                self._out[1:NUMBERS].view(torch.float64).add_(out[1:NUMBERS].view(torch.float64))
            self._words += rows * -(-table.shape[1] * table.element_size() // 4)
        self.rows += rows

    def copy(self) -> _DeviceRows:
        made = _DeviceRows(self._seed, None, self._out.clone(), sketched=False)
        made.rows, made._words = self.rows, self._words
        return made

    def now(self) -> int:
        digests, _, _ = read(self._out[None].cpu().numpy(), [self._seed])
        return int(digests[0])

    def get(self) -> tuple[int, float, np.ndarray]:
        assert self._slot is not None, "a copy is only asked for its digest"
        found = self._slot.get()
        return int(found.digests[0]), float(found.norms[0]) ** 2, found.sketches[0]


class RowSlots:
    """Where the devices write what they compute of the rows of a quantity, step by step."""

    def __init__(self) -> None:
        self._slots: dict[tuple[int, torch.device], Slots] = {}

    def take(self, place: int, seed: int, device: torch.device) -> Slot:
        """A slot for the tensor at this place."""
        slots = self._slots.get((place, device))
        if slots is None:
            slots = self._slots[place, device] = Slots()
        return slots.take([seed], device)


class Rows:
    """The fingerprint of T tensors whose rows arrive batch by batch.

    k batches of b rows have the digest of one batch of k b rows. A tensor without a dimension counts as one row.
    """

    def __init__(self, *, sketched: bool, kind: DigestKind = "xxh3", slots: RowSlots | None = None) -> None:
        """Begins without rows.

        Args:
            sketched: Whether norm and sketch of floating-point tensors are wanted, too.
            kind: How they are digested.
            slots: Where devices write, for tensors that are digested there.
        """
        self._sketched, self._kind, self._slots = sketched, kind, slots
        self._tensors: list[_Tensor] = []

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Adds a batch: the rows of the first tensor to those of the first tensor so far, and so on."""
        for place, tensor in enumerate(tensors):
            if place == len(self._tensors):
                self._tensors.append(self._begun(place, tensor))
            self._tensors[place].add(tensor)

    def _begun(self, place: int, tensor: torch.Tensor) -> _Tensor:
        """The rows of a tensor, of which this is to be the first batch."""
        sketched = self._sketched and tensor.is_floating_point()
        seed = row_seed(dense(tensor))
        if self._kind == "xxh3":
            return _HashedRows(seed, sketched=sketched)
        if not on_device(tensor, summed=sketched):
            return _SummedRows(seed, sketched=sketched)
        if self._slots is None:
            out = torch.zeros(COUNTED, dtype=torch.int64, device=tensor.device)
            return _DeviceRows(seed, None, out, sketched=False)
        slot = self._slots.take(place, seed, tensor.device)
        return _DeviceRows(seed, slot, slot.out[0], sketched=sketched)

    def unchanged(self, before: Rows, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether the tensors that were added last, or last before this copy, still have the same bits.

        Args:
            before: What `copy` returned before they were added.
            tensors: The tensors.
        """
        again = before.copy()
        again.add(tensors)
        return again._now() == self._now()

    def copy(self) -> Rows:
        """A copy, to which more rows can be added; without the sketches."""
        made = Rows(sketched=False, kind=self._kind)
        made._tensors = [each.copy() for each in self._tensors]
        return made

    def _now(self) -> list[tuple[int, int]]:
        """Digest and number of rows of each tensor so far."""
        return [(each.now(), each.rows) for each in self._tensors]

    @property
    def deferred(self) -> bool:
        """Whether devices still have something of it; whoever asks for what is below then waits for them."""
        return any(each.deferred for each in self._tensors)

    @property
    def digest(self) -> int:
        """One digest of all tensors with their numbers of rows; uint64."""
        found = [each.get()[0] for each in self._tensors]
        return combine(np.array([*found, *(each.rows for each in self._tensors)], np.uint64))

    @property
    def count(self) -> int:
        """Number of tensors."""
        return len(self._tensors)

    @property
    def norm(self) -> float:
        """L2 norm of all floating-point tensors together."""
        return _root(sum([square for _, square, _ in self._found()]))

    @property
    def norms(self) -> np.ndarray:
        """L2 norm of each floating-point tensor; float64[T]."""
        return np.array([_root(square) for _, square, _ in self._found()])

    @property
    def sketches(self) -> np.ndarray:
        """The sketch of each floating-point tensor; float64[T, 8]."""
        return np.array([sums for _, _, sums in self._found()])

    def _found(self) -> list[tuple[int, float, np.ndarray]]:
        return [each.get() for each in self._tensors if each.sketched]


def _root(square: float) -> float:
    return math.sqrt(square) if square >= 0 else math.nan
