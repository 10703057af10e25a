"""Where a pair differs, step by step: a row for each quantity and tensor.

Letters: S is the number of steps of the pair.
"""

from dataclasses import dataclass

import numpy as np

from parity.judge.verdict import PairVerdict
from parity.render.phrases import named
from parity.store.trace import QUANTITIES, TENSOR_QUANTITIES

# Tensors of a quantity that have a row, those that differ first: 40 rows take 600 pixels of the heat map.
MOST_TENSORS = 40


@dataclass(frozen=True)
class Row:
    """Where one quantity, or one of its tensors, differs.

    Attributes:
        quantity: One of `trace.QUANTITIES`.
        tensor: Name of the parameter, or None for a quantity that is compared as a whole.
        differs: Whether it differs at each step; bool[S].
    """

    quantity: str
    tensor: str | None
    differs: np.ndarray

    @property
    def first(self) -> int | None:
        """The first step at which it differs, or None."""
        return int(np.argmax(self.differs)) if self.differs.any() else None

    @property
    def name(self) -> str:
        """The quantity, followed by the tensor if there is one."""
        return named(self.quantity, self.tensor)


@dataclass(frozen=True)
class Rows:
    """The rows of a pair, in the order of computation.

    Attributes:
        shown: The rows.
        tensors: Number of parameter tensors of the model; 0 where the two sides have different ones.
    """

    shown: tuple[Row, ...]
    tensors: int

    @property
    def left_out(self) -> int:
        """Number of tensors without a row, since others differ before them."""
        return max(0, self.tensors - MOST_TENSORS)


def make_rows(verdict: PairVerdict) -> Rows:
    """A row for each quantity and tensor; where there are many tensors, only those that differ first.

    Args:
        verdict: The pair and its verdict.

    Raises:
        Trouble: A trace is damaged.
    """
    comparison = verdict.comparison
    names = comparison.baseline.record.param_names
    same = names == comparison.candidate.record.param_names
    shown: list[Row] = []
    for quantity in QUANTITIES:
        # Without equal names the tensors of the two sides cannot be paired, so the quantity is one row.
        if quantity not in TENSOR_QUANTITIES or not same or not names:
            shown.append(Row(quantity, None, comparison.differs[quantity]))
            continue
        sides = (trace.digests(quantity)[: verdict.steps] for trace in (comparison.baseline, comparison.candidate))
        differs = np.not_equal(*sides)
        # Tensors that never differ come last; `argmax` alone would call them different from step 0 on.
        begins = np.where(differs.any(axis=0), differs.argmax(axis=0), verdict.steps)
        # Chosen by when they differ, shown in the model's order; the stable sort keeps that order among equals.
        chosen = np.sort(np.argsort(begins, kind="stable")[:MOST_TENSORS])
        shown += [Row(quantity, names[tensor], differs[:, tensor]) for tensor in chosen]
    return Rows(tuple(shown), len(names) if same else 0)
