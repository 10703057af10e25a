"""Fingerprints of tensors: a byte-exact digest, the L2 norm and a sketch of each.

Letters: T tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xxhash

from parity.observe.digest import combine, digest_of_host, row_seed
from parity.observe.host import array_of, on_host
from parity.observe.sketch import RowSketch, norms_and_sketches


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
        return float(np.sqrt(np.nansum(np.square(self.norms))))


def fingerprint(tensors: Sequence[torch.Tensor | None]) -> Fingerprint:
    """Digest, norm and sketch of each tensor, while it is in the cache.

    Args:
        tensors: dtype[...] on any device and in any layout; None for one that is missing.
    """
    hosts = [None if tensor is None else on_host(tensor) for tensor in tensors]
    digests = np.array([digest_of_host(host) for host in hosts], np.uint64)
    return Fingerprint(digests, *norms_and_sketches([None if host is None else array_of(host) for host in hosts]))


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
            self._digests[place].update(array.data)
            self._rows[place] += len(host) if host.dim() else 1
            if self._sketched and host.is_floating_point():
                if floating == len(self._sketches):
                    self._sketches.append(RowSketch())
                self._sketches[floating].add(array_of(host))
                floating += 1

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
    def norms(self) -> np.ndarray:
        """L2 norm of each floating-point tensor; float64[T]."""
        return np.array([each.norm for each in self._sketches])

    @property
    def sketches(self) -> np.ndarray:
        """The sketch of each floating-point tensor; float64[T, 8]."""
        return np.array([each.sums for each in self._sketches])
