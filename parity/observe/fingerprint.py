"""Fingerprints of tensors: a byte-exact digest, the L2 norm and a sketch of each.

Letters: T tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xxhash

from parity.observe.digest import MISSING, combine, row_seed, xxh3
from parity.observe.host import all_on_host, array_of, on_host
from parity.observe.row_sketch import RowSketch
from parity.observe.signs import SUMMABLE, SUMS, summable
from parity.observe.sketch import Cut, spread
from parity.observe.standing import StandingTensors


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is stored of the tensors of a quantity.

    Attributes:
        digests: `digest.MISSING` for a missing tensor; uint64[T].
        norms: NaN for a missing tensor; float64[T].
        sketches: NaN for a missing tensor; float64[T, 8].
    """

    digests: np.ndarray
    norms: np.ndarray
    sketches: np.ndarray

    @property
    def digest(self) -> int:
        """One digest of all tensors; uint64."""
        return combine(self.digests)

    @property
    def norm(self) -> float:
        """L2 norm of all tensors together."""
        # Without NumPy, which takes longer for a handful of numbers. A missing tensor, NaN, is left out.
        return math.sqrt(sum([norm * norm for norm in self.norms.tolist() if norm == norm]))


def fingerprint(tensors: Sequence[torch.Tensor | None]) -> Fingerprint:
    """Digest, norm and sketch of each tensor, in one visit to its memory.

    Args:
        tensors: dtype[...] on any device and in any layout; None for one that is missing.
    """
    if not tensors:
        return _NOTHING
    visit = Visit()
    visit.begin(all_on_host([tensor for tensor in tensors if tensor is not None]))
    norms, sketches = visit.cut.norms_and_sketches(visit.values())
    present = [tensor is not None for tensor in tensors]
    return Fingerprint(
        spread(visit.digests(), present, MISSING), spread(norms, present, np.nan), spread(sketches, present, np.nan)
    )


class Visit:
    """Visits to the memory of T tensors, in which they are digested while somebody else sums them.

    Attributes:
        cut: The elements of the tensors, as they are to be summed.
    """

    def __init__(self) -> None:
        self.cut = _NOTHING_CUT
        self._standing = StandingTensors()
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
            if self._exact[number]:
                if begin == 0:
                    self._hashed[number] = xxhash.xxh3_64(seed=self._standing.seeds[number])
                self._hashed[number].update(piece.data)
            yield piece

    def digests(self) -> np.ndarray:
        """The digest of each tensor, when all values have been asked for; uint64[T]."""
        standing, found = self._standing, []
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


class Rows:
    """The fingerprint of tensors whose rows arrive batch by batch.

    k batches of b rows have the digest of one batch of k b rows. A tensor without a dimension counts as one row.
    """

    def __init__(self, *, sketched: bool) -> None:
        """Begins without rows.

        Args:
            sketched: Whether norm and sketch of floating-point tensors are wanted, too.
        """
        self._sketched = sketched
        self._digests: list[xxhash.xxh3_64] = []
        self._rows: list[int] = []
        self._sketches: list[RowSketch] = []

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Adds a batch: the rows of the first tensor to those of the first tensor so far, and so on."""
        self._add([on_host(tensor) for tensor in tensors])

    def _add(self, hosts: Sequence[torch.Tensor]) -> None:
        floating = 0
        for place, host in enumerate(hosts):
            if place == len(self._digests):
                self._digests.append(xxhash.xxh3_64(seed=row_seed(host)))
                self._rows.append(0)
            array = array_of(host, exact=True)
            self._rows[place] += len(host) if host.dim() else 1
            digest = self._digests[place]
            if not self._sketched or not host.is_floating_point():
                digest.update(array.data)
                continue
            if floating == len(self._sketches):
                self._sketches.append(RowSketch())
            sketch = self._sketches[floating]
            floating += 1
            if array.dtype.char in SUMMABLE:
                # One visit: each piece is digested while it is in the cache.
                sketch.add(array, digest)
            else:
                digest.update(array.data)
                sketch.add(array_of(host))

    def unchanged(self, before: Rows, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether the tensors that were added last, or last before this copy, still have the same bits.

        Args:
            before: What `copy` returned before they were added.
            tensors: The tensors.
        """
        again = before.copy()
        again._sketched = False
        again.add(tensors)
        return again.digest == self.digest

    def copy(self) -> Rows:
        """A copy, to which more rows can be added; without the sketches."""
        made = Rows(sketched=False)
        made._digests, made._rows = [each.copy() for each in self._digests], [*self._rows]
        return made

    @property
    def digest(self) -> int:
        """One digest of all tensors with their numbers of rows; uint64."""
        found = [each.intdigest() for each in self._digests]
        return combine(np.array([*found, *self._rows], np.uint64))

    @property
    def count(self) -> int:
        """Number of tensors."""
        return len(self._digests)

    @property
    def norm(self) -> float:
        """L2 norm of all floating-point tensors together."""
        square = sum([each.square for each in self._sketches])
        return math.sqrt(square) if square >= 0 else math.nan

    @property
    def norms(self) -> np.ndarray:
        """L2 norm of each floating-point tensor; float64[T]."""
        return np.array([each.norm for each in self._sketches])

    @property
    def sketches(self) -> np.ndarray:
        """The sketch of each floating-point tensor; float64[T, 8]."""
        return np.array([each.sums for each in self._sketches])
