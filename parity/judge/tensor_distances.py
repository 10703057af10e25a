"""How far the tensors of one quantity are apart at some steps of two traces.

Letters: S steps; T tensors of a quantity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class TensorDistances:
    """The distances of the tensors of one quantity, ||b - a||, and the norms that they are held against.

    A tensor that only one side has is infinitely far; a distance that is not known is NaN.

    Attributes:
        absolute: ||b - a|| of each tensor; float64[S, T].
        norms: ||a|| of each tensor of the baseline; float64[S, T].
        other_norms: ||b|| of each tensor of the candidate; float64[S, T].
    """

    absolute: np.ndarray
    norms: np.ndarray
    other_norms: np.ndarray

    @property
    def steps(self) -> int:
        """Number of steps, S."""
        return len(self.absolute)

    @property
    def tensors(self) -> int:
        """Number of tensors, T."""
        return len(self.absolute.T)

    @cached_property
    def whole_norm(self) -> np.ndarray:
        """Norm of all tensors of the baseline together; float64[S]."""
        with np.errstate(over="ignore"):  # beyond the range of float64 a norm is infinite
            norm: np.ndarray = np.sqrt(np.nansum(np.square(self.norms), axis=1))
        return norm

    @cached_property
    def whole(self) -> np.ndarray:
        """Relative distance of all tensors together; float64[S]."""
        return _over(self.whole_absolute, self.whole_norm)

    @cached_property
    def whole_absolute(self) -> np.ndarray:
        """||b - a|| of all tensors together; float64[S]."""
        with np.errstate(invalid="ignore", over="ignore"):
            found: np.ndarray = np.sqrt(np.square(self.absolute).sum(axis=1))
        return found

    @cached_property
    def each(self) -> np.ndarray:
        """Relative distance of each tensor, beside its own norm; float64[S, T]."""
        return _over(self.absolute, np.nan_to_num(self.norms))

    @cached_property
    def beside_whole(self) -> np.ndarray:
        """Distance of each tensor beside the norm of all of them; float64[S, T]."""
        return _over(self.absolute, self.whole_norm[:, None])

    @cached_property
    def whole_length(self) -> np.ndarray:
        """How much longer or shorter all tensors together are, | ||b|| - ||a|| | / ||a||; float64[S]."""
        with np.errstate(invalid="ignore", over="ignore"):
            lengths = [np.sqrt(np.square(norms).sum(axis=1)) for norms in (self.norms, self.other_norms)]
            return _over(np.abs(lengths[1] - lengths[0]), self.whole_norm)

    @cached_property
    def length_beside_whole(self) -> np.ndarray:
        """How much longer or shorter each tensor is, beside the norm of all of them; float64[S, T]."""
        with np.errstate(invalid="ignore"):
            return _over(np.abs(self.other_norms - self.norms), self.whole_norm[:, None])

    def without(self, left_out: np.ndarray | None) -> TensorDistances:
        """The same with a distance of 0 for some tensors, which still belong to the norm of all of them.

        Args:
            left_out: Those tensors; bool[S, T]. None for none.
        """
        if left_out is None:
            return self
        # A tensor that one side lacks is infinitely far, whatever its gradient was.
        nothing = left_out & np.isfinite(self.absolute)
        absolute = np.where(nothing, 0.0, self.absolute)
        return TensorDistances(absolute, self.norms, np.where(nothing, self.norms, self.other_norms))

    def cut(self, begin: int, end: int) -> TensorDistances:
        """Those of the steps from one position up to another."""
        if (begin, end) == (0, self.steps):
            return self  # with what was computed of it
        return TensorDistances(self.absolute[begin:end], self.norms[begin:end], self.other_norms[begin:end])


def joined(parts: Sequence[TensorDistances]) -> TensorDistances:
    """The distances at the steps of several parts that follow each other, of equally many tensors."""
    if len(parts) == 1:
        return parts[0]
    each = ([part.absolute for part in parts], [part.norms for part in parts], [part.other_norms for part in parts])
    return TensorDistances(*map(np.concatenate, each))


def _over(distance: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """The distance divided by the norm: 0 where the distance is 0, otherwise infinite where the norm is 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(distance == 0, 0.0, distance / norm)
