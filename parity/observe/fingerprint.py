"""Fingerprints of tensors: a byte-exact digest, the L2 norm and a sketch of each.

Letters: T tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xxhash

from parity.observe.digest import MISSING, combine, xxh3
from parity.observe.host import all_on_host, array_of, on_host
from parity.observe.signs import SUMMABLE, SUMS, summable
from parity.observe.sketch import Cut, spread
from parity.observe.standing import StandingTensors
from parity.plan.trial import DigestKind


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is stored of the tensors of a quantity.

    Attributes:
        digests: `digest.MISSING` for a missing tensor; uint64[T].
        norms: NaN for a missing tensor; float64[T].
        sketches: NaN for a missing tensor; float64[T, 8].
        deferred: Whether devices still have something of it.
    """

    digests: np.ndarray
    norms: np.ndarray
    sketches: np.ndarray
    deferred: ClassVar[bool] = False

    @property
    def digest(self) -> int:
        """One digest of all tensors; uint64."""
        return combine(self.digests)

    @property
    def norm(self) -> float:
        """L2 norm of all tensors together."""
        # Without NumPy, which takes longer for a handful of numbers. A missing tensor, NaN, is left out.
        return math.sqrt(sum([norm * norm for norm in self.norms.tolist() if norm == norm]))


def fingerprint(tensors: Sequence[torch.Tensor | None], kind: DigestKind = "xxh3") -> Fingerprint:
    """Digest, norm and sketch of each tensor, in one visit to its memory.

    Args:
        tensors: dtype[...] on any device and in any layout; None for one that is missing.
        kind: How they are digested.
    """
    if not tensors:
        return _NOTHING
    visit = Visit(kind)
    visit.begin(all_on_host([tensor for tensor in tensors if tensor is not None]))
    norms, sketches = visit.cut.norms_and_sketches(visit.values())
    present = [tensor is not None for tensor in tensors]
    return Fingerprint(
        spread(visit.digests(), present, MISSING), spread(norms, present, np.nan), spread(sketches, present, np.nan)
    )


class Visit:
    """Visits to the memory of T tensors, in which they are digested while somebody else sums them.

    Args:
        kind: How they are digested.

    Attributes:
        cut: The elements of the tensors, as they are to be summed.
    """

    def __init__(self, kind: DigestKind = "xxh3") -> None:
        self.cut = _NOTHING_CUT
        self._standing = StandingTensors(kind)
        self._exact: list[bool] = []
        self._hashed: dict[int, xxhash.xxh3_64] = {}

    def begin(self, tensors: Sequence[torch.Tensor]) -> None:
        """Begins a visit to these tensors, dtype[...]."""
        # What is cut of tensors that have to be converted shows what they were.
        if self._standing.look(tensors) and all(self._exact):
            return
        arrays = self._standing.arrays
        self._exact = [array.dtype.char in SUMMABLE for array in arrays]
        self.cut = Cut(
            [
                array if exact else summable(array_of(on_host(tensor)))
                for array, exact, tensor in zip(arrays, self._exact, tensors, strict=True)
            ]
        )

    def values(self) -> Iterator[np.ndarray]:
        """Yields what `Cut.norms_and_sketches` sums, each piece with its part of a digest taken."""
        self._hashed = {}
        yield self.cut.rest()
        for (number, begin, _), piece in zip(self.cut.places, self.cut.pieces, strict=True):
            if self._exact[number] and self._standing.kind == "xxh3":
                if begin == 0:
                    self._hashed[number] = xxhash.xxh3_64(seed=self._standing.seeds[number])
                self._hashed[number].update(piece.data)
            yield piece

    def digests(self) -> np.ndarray:
        """The digest of each tensor, when all values have been asked for; uint64[T]."""
        standing, found = self._standing, []
        if standing.kind != "xxh3":
            return np.array(standing.digests(), np.uint64)
        for number, (array, seed) in enumerate(zip(standing.arrays, standing.seeds, strict=True)):
            hashed = self._hashed.get(number)
            if hashed is None:
                found.append(xxh3(array, seed))
            else:
                hashed.update(self.cut.rests[number].data)
                found.append(hashed.intdigest())
        return np.array(found, np.uint64)


_NOTHING_CUT = Cut([])
_NOTHING = Fingerprint(np.zeros(0, np.uint64), np.zeros(0), np.zeros((0, SUMS)))
