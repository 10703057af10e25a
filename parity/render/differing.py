"""What differs of a pair, step by step: a row for each quantity and tensor.

Letters: S steps of the pair.
"""

from dataclasses import dataclass

import numpy as np

from parity.judge.verdict import PairVerdict
from parity.render.phrases import named
from parity.store.trace import QUANTITIES, TENSOR_QUANTITIES

# Of each quantity of many tensors, those that differ first.
MOST_TENSORS = 40


@dataclass(frozen=True)
class Row:
    """One quantity, or one tensor of it.

    Attributes:
        quantity: Of `trace.QUANTITIES`.
        tensor: Name of the parameter, or None.
        differs: bool[S].
    """

    quantity: str
    tensor: str | None
    differs: np.ndarray

    @property
    def first(self) -> int | None:
        """The first step in which it differs, or None."""
        return int(np.argmax(self.differs)) if self.differs.any() else None

    @property
    def name(self) -> str:
        """Quantity and tensor."""
        return named(self.quantity, self.tensor)


@dataclass(frozen=True)
class Rows:
    """What is shown of a pair, in the order of the chain.

    Attributes:
        shown: The rows.
        tensors: How many parameter tensors the model has.
    """

    shown: tuple[Row, ...]
    tensors: int

    @property
    def left_out(self) -> int:
        """Tensors that are not shown, since others differ before them."""
        return max(0, self.tensors - MOST_TENSORS)


def make_rows(verdict: PairVerdict) -> Rows:
    """A row for each quantity and tensor; of many tensors those that differ first."""
    comparison = verdict.comparison
    names = comparison.baseline.record.param_names
    same = names == comparison.candidate.record.param_names
    shown: list[Row] = []
    for quantity in QUANTITIES:
        if quantity not in TENSOR_QUANTITIES or not same or not names:
            shown.append(Row(quantity, None, comparison.differs[quantity]))
            continue
        sides = (trace.digests(quantity)[: verdict.steps] for trace in (comparison.baseline, comparison.candidate))
        differs = np.not_equal(*sides)
        begins = np.where(differs.any(axis=0), differs.argmax(axis=0), verdict.steps)
        chosen = np.sort(np.argsort(begins, kind="stable")[:MOST_TENSORS])
        shown += [Row(quantity, names[tensor], differs[:, tensor]) for tensor in chosen]
    return Rows(tuple(shown), len(names) if same else 0)
