"""Fingerprints of tensors: a byte-exact digest, the L2 norm and a sketch of each.

Letters: T tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xxhash

from parity.observe.digest import MISSING, combine, digest_of_array, row_seed, seed_of
from parity.observe.host import array_of, on_host
from parity.observe.row_sketch import RowSketch
from parity.observe.signs import BLOCK, SUMMABLE, SUMS, VISIT, summable
from parity.observe.sketch import sketch_flat


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
    hosts = [None if tensor is None else on_host(tensor) for tensor in tensors]
    seen = Digests(hosts, [None if host is None else array_of(host, exact=True) for host in hosts])
    norms, sketches = sketch_flat(seen.flats, seen.look)
    return Fingerprint(seen.take(), norms, sketches)


class Digests:
    """Digests of tensors, of which the long ones are digested piece by piece while somebody else looks at them.

    Attributes:
        flats: The elements of each tensor as `sketch.sketch_flat` takes them; None for one that is missing.
    """

    def __init__(self, tensors: Sequence[torch.Tensor | None], arrays: Sequence[np.ndarray | None]) -> None:
        """Digests the tensors that are not long.

        Args:
            tensors: T tensors; None for one that is missing.
            arrays: Their elements, from `host.array_of` with `exact`.
        """
        self.flats: list[np.ndarray | None] = []
        self._digests = [MISSING] * len(tensors)
        self._long: dict[int, xxhash.xxh3_64] = {}
        for number, (tensor, array) in enumerate(zip(tensors, arrays, strict=True)):
            if tensor is None or array is None:
                self.flats.append(None)
                continue
            exact = array.dtype.char in SUMMABLE
            if exact and array.size > VISIT:
                self._long[number] = xxhash.xxh3_64(seed=seed_of(tensor))
            else:
                self._digests[number] = digest_of_array(array, tensor)
            self.flats.append(array.reshape(-1) if exact else summable(array_of(on_host(tensor))).reshape(-1))

    def look(self, number: int, begin: int, piece: np.ndarray) -> np.ndarray:  # noqa: ARG002 - as `sketch_flat` calls it
        """Digests a piece of whole blocks, which come in order, and returns it."""
        if number in self._long:
            self._long[number].update(piece.data)
        return piece

    def take(self) -> np.ndarray:
        """The digest of each tensor, whose pieces have all been looked at; `MISSING` for a missing one; uint64[T]."""
        for number, digest in self._long.items():
            flat = self.flats[number]
            assert flat is not None, "a long tensor is not missing"
            digest.update(flat[flat.size // BLOCK * BLOCK :].data)
            self._digests[number] = digest.intdigest()
        return np.array(self._digests, np.uint64)


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
        """Whether the tensors that were added last still have the same bits.

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
