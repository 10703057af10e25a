"""Jumps: steps at which two traces that have parted by rounding are suddenly further apart than rounding grows.

Letters: S steps that both traces have; T tensors of a quantity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from parity.ground.percent import percent
from parity.judge.accumulation import explain_batches
from parity.judge.differences import Comparison
from parity.judge.growth import Growth
from parity.judge.parting import is_idle
from parity.judge.state_settings import StateDifference
from parity.judge.window import STAYS

# In the order in which a step computes them; a jump of a later one may be the consequence of an earlier one.
_LOOKED_AT = ("output", "output_grad", "target_grad", "param_grad", "step_grad", "update", "buffer")


@dataclass(frozen=True)
class Jump:
    """A step whose distance the growth of rounding does not explain.

    Attributes:
        index: Position among the common steps.
        quantity: What jumps; "state" where a difference of the states explains it, "param" where the first common step
            starts from parameters that are apart.
        tensor: The tensor, or None where all of them together jump.
        distance: The relative distance at that step.
        before: The largest distance of the steps before.
        certain: Whether nothing but a fault explains it.
        of_length: Whether `distance` and `before` are of the lengths, | ||b|| - ||a|| |.
        named: What differs in the states at that step.
        because: What the batches of the step have to do with it, in words, or None.
        parting: Whether it is at the step at which they part, of which an earlier quantity differs by rounding.
        furthest: The tensor that is furthest, where the distance of all of them together jumps.
        by_updates: Whether the updates of the step show that the states differ, and not copies of the optimizers.
    """

    index: int
    quantity: str
    tensor: str | None
    distance: float
    before: float
    certain: bool
    of_length: bool = False
    named: tuple[StateDifference, ...] = ()
    because: str | None = None
    parting: bool = False
    furthest: str | None = None
    by_updates: bool = False

    def explain(self) -> str:
        """What was found, in words."""
        if self.named:
            return "the states from which the step is taken differ: " + "; ".join(each.explain() for each in self.named)
        if self.quantity == "param":
            return (
                f"the parameters from which both continue are {percent(self.distance)} apart (most in {self.tensor}), "
                "and no earlier step shows whether rounding or a fault drove them apart"
            )
        if self.quantity == "input":
            return "the inputs or targets differ from here on, and what is computed from them jumps apart"
        if self.quantity == "state":
            how = "what their first step adds" if self.by_updates else "given the same gradients, what they add"
            return (
                f"the states of the optimizers differ (momentum, averages of gradients): {how} "
                f"is {percent(self.distance)} apart (most in {self.tensor}), though parameters, outputs and "
                f"gradients are no more than {percent(self.before)} apart"
            )
        what = f"{self.quantity} {self.tensor}" if self.tensor else self.quantity
        what += f" (most in {self.furthest})" if self.furthest else ""
        reason = f"{self.because}; " if self.because else ""
        if self.parting:
            return (
                f"{reason}{what} is {percent(self.distance)} away from the baseline's in the step in which the two "
                "diverge, and nothing that was computed before it in that step explains this"
            )
        if self.of_length:
            return reason + (
                f"the length of {what} suddenly differs by {percent(self.distance)}, after {percent(self.before)} at "
                "most in the steps before: rounding changes directions, not lengths"
            )
        return reason + (
            f"{what} is suddenly {percent(self.distance)} away from the baseline's, after {percent(self.before)} at "
            "most in the steps before: rounding does not grow so fast"
        )


def find_jump(comparison: Comparison, *, after: int, parted: str) -> Jump | None:
    """The first jump, or None.

    Args:
        comparison: The two traces.
        after: Position of the step at which they part.
        parted: The quantity that parts there, which is judged by itself.

    Raises:
        Trouble: A trace is damaged.
    """
    first = [jump for quantity in _LOOKED_AT if (jump := _first(comparison, quantity, after, parted))]
    # Of equal steps the first quantity: min() keeps the first of equals.
    jump = _with_batches(comparison, min(first, key=lambda jump: jump.index, default=None))
    for index in _beginnings(comparison, upto=jump.index if jump else comparison.steps - 1):
        if found := _with_state(comparison, jump, index):
            return found
    inputs = np.flatnonzero(comparison.differs_in("input"))
    if jump and inputs.size and int(inputs[0]) <= jump.index <= int(inputs[0]) + STAYS:
        return replace(jump, index=int(inputs[0]), quantity="input", tensor=None, certain=True)
    return jump


def _with_state(comparison: Comparison, jump: Jump | None, index: int) -> Jump | None:
    """The differences of the states by name at a step, with the jump that they explain; None if they explain none."""
    named = tuple(each for each in comparison.state.at(index) if not is_idle(comparison, each))
    if not named:
        return None
    # From the first step on, one loop may compute by hand what the other one has as a setting. Later, a difference is a
    # change on one side. The number of parameters that have a state is not: an optimizer makes a state with the first
    # gradient, even with one of zeros, and a model may have in one parameter what another one has in three.
    certain = bool(comparison.first_step + index) and not all(each.counts_states for each in named)
    # A setting explains a jump that follows it within a few steps: a decay takes some to show. One that passes, as a
    # kink of the model would, makes the change on one side no less certain.
    if jump and jump.index <= index + STAYS:
        return replace(jump, index=index, quantity="state", tensor=None, named=named, certain=jump.certain or certain)
    if jump and not certain:
        return None
    return Jump(index, "state", None, np.nan, np.nan, certain, named=named)


def _beginnings(comparison: Comparison, *, upto: int) -> Iterator[int]:
    """Yields the steps, up to one of them, at which more of the states differs by name than in the step before."""
    before: set[str] = set()
    for index in np.flatnonzero(comparison.state.named[: upto + 1]):
        now = {each.of_what for each in comparison.state.at(int(index))}
        if not now <= before:
            yield int(index)
        before = now


def _with_batches(comparison: Comparison, jump: Jump | None) -> Jump | None:
    """The same with a loss scale that begins to differ there, or with what its batches have to do with it."""
    if jump is None:
        return None
    if comparison.state.begins[jump.index]:
        return replace(jump, quantity="state", tensor=None, certain=True, named=comparison.state.scale_at(jump.index))
    because = explain_batches(comparison, jump.index, jump.quantity)
    return replace(jump, because=because, certain=True) if because else jump


def _first(comparison: Comparison, quantity: str, after: int, parted: str) -> Jump | None:
    """The first jump of a quantity."""
    found = Growth(comparison, quantity, parted_at=after, parted=parted).first()
    if found is None:
        return None
    return Jump(
        found.index,
        quantity,
        _tensor(comparison, quantity, found.tensor),
        found.value,
        found.before,
        certain=found.certain,
        of_length=found.of == "length",
        parting=found.index == after,
        furthest=_tensor(comparison, quantity, found.furthest),
    )


def _tensor(comparison: Comparison, quantity: str, tensor: int | None) -> str | None:
    record = comparison.baseline.record
    if tensor is None or quantity in ("output", "output_grad", "target_grad"):
        return None
    names = (record.buffer_names or []) if quantity == "buffer" else record.param_names
    return names[tensor] if tensor < len(names) else None
