"""How far two traces differ, step by step: which quantities, and by how much. NumPy and Arrow only.

Letters: S steps that both traces have.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from parity.judge.common_steps import Both, common_steps
from parity.judge.distances import TensorDistances, measure, unit
from parity.judge.fleet import same_hardware
from parity.judge.state_differences import StateDifferences
from parity.judge.trial_trace import TrialTrace, paired, unlike_digests
from parity.judge.ulp import bits_differ, relative, ulp_distance
from parity.store.trace import NORMED_QUANTITIES, QUANTITIES, TENSOR_QUANTITIES


@dataclass(frozen=True)
class Difference:
    """The first difference of two traces.

    Attributes:
        step: Optimizer step, from 0.
        epoch: Epoch, from 0.
        batch: Batch of the epoch, from 0.
        quantity: The first quantity of the step that differs, in the order of computation.
        tensor: The first tensor of it that differs, in that order too; None for a quantity of one tensor. Of a state
            the first setting, counter or generator that differs, in words.
        baseline: The baseline's loss; for another quantity its digest (16 hexadecimal digits), or its norm where only
            the norms differ; of a setting its value.
        candidate: The same of the candidate.
        abs: |candidate - baseline|; None for digests.
        rel: abs / |baseline|; None for digests.
        ulp: Distance of two losses that are numbers, else None.
    """

    step: int
    epoch: int
    batch: int
    quantity: str
    tensor: str | None
    baseline: float | str
    candidate: float | str
    abs: float | None
    rel: float | None
    ulp: int | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two traces side by side, over the steps that both have."""

    baseline: TrialTrace
    candidate: TrialTrace
    # What each side has of its own and nobody compares: ranks have rows of their own. Quantities, or "generators".
    own: frozenset[str] = frozenset()
    # Results by quantity, so that each is compared once; a frozen instance can still fill a dict.
    _differs: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _distances: dict[str, TensorDistances | None] = field(default_factory=dict, init=False, repr=False)

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
        if quantity not in self._differs and not self.compares(quantity):
            # Nobody looked: it decides nothing, and `decide` calls no such pair identical.
            self._differs[quantity] = np.zeros(self.steps, bool)
        if quantity not in self._differs:
            # Whatever is stored counts, digest and number: identical means that all of it was compared. Digests of
            # states that are kept in different forms say nothing.
            differs = self.state.differs if quantity == "state" else self._digests_differ(quantity)
            if quantity == "loss":
                differs = differs | bits_differ(*self.both("loss"))
            # Only on equal hardware do equal tensors have equal norms: a norm is rounded as its device adds it up.
            norm = f"{quantity}_norm"
            comparable = same_hardware(self.baseline.record, self.candidate.record)
            if quantity in NORMED_QUANTITIES and comparable and not self.baseline.has_same(norm, self.candidate):
                differs = differs | bits_differ(*self.both(norm))
            self._differs[quantity] = differs
        return self._differs[quantity]

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
        return self._describe(*found) if found else None

    def _digests_differ(self, quantity: str) -> np.ndarray:
        name = f"{quantity}_digest"
        if self.baseline.has_same(name, self.candidate):
            differs = np.zeros(self.steps, bool)
        else:
            differs = np.not_equal(*self.both(name))
        # The combined digest alone would do, but a tensor that contradicts it must not be overlooked.
        return differs | self._tensors_differ(quantity).any(axis=1) if quantity in TENSOR_QUANTITIES else differs

    def _tensors_differ(self, quantity: str) -> np.ndarray:
        """Whether each parameter tensor differs; bool[S, P], or bool[S, 1] where all are equal or the names differ."""
        paired = self.paired
        if paired and self.baseline.has_same(f"{quantity}_digests", self.candidate):
            return np.zeros((self.steps, 1), bool)
        # Reading these checks their number in each row, even where the names differ.
        baseline, candidate = (side.digests(quantity) for side in self.common)
        # The tensors cannot be paired, so none of them counts as equal.
        if not paired:
            return np.ones((self.steps, 1), bool)
        differs: np.ndarray = baseline != candidate
        return differs

    @cached_property
    def paired(self) -> bool:
        """Whether the parameter tensors of both sides belong together, one by one."""
        return paired(self.baseline.record, self.candidate.record)

    def distances(self, quantity: str) -> TensorDistances | None:
        """How far the tensors of a quantity are apart; None where that is not known.

        Args:
            quantity: One of `trace.SKETCHED_QUANTITIES`.

        Raises:
            Trouble: A trace is damaged.
        """
        if quantity not in self._distances:
            self._distances[quantity] = None if quantity in self.own else measure(self.common, quantity)
        return self._distances[quantity]

    @cached_property
    def unit(self) -> float:
        """The unit roundoff u of the coarsest dtype that the baseline's training shows."""
        return unit(self.common)

    @cached_property
    def state(self) -> StateDifferences:
        """Where the states before the steps differ, and in what."""
        return StateDifferences(self.common, generators="generators" not in self.own)

    def _describe(self, step: int, quantity: str) -> Difference:
        number, epoch, batch = (int(self.both(name)[0][step]) for name in ("step", "epoch", "batch"))
        numbers = self._numbers(step, quantity)
        if numbers is None:
            # A digest says that bits differ, not how far.
            tensor, left, right = self._first_tensor(step, quantity)
            return Difference(number, epoch, batch, quantity, tensor, left, right, abs=None, rel=None, ulp=None)
        baseline, candidate = numbers
        absolute = abs(candidate - baseline)
        rel = float(relative(np.array([absolute]), np.array([baseline]))[0])
        ulp = int(self.loss_ulp[step]) if quantity == "loss" and self.loss_ulp[step] >= 0 else None
        return Difference(number, epoch, batch, quantity, None, baseline, candidate, abs=absolute, rel=rel, ulp=ulp)

    def _numbers(self, step: int, quantity: str) -> tuple[float, float] | None:
        """The losses where they differ, the norms where nothing else does; None where digests show the difference."""
        if quantity == "loss":
            sides = self.both("loss")
        elif quantity in NORMED_QUANTITIES and not self._digests_differ(quantity)[step]:
            sides = self.both(f"{quantity}_norm")
        else:
            return None
        # Arrays of one element, since bits are compared in the memory of arrays.
        baseline, candidate = (side[step : step + 1] for side in sides)
        return (float(baseline[0]), float(candidate[0])) if bits_differ(baseline, candidate)[0] else None

    def _first_tensor(self, step: int, quantity: str) -> tuple[str | None, str, str]:
        """Name and digests of the first tensor that differs, in the order of computation; the name may be None."""
        if quantity == "state" and (shown := self.state.first_at(step)):
            return shown.of_what, shown.baseline, shown.candidate
        digests = [side[step] for side in self.both(f"{quantity}_digest")]
        names = self.baseline.record.param_names
        tensor = None
        if quantity in TENSOR_QUANTITIES and self.paired:
            found = np.flatnonzero(self._tensors_differ(quantity)[step])
            if found.size:
                # Stored in the model's order, computed in the reverse one by the backward pass.
                index = int(found[-1] if quantity == "param_grad" else found[0])
                tensor = names[index]
                # The digests of this tensor instead of those of all tensors together.
                digests = [side.digests(quantity)[step, index] for side in self.common]
        return tensor, f"{int(digests[0]):016x}", f"{int(digests[1]):016x}"
