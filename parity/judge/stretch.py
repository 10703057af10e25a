"""A stretch of the steps of two traces, and the first of them at which a quantity is suddenly further off.

Letters: N steps of a stretch; S steps that both traces have; T tensors of a quantity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity.judge.tensor_distances import TensorDistances


@dataclass(frozen=True, eq=False)
class Stretch:
    """Some steps with those around them: the window before, and after them those at which a jump has to stay.

    Attributes:
        begin: Position of the first step of all.
        first: Position of the first step that is looked at.
        end: Position after the last step that is looked at.
        distances: Of all these steps.
        noise: Which tensors to leave out, as `noise_of` returns it.
    """

    begin: int
    first: int
    end: int
    distances: TensorDistances
    noise: np.ndarray | None

    def of(self, values: np.ndarray) -> np.ndarray:
        """The values of these steps, of those of all common steps; dtype[S, ...] -> dtype[N, ...]."""
        return values[self.begin : self.begin + self.distances.steps]

    def place(self, index: int) -> int:
        """Which of these steps is the one at a position: 0 for one before them."""
        return max(0, index - self.begin)


@dataclass(frozen=True)
class Sudden:
    """A step at which a quantity is suddenly further off than in the steps before.

    Attributes:
        index: Position among the common steps.
        tensor: Number of the tensor; None where all of them together are.
        of: What is: the "distance", or the "length".
        value: How far off it is, beside the baseline's length of all tensors.
        before: The most of the steps before.
        certain: Whether it stays, where a kink of the model may have moved it.
        furthest: Number of the tensor that is furthest, where all of them together are further off.
    """

    index: int
    tensor: int | None
    of: str
    value: float
    before: float
    certain: bool
    furthest: int | None = None


def first_in(
    stretch: Stretch,
    jumps: np.ndarray,
    values: np.ndarray,
    before: np.ndarray,
    certain: np.ndarray,
    *,
    of: str,
    named: bool,
) -> Sudden | None:
    """The first of these jumps in the steps that are looked at, bool[N, 1 or T], and of its step the largest."""
    begin, end = stretch.place(stretch.first), stretch.place(stretch.end)
    rows = np.flatnonzero(jumps[begin:end].any(axis=1))
    if not rows.size:
        return None
    index = begin + int(rows[0])
    tensor = int(np.argmax(np.where(jumps[index], values[index], -1)))
    return Sudden(
        stretch.begin + index,
        tensor if named else None,
        of,
        float(values[index, tensor]),
        float(before[index, tensor]),
        certain=bool(certain[index, tensor]),
    )
