"""Jumps: steps at which two traces that have parted by rounding are suddenly further apart than rounding grows.

Letters: S steps that both traces have; T tensors of a quantity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from parity.judge.accumulation import explain_batches
from parity.judge.differences import Comparison
from parity.judge.distances import TensorDistances
from parity.judge.state_settings import StateDifference
from parity.plan import lines
from parity.store.trace import QUANTITIES

# In the order in which a step computes them; a jump of a later one may be the consequence of an earlier one.
_LOOKED_AT = ("output", "output_grad", "target_grad", "param_grad", "step_grad", "update", "buffer")
_GRADIENTS = ("output_grad", "target_grad", "param_grad")
# A jump that stays for so many steps is a fault; one that passes may be a kink of the model that one side met.
_STAYS = 3


@dataclass(frozen=True)
class Jump:
    """A step whose distance the growth of rounding does not explain.

    Attributes:
        index: Position among the common steps.
        quantity: What jumps; "state" where a difference of the states explains it.
        tensor: The tensor, or None where all of them together jump.
        distance: The relative distance at that step.
        before: The largest distance of the steps before.
        certain: Whether nothing but a fault explains it.
        named: What differs in the states at that step.
        because: What the batches of the step have to do with it, in words, or None.
        parting: Whether it is at the step at which they part, of which an earlier quantity differs by rounding.
    """

    index: int
    quantity: str
    tensor: str | None
    distance: float
    before: float
    certain: bool
    named: tuple[StateDifference, ...] = ()
    because: str | None = None
    parting: bool = False

    def explain(self) -> str:
        """What was found, in words."""
        if self.named:
            return "the states from which the step is taken differ: " + "; ".join(each.explain() for each in self.named)
        if self.quantity == "input":
            return "the inputs or targets differ from here on, and what is computed from them jumps apart"
        what = f"{self.quantity} {self.tensor}" if self.tensor else self.quantity
        reason = f"{self.because}; " if self.because else ""
        if self.parting:
            return (
                f"{reason}{what} is {self.distance:.2g} (relative) from the baseline's in the step in which they part, "
                "and nothing that is computed before it explains that"
            )
        return reason + (
            f"{what} is suddenly {self.distance:.2g} (relative) from the baseline's, after {self.before:.2g} at most "
            "in the steps before: rounding does not grow so fast"
        )


def least_jump(quantity: str, unit: float) -> float:
    """The least relative distance of a quantity that can be a jump.

    Args:
        quantity: One of `trace.SKETCHED_QUANTITIES`.
        unit: The unit roundoff u.
    """
    line = lines.JUMP_GRADIENT if quantity == "param_grad" else lines.JUMP_FLOOR
    return max(line.value, lines.FAR_NARROW.value * unit)


def least_jumps(comparison: Comparison, quantity: str) -> np.ndarray:
    """The least relative distance that can be a jump at each step; float64[S].

    Args:
        comparison: The two traces.
        quantity: One of `trace.SKETCHED_QUANTITIES`.

    Raises:
        Trouble: A trace is damaged.
    """
    floor = np.full(comparison.steps, least_jump(quantity, comparison.unit))
    if quantity != "update":
        return floor
    quiet = np.minimum(floor, max(lines.JUMP_UPDATE.value, 64 * comparison.unit))
    return np.where(_quiet(comparison), quiet, floor)


def judged_distances(comparison: Comparison, quantity: str) -> TensorDistances | None:
    """The distances in which a jump is looked for; None where they are not known.

    Args:
        comparison: The two traces.
        quantity: One of `trace.SKETCHED_QUANTITIES`.

    Raises:
        Trouble: A trace is damaged.
    """
    distances = comparison.distances(quantity)
    if distances is None or quantity != "update":
        return distances
    return _without_noise(distances, comparison.distances("step_grad"))


def find_jump(comparison: Comparison, *, after: int, parted: str) -> Jump | None:
    """The first jump, or None.

    Args:
        comparison: The two traces.
        after: Position of the step at which they part.
        parted: The quantity that parts there, which is judged by itself.

    Raises:
        Trouble: A trace is damaged.
    """
    found = [jump for quantity in _LOOKED_AT if (jump := _first(comparison, quantity, after, parted))]
    # Of equal steps the first quantity: min() keeps the first of equals.
    jump = _with_batches(comparison, min(found, key=lambda jump: jump.index, default=None))
    named = np.flatnonzero(comparison.state.named)
    if named.size and (jump is None or int(named[0]) <= jump.index):
        return _with_state(comparison, jump, int(named[0]))
    inputs = np.flatnonzero(comparison.differs_in("input"))
    if jump and inputs.size and int(inputs[0]) <= jump.index <= int(inputs[0]) + _STAYS:
        return replace(jump, index=int(inputs[0]), quantity="input", tensor=None, certain=True)
    return jump


def _with_state(comparison: Comparison, jump: Jump | None, index: int) -> Jump:
    """A difference of the states by name, with the jump that it explains, if there is one."""
    named = tuple(comparison.state.at(index))
    # A setting explains a jump that follows it within a few steps: a decay takes some to show.
    if jump and jump.index <= index + _STAYS:
        return replace(jump, index=index, quantity="state", tensor=None, named=named)
    # From the first step on, one loop may compute by hand what the other one has as a setting. Later, a difference is a
    # change on one side.
    return Jump(index, "state", None, np.nan, np.nan, bool(comparison.first_step + index), named)


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
    distances = judged_distances(comparison, quantity)
    if distances is None:
        return None
    floor = least_jumps(comparison, quantity)
    explained = _explained(comparison, quantity)
    # In the step in which they part, gradients after what has parted by rounding must not be far apart either. The
    # update may, up to a point: an optimizer that divides by the gradient's size turns the sign of an element that is
    # nearly zero.
    begin = after if quantity in _GRADIENTS and QUANTITIES.index(parted) < QUANTITIES.index(quantity) else after + 1
    found = []
    # All tensors together first: of jumps at one step min() keeps the first.
    for values, named in ((distances.whole[:, None], False), (distances.beside_whole, True)):
        before = np.minimum(_largest_before(values), 1e100)
        least = np.maximum(floor, explained)[:, None]
        limit = np.maximum(least, lines.JUMP.value * before)
        jumps = values > limit
        if quantity == "update":
            # Adam makes a step of an element whose gradient is nearly zero; it is over with the next one.
            jumps &= (values > lines.JUMP_FLOOR.value) | _stay(values, limit)
        # A kink of the model may move the gradient for a step or two, and nothing else.
        certain = np.ones_like(jumps)
        if quantity == "param_grad":
            certain = _stay(values, np.maximum(least, lines.JUMP_STAYS.value * before))
            jumps |= certain
        jumps[:begin] = False
        if quantity == "update" and not named:
            jumps[after] = values[after] > lines.PARTING_UPDATE.value
        rows = np.flatnonzero(jumps.any(axis=1))
        if rows.size:
            index = int(rows[0])
            tensor = int(np.argmax(np.where(jumps[index], values[index], -1)))
            found.append(
                Jump(
                    index,
                    quantity,
                    _tensor(comparison, quantity, tensor) if named else None,
                    float(values[index, tensor]),
                    float(before[index, tensor]),
                    certain=bool(certain[index, tensor]),
                    parting=index == after,
                )
            )
    return min(found, key=lambda jump: jump.index, default=None)


def _stay(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Whether the values of so many steps from each step on are beyond the limit of that step; bool[S, T]."""
    stay = values > limits
    for shift in range(1, _STAYS):
        stay[:-shift] &= values[shift:] > limits[:-shift]
        stay[-shift:] = False
    return stay


def _explained(comparison: Comparison, quantity: str) -> np.ndarray:
    """The distance that follows from that of the quantity before it, in the same step; float64[S]."""
    source = {"step_grad": "param_grad", "update": "step_grad"}.get(quantity)
    distances = comparison.distances(source) if source else None
    if distances is None:
        return np.zeros(comparison.steps)
    follows: np.ndarray = lines.JUMP_FOLLOWS.value * np.minimum(np.nan_to_num(distances.whole, nan=np.inf), 1e100)
    return follows


def _quiet(comparison: Comparison) -> np.ndarray:
    """Whether the gradients have been near each other for some steps, so that their updates must be, too; bool[S]."""
    gradients = comparison.distances("step_grad")
    if gradients is None:
        return np.zeros(comparison.steps, bool)
    whole = np.nan_to_num(gradients.whole, nan=np.inf)
    largest = np.maximum(whole, _largest_before(np.minimum(whole, 1e100)[:, None])[:, 0])
    quiet: np.ndarray = largest < lines.QUIET.value
    return quiet


def _without_noise(updates: TensorDistances, gradients: TensorDistances | None) -> TensorDistances:
    """The distances of the updates, 0 where the gradient is zero but for rounding.

    An optimizer that divides a gradient by its size, as Adam does, makes whole steps of the noise of such a gradient.
    """
    if gradients is None:
        return updates
    distances = np.nan_to_num(gradients.each, nan=np.inf)
    noise = distances > lines.NOISE.value
    # As the steps before have shown, since a fault moves the gradient of its own step as well. Where all of them were
    # equal to the bit they have shown nothing.
    recent = np.where(
        _largest_before(np.minimum(distances, 1e100)) > 0, _largest_before(noise.astype(float)) > 0, noise
    )
    return TensorDistances(np.where(recent & np.isfinite(updates.absolute), 0.0, updates.absolute), updates.norms)


def _largest_before(values: np.ndarray) -> np.ndarray:
    """The largest value in the window before each step; 0 before the first. float64[S, T]."""
    window = int(lines.JUMP_WINDOW.value)
    before = np.zeros_like(values)
    finite = np.nan_to_num(values, nan=0.0)
    for shift in range(1, window + 1):
        before[shift:] = np.maximum(before[shift:], finite[:-shift])
    return before


def _tensor(comparison: Comparison, quantity: str, tensor: int) -> str | None:
    record = comparison.baseline.record
    if quantity in ("output", "output_grad", "target_grad"):
        return None
    names = (record.buffer_names or []) if quantity == "buffer" else record.param_names
    return names[tensor] if tensor < len(names) else None
