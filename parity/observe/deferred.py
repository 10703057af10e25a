"""What a device has computed of tensors, kept there until a block of steps is fetched: no step waits for it.

Letters: S slots of a chunk, T tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from parity.observe.device_sums import COUNTED
from parity.observe.fingerprint import Fingerprint
from parity.observe.signs import SUMS
from parity.observe.word_sums import finished

# Most bytes of a chunk, and most steps in it: a model of many tensors does not have hundreds of steps on its device.
_CHUNK_BYTES = 1 << 22
_MOST_SLOTS = 256
# Steps in the first chunk of a set of tensors, and most sets whose chunks are filled side by side: which parameters
# have a gradient may alternate.
_FEWEST_SLOTS, _MOST_FORMS = 4, 16


class Later:
    """A value of a column that is known when the block is fetched."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def get(self) -> Any:
        """The value; the host waits for what it is made of."""
        return self._make()


class _Chunk:
    """A buffer on a device for the numbers of T tensors in several steps, int64[S, T, 12]."""

    def __init__(self, seeds: Sequence[int], device: torch.device, slots: int) -> None:
        self.seeds = tuple(seeds)
        self._device = device
        slots = min(slots, _MOST_SLOTS, max(1, _CHUNK_BYTES // (8 * COUNTED * max(1, len(seeds)))))
        # Zeros, to which the rows of a step's batches are added.
        self._buffer = torch.zeros((slots, len(seeds), COUNTED), dtype=torch.int64, device=device)
        self.slots = self._buffer.unbind()
        self.used = 0
        self._fetched: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def free(self) -> bool:
        """Whether there is a slot left."""
        # What was fetched would not see what is written later.
        return self._fetched is None and self.used < len(self.slots)

    def fetch(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Digests, norms and sketches of all slots: uint64[S, T], float64[S, T], float64[S, T, 8]."""
        if self._fetched is None:
            # Once for a block of steps: a recording may be closed on another stream than the loop's.
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._fetched = read(self._buffer[: self.used].to("cpu", copy=True).numpy(), self.seeds)
        return self._fetched


def read(numbers: np.ndarray, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digests, norms and sketches from the numbers of tensors with these seeds, int64[..., T, 12]."""
    floats = numbers.view(np.float64)
    # The square root of a NaN is one.
    with np.errstate(invalid="ignore"):
        norms = np.sqrt(floats[..., 1 + SUMS])
    return finished(numbers[..., 0].view(np.uint64), seeds), norms, floats[..., 1 : 1 + SUMS]


@dataclass(frozen=True, eq=False)
class Slot:
    """The place of a step in a chunk.

    Attributes:
        out: Where the device writes; int64[T, 12].
    """

    out: torch.Tensor
    _chunk: _Chunk
    _number: int

    def get(self) -> Fingerprint:
        """What was written; the host waits for it, and nothing must be written afterwards."""
        digests, norms, sketches = self._chunk.fetch()
        return Fingerprint(digests[self._number], norms[self._number], sketches[self._number])


class Slots:
    """Slots for a quantity, one after the other."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[tuple[int, ...], torch.device], _Chunk] = {}

    def take(self, seeds: Sequence[int], device: torch.device) -> Slot:
        """A slot for tensors with these seeds, whose numbers are zeros."""
        form = (tuple(seeds), device)
        chunk = self._chunks.get(form)
        if chunk is None or not chunk.free:
            # More only where they were needed: a set of tensors that comes once must not take room for many steps.
            known = len(chunk.slots) if chunk else _FEWEST_SLOTS // 2
            full = chunk is None or chunk.used == known
            chunk = _Chunk(seeds, device, slots=2 * known if full else known)
            self._chunks.pop(form, None)
            self._chunks[form] = chunk
            if len(self._chunks) > _MOST_FORMS:
                # The slots that were taken keep their chunk until they are fetched.
                del self._chunks[next(iter(self._chunks))]
        number = chunk.used
        chunk.used += 1
        return Slot(chunk.slots[number], chunk, number)
