"""Where a pair differs, step by step, and how far: a row for each quantity and tensor.

Letters: S is the number of steps of the pair.
"""

from dataclasses import dataclass

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.verdict import PairVerdict
from parity.render.phrases import named
from parity.store.trace import QUANTITIES, SKETCHED_QUANTITIES, TENSOR_QUANTITIES

# Tensors of a quantity that have a row, those that differ first: 40 rows take 600 pixels of the heat map.
MOST_TENSORS = 40
# The quantities in the order of computation, with the update, whose bits are those of the parameters.
SHOWN = tuple(each for quantity in QUANTITIES for each in (("update", "param") if quantity == "param" else (quantity,)))


@dataclass(frozen=True, eq=False)
class Row:
    """Where one quantity, or one of its tensors, differs.

    Attributes:
        quantity: One of `SHOWN`.
        tensor: Name of the parameter, or None for a quantity that is compared as a whole.
        differs: Whether it differs at each step; bool[S].
        distance: Its relative distance at each step, of a tensor beside the whole quantity; float64[S], or None where
            only equal or not is known.
    """

    quantity: str
    tensor: str | None
    differs: np.ndarray
    distance: np.ndarray | None = None

    @property
    def first(self) -> int | None:
        """Position of the first step at which it differs, or None."""
        return int(np.argmax(self.differs)) if self.differs.any() else None

    @property
    def largest(self) -> float | None:
        """The largest distance that is known; None where none is."""
        known = [] if self.distance is None else self.distance[~np.isnan(self.distance)]
        return float(np.max(known)) if len(known) else None

    @property
    def name(self) -> str:
        """The quantity, followed by the tensor if there is one."""
        return named(self.quantity, self.tensor)


@dataclass(frozen=True)
class Rows:
    """The rows of a pair, in the order of computation.

    Attributes:
        shown: The rows.
        tensors: Number of parameter tensors of the model; 0 where those of the two sides do not belong together.
    """

    shown: tuple[Row, ...]
    tensors: int

    @property
    def left_out(self) -> int:
        """Number of tensors without a row, since others differ before them."""
        return max(0, self.tensors - MOST_TENSORS)


def make_rows(verdict: PairVerdict) -> Rows:
    """A row for each quantity and tensor; where there are many tensors, only those that differ first.

    A quantity that was not compared has no row.

    Args:
        verdict: The pair and its verdict.

    Raises:
        Trouble: A trace is damaged.
    """
    comparison = verdict.comparison
    names = comparison.baseline.record.param_names if comparison.paired else []
    shown: list[Row] = []
    for quantity in SHOWN:
        if quantity in TENSOR_QUANTITIES and names:
            shown += _tensors(comparison, quantity, names)
        # Without tensors that belong together, one by one, the quantity is one row.
        elif quantity == "update" or comparison.compares(quantity):
            shown += _whole(comparison, quantity)
    return Rows(tuple(shown), len(names))


def _whole(comparison: Comparison, quantity: str) -> list[Row]:
    """The row of a quantity; none for an update that is not known."""
    distances = comparison.distances(quantity) if quantity in SKETCHED_QUANTITIES else None
    distance = comparison.loss_rel if quantity == "loss" else distances.whole if distances else None
    if quantity != "update":
        return [Row(quantity, None, comparison.differs_in(quantity), distance)]
    # An update is the difference of two parameters and has no digest of its own.
    return [Row(quantity, None, distance != 0, distance)] if distance is not None else []


def _tensors(comparison: Comparison, quantity: str, names: list[str]) -> list[Row]:
    """The rows of the tensors that differ first."""
    # Tensors that never differ come last.
    begins = np.full(len(names), comparison.steps)
    for begin, differs in comparison.tensors_differ(quantity):
        here = np.where(differs.any(axis=0), begin + differs.argmax(axis=0), comparison.steps)
        begins = np.minimum(begins, here)
    # Chosen by when they differ, shown in the model's order; the stable sort keeps that order among equals.
    chosen = np.sort(np.argsort(begins, kind="stable")[:MOST_TENSORS])
    differing = np.empty((len(chosen), comparison.steps), bool)
    for begin, differs in comparison.tensors_differ(quantity):
        differing[:, begin : begin + len(differs)] = differs[:, chosen].T
    distances = comparison.distances(quantity) if quantity in SKETCHED_QUANTITIES else None
    if distances is None:
        return [Row(quantity, names[tensor], row) for tensor, row in zip(chosen, differing, strict=True)]
    apart = np.empty((len(chosen), comparison.steps))
    for begin, part in distances.each_part():
        # As the judge looks at them: a gradient that is zero but for rounding is far from itself only.
        apart[:, begin : begin + part.steps] = part.beside_whole[:, chosen].T
    return [Row(quantity, names[tensor], *rows) for tensor, *rows in zip(chosen, differing, apart, strict=True)]
