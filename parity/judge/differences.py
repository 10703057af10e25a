"""How far two traces differ, step by step: which quantities, and by how much. NumPy and Arrow only.

Letters: S steps that both traces have.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from parity.judge.common_steps import Both, common_steps
from parity.judge.distances import Distances, has_unchanged_gradient, measure, unit
from parity.judge.first_difference import Difference, describe
from parity.judge.fleet import same_hardware
from parity.judge.segments import Task, find_unequal, segments
from parity.judge.state_differences import StateDifferences
from parity.judge.trial_trace import TrialTrace, paired, unlike_digests
from parity.judge.ulp import relative, ulp_distance
from parity.store.trace import NORMED_QUANTITIES, QUANTITIES, TENSOR_QUANTITIES
from parity.store.traces import is_long

__all__ = ["Comparison", "Difference", "find_differences"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two traces side by side, over the steps that both have."""

    baseline: TrialTrace
    candidate: TrialTrace
    # What each side has of its own and nobody compares: ranks have rows of their own. Quantities, or "generators".
    own: frozenset[str] = frozenset()
    # Results by quantity, so that each is compared once; a frozen instance can still fill a dict.
    _differs: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _distances: dict[str, Distances | None] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def first_step(self) -> int:
        """Number of the first common step: a recording may continue an earlier one."""
        return max(self.baseline.first_step, self.candidate.first_step)

    def index_of(self, step: int) -> int:
        """Position of a step among the common ones."""
        return step - self.first_step

    @cached_property
    def common(self) -> Both:
        """The common steps of the baseline and of the candidate."""
        return common_steps(self.baseline, self.candidate)

    @property
    def steps(self) -> int:
        """Number of common steps, S."""
        return self.common[0].steps

    @property
    def differs(self) -> dict[str, np.ndarray]:
        """Whether anything that is stored of a quantity differs, bit for bit; bool[S] for each quantity."""
        return {quantity: self.differs_in(quantity) for quantity in QUANTITIES}

    def differs_in(self, quantity: str) -> np.ndarray:
        """Whether anything that is stored of a quantity differs, bit for bit; bool[S].

        Args:
            quantity: One of `trace.QUANTITIES`.

        Raises:
            Trouble: A trace is damaged.
        """
        if quantity not in self._differs:
            # Long traces are read once for all quantities.
            find_differences([self], QUANTITIES if self.is_long else [quantity])
        return self._differs[quantity]

    @property
    def is_long(self) -> bool:
        """Whether a trace may not fit into memory, so that nothing is kept of it that can be read again."""
        return is_long(self.baseline.record) or is_long(self.candidate.record)

    def release(self) -> None:
        """Forgets what was computed of long traces, except which steps differ; who asks again computes it again."""
        if self.is_long:
            self._distances.clear()
            for name in ("loss_abs", "loss_rel", "loss_ulp", "_losses"):
                self.__dict__.pop(name, None)

    def compared_columns(self, quantity: str) -> list[str]:
        """The columns that show whether a quantity differs, without those that are known to be equal.

        Args:
            quantity: One of `trace.QUANTITIES`.

        Raises:
            Trouble: A trace is damaged.
        """
        # Nobody looked: it decides nothing, and `decide` calls no such pair identical.
        if not self.compares(quantity):
            return []
        if quantity == "state":
            return []  # `StateDifferences` reads them
        # Whatever is stored counts, digest and number: identical means that all of it was compared.
        names = [f"{quantity}_digest", *(["loss"] if quantity == "loss" else [])]
        # The combined digest alone would do, but a tensor that contradicts it must not be overlooked.
        if quantity in TENSOR_QUANTITIES and self.paired:
            names.append(f"{quantity}_digests")
        # Only on equal hardware do equal tensors have equal norms: a norm is rounded as its device adds it up.
        if quantity in NORMED_QUANTITIES and same_hardware(self.baseline.record, self.candidate.record):
            names.append(f"{quantity}_norm")
        return [name for name in names if not self._has_same(name)]

    def task(self, quantities: Sequence[str]) -> Task:
        """What is to be compared row by row."""
        one, other = self.common
        columns = {quantity: self.compared_columns(quantity) for quantity in quantities}
        return Task(one.trace.rows(one.begin), other.trace.rows(other.begin), self.first_step, self.steps, columns)

    def _has_same(self, name: str) -> bool:
        one, other = self.common
        return one.begin == other.begin and one.trace.has_same(name, other.trace)

    def take(self, quantity: str, differs: np.ndarray) -> None:
        """Keeps where a quantity differs.

        Args:
            quantity: One of `trace.QUANTITIES`.
            differs: Where any of its `compared_columns` does; bool[S].
        """
        if quantity == "state" and self.compares("state"):
            differs = self.state.differs
        elif quantity in TENSOR_QUANTITIES and self.compares(quantity) and not self.paired:
            # The tensors cannot be paired, so none of them counts as equal.
            differs = np.ones(self.steps, bool)
        self._differs[quantity] = differs

    def tensors_differ(self, quantity: str) -> Iterator[tuple[int, np.ndarray]]:
        """Yields, part by part, whether the digest of each tensor differs, after the position of the first step.

        Args:
            quantity: One of `trace.TENSOR_QUANTITIES`, whose tensors are `paired`.

        Yields:
            The position, and bool[N, P] of the N steps from there on.

        Raises:
            Trouble: A trace is damaged.
        """
        name = f"{quantity}_digests"
        left, right = (side.rows() for side in self.common)
        for segment in segments(left, right, self.steps):
            yield segment.begin, np.not_equal(left.tensors(name, segment.left), right.tensors(name, segment.right))

    @cached_property
    def loss_abs(self) -> np.ndarray:
        """|candidate - baseline| of the loss, 0 where both are the same infinity; float64[S]."""
        baseline, candidate = self.both("loss")
        # inf - inf is NaN, and would warn, where both are the same infinity.
        with np.errstate(invalid="ignore"):
            return np.where(baseline == candidate, 0.0, np.abs(candidate - baseline))

    @cached_property
    def loss_rel(self) -> np.ndarray:
        """loss_abs / |baseline|; float64[S]."""
        return relative(self.loss_abs, self.both("loss")[0])

    @cached_property
    def loss_ulp(self) -> np.ndarray:
        """Distance of the losses in their dtype, -1 beside a NaN; int64[S]."""
        dtype = self.baseline.record.loss_dtype or "float32"
        return ulp_distance(*self.both("loss"), dtype=dtype)

    def both(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A column of the baseline and of the candidate; both dtype[S].

        Args:
            name: Name of the column.

        Raises:
            Trouble: A trace is damaged.
        """
        # A step that only one side has cannot be compared; `decide` reports it.
        # The losses are asked for by everything that is said of a pair.
        return self._losses if name == "loss" else self._both(name)

    @cached_property
    def _losses(self) -> tuple[np.ndarray, np.ndarray]:
        return self._both("loss")

    def _both(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return self.common[0].values(name), self.common[1].values(name)

    @cached_property
    def unlike(self) -> str | None:
        """Why the digests of the two say nothing about each other, or None where they do."""
        return unlike_digests(self.baseline.record, self.candidate.record)

    def compares(self, quantity: str) -> bool:
        """Whether both traces have the quantity: one of an earlier version, or of a loop without optimizer, may not.

        Args:
            quantity: One of `trace.QUANTITIES`.
        """
        sides = (self.baseline, self.candidate)
        if quantity in self.own:
            return False
        # A loss is one number, whose digest is of the same kind everywhere.
        if self.unlike and quantity != "loss":
            return False
        # Rows of a batch were digested in another way before the state was stored.
        if quantity in ("input", "output", "output_grad") and len({side.has("buffer") for side in sides}) > 1:
            return False
        return all(side.has(quantity) for side in sides)

    @property
    def lacking(self) -> tuple[str, ...]:
        """Quantities that cannot be compared, since a side lacks them."""
        return tuple(each for each in QUANTITIES if each not in self.own and not self.compares(each))

    def first_index(self, *, among: tuple[str, ...] = QUANTITIES) -> tuple[int, str] | None:
        """Where the first difference is: the position among the common steps, and the quantity; or None.

        Args:
            among: Quantities to look at, in the order of computation.

        Raises:
            Trouble: A trace is damaged.
        """
        anywhere = np.logical_or.reduce([self.differs_in(quantity) for quantity in among])
        if not anywhere.any():
            return None
        index = int(np.argmax(anywhere))
        # `among` is in the order of computation: the first quantity points to the cause, the others follow from it.
        return index, next(quantity for quantity in among if self.differs_in(quantity)[index])

    def first(self, *, among: tuple[str, ...] = QUANTITIES) -> Difference | None:
        """The first difference in any of the quantities, or None.

        Args:
            among: Quantities to look at, in the order of computation.

        Raises:
            Trouble: A trace is damaged.
        """
        found = self.first_index(among=among)
        return describe(self.common, *found, state=self.state, tensors=self.paired) if found else None

    @cached_property
    def paired(self) -> bool:
        """Whether the parameter tensors of both sides belong together, one by one."""
        return paired(self.baseline.record, self.candidate.record)

    def distances(self, quantity: str) -> Distances | None:
        """How far the tensors of a quantity are apart; None where that is not known.

        Args:
            quantity: One of `trace.SKETCHED_QUANTITIES`.

        Raises:
            Trouble: A trace is damaged.
        """
        if quantity not in self._distances:
            self._distances[quantity] = self._measure(quantity)
        return self._distances[quantity]

    def _measure(self, quantity: str) -> Distances | None:
        if quantity in self.own:
            return None
        same = quantity == "step_grad" and "param_grad" not in self.own
        if same and all(map(has_unchanged_gradient, self.common)):
            return self.distances("param_grad")
        return measure(self.common, quantity)

    @cached_property
    def unit(self) -> float:
        """The unit roundoff u of the coarsest dtype that the baseline's training shows."""
        return unit(self.common)

    @cached_property
    def state(self) -> StateDifferences:
        """Where the states before the steps differ, and in what."""
        return StateDifferences(self.common, generators="generators" not in self.own)


def find_differences(comparisons: Sequence[Comparison], quantities: Sequence[str] = QUANTITIES) -> None:
    """Compares pairs of traces in one pass over them, so that nothing is read for each pair anew.

    Args:
        comparisons: The pairs, of which each gets its results.
        quantities: What is compared.

    Raises:
        Trouble: A trace is damaged.
    """
    tasks = [each.task(quantities) for each in comparisons]
    for comparison, found in zip(comparisons, find_unequal(tasks), strict=True):
        for quantity, differs in found.items():
            comparison.take(quantity, differs)
