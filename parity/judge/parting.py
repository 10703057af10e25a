"""Where two traces part from equal bits: how far, and whether rounding can explain it there.

In a step the first quantity that differs names the cause: everything before it is equal to the bit, so its distance is
that of one operation, and can be held against a line.

Letters: S steps that both traces have; T tensors of a quantity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from parity.ground.percent import percent, percent_at_most
from parity.judge.accumulation import explain_batches
from parity.judge.differences import Comparison
from parity.judge.distances import Distances, unit_after_equal_bits
from parity.judge.drifted_starts import find_drifted_start
from parity.judge.growth import reached
from parity.judge.starts import differences_of_starts, start_apart
from parity.judge.state_settings import StateDifference
from parity.judge.unmoved import unmoved
from parity.plan import lines
from parity.plan.lines import Line
from parity.store.trace import QUANTITIES

# What is computed in a step, in this order; the number of the loss is only reported.
COMPUTED = tuple(quantity for quantity in QUANTITIES if quantity not in ("state", "loss"))
# The line of each quantity whose distance is known.
_LINES: dict[str, Line] = {
    "output": lines.PARTING_OUTPUT,
    "output_grad": lines.PARTING_OUTPUT_GRAD,
    "target_grad": lines.PARTING_OUTPUT_GRAD,
    "param_grad": lines.PARTING_PARAM_GRAD,
    "step_grad": lines.PARTING_OUTPUT_GRAD,
    "param": lines.PARTING_UPDATE,
    "buffer": lines.PARTING_BUFFER,
}
# Position of a step and a quantity: the largest relative distance of its tensors in float64, 0 where it is not known.
InFloat64 = Callable[[int, str], float]
# Quantities that a few operations for each element compute: a distance beyond their line needs no float64 step.
_DIRECT = ("input", "step_grad", "param", "buffer")


@dataclass(frozen=True)
class Parting:
    """Where two traces part, and what that says.

    Attributes:
        index: Position among the common steps.
        quantity: The first quantity that differs; "state" where a difference of the states before it is the cause.
        tensor: The tensor that is furthest, or None.
        distance: Its relative distance, of a parameter that of the update; None where it is not known.
        line: The largest distance that rounding can explain, or None.
        finding: "beyond" rounding, "within" it, or "unknown".
        named: What differs in the states, where that is the cause.
        because: What the batches of the step have to do with it, in words, or None.
        own: Whether something before it is each side's own, and not compared.
        unreached: Whether it reaches neither the loss nor the gradient of the parameters, however large it is.
        exact: The distance of the same quantity in float64, relative, where that shows that it is beyond rounding.
    """

    index: int
    quantity: str
    tensor: str | None
    distance: float | None
    line: float | None
    finding: Literal["beyond", "within", "unknown"]
    named: tuple[StateDifference, ...] = ()
    because: str | None = None
    own: bool = False
    unreached: bool = False
    exact: float | None = None

    def explain(self) -> str:
        """What was found, in words."""
        if self.named:
            return "the states from which the step is taken differ: " + "; ".join(each.explain() for each in self.named)
        if self.quantity == "state":
            return (
                "the tensors of the optimizer's state (momentum, averages of gradients) differ before the step, "
                "and with them what follows"
            )
        if self.unreached:
            far = f" by {percent(self.distance)}" if self.distance is not None else ""
            return (
                f"{self._what} differs{far}, and the loss and the gradient of the parameters by no more than rounding"
            )
        if self.quantity == "input":
            if self.finding == "within":
                return "the inputs or targets differ, and what is computed from them by no more than rounding"
            return "the inputs or targets differ, and what is computed from them is too far apart for rounding"
        if self.distance is None or self.line is None:
            return self.explain_distance()
        after = "" if self.own else f" after {_BEFORE[self.quantity]} equal to the bit"
        # Nobody looks at the parameters between a step and the next forward pass.
        after += " and a step that left equal parameters" if after and self.quantity == "output" and self.index else ""
        reason = f"{self.because}; " if self.because else ""
        in_float64 = f"; taken in float64, the two steps are {percent(self.exact)} apart" if self.exact else ""
        return reason + self.explain_distance(after) + in_float64

    def explain_distance(self, after: str = "") -> str:
        """How far the two are apart, and how far rounding explains, in words.

        Args:
            after: What is equal before that, in words, to be put behind the distance.
        """
        if self.distance is None or self.line is None:
            return f"{self._what} differs, and how far is not known"
        away = f"{self._what} is {percent(self.distance)} away from the baseline's{after}"
        return f"{away}; rounding explains {percent_at_most(self.line)}"

    @property
    def _what(self) -> str:
        return _WORDS[self.quantity] + (f" of {self.tensor}" if self.tensor else "")


_WORDS = {
    "input": "the input",
    "output": "the output",
    "output_grad": "the output gradient",
    "target_grad": "the target's gradient",
    "param_grad": "the gradient",
    "step_grad": "the gradient that the optimizer received",
    "update": "the update",
    "param": "the parameter",
    "buffer": "the buffer",
}
_BEFORE = {
    "input": "states that are",
    "output": "inputs that are",
    "output_grad": "outputs and targets that are",
    "target_grad": "outputs and targets that are",
    "param_grad": "output gradients that are",
    "step_grad": "gradients from backward that are",
    "update": "gradients and an optimizer's state that are",
    "param": "gradients and an optimizer's state that are",
    "buffer": "parameters that are",
}


def parting_line(quantity: str, unit: float) -> float:
    """The largest relative distance that rounding can explain where two traces part in a quantity.

    Args:
        quantity: One of `trace.SKETCHED_QUANTITIES`; "update" without the rounding of the parameters, which depends on
            the step.
        unit: The unit roundoff u.
    """
    # In narrow dtypes 256 u would be all of a tensor.
    return min(_LINES["param" if quantity == "update" else quantity].value * unit, _far(unit))


def _far(unit: float) -> float:
    """The distance of a parting quantity from which on no rounding explains it."""
    return max(lines.FAR.value, lines.FAR_NARROW.value * unit)


def find_parting(comparison: Comparison, in_float64: InFloat64 | None = None) -> Parting | None:
    """The first difference in what is computed, with what is known about it; None where there is none.

    Args:
        comparison: The two traces.
        in_float64: How far the two are apart where both have taken the step in float64; None for trials of one run.

    Raises:
        Trouble: A trace is damaged.
    """
    found = comparison.first_index(among=COMPUTED)
    if found is None:
        return None
    parting = _part(comparison, *found)
    known = parting.quantity in ("input", "output") and comparison.distances("output") is not None
    if parting.finding != "within" and known and not reached(comparison)[parting.index]:
        parting = replace(parting, finding="within", unreached=True)
    if in_float64 and parting.index and parting.finding == "unknown" and parting.line is not None:
        # What both start from is equal to the bit, so rounding has no part in how far they are apart there. The first
        # steps are held against each other more closely, see `same_function`.
        exact = in_float64(parting.index, parting.quantity)
        parting = replace(parting, finding="beyond", exact=exact) if exact > parting.line else parting
    line, zero = (parting_line(quantity, comparison.unit) for quantity in ("output", "param_grad"))
    if not parting.index and find_drifted_start(comparison, line=line, zero=zero):
        # What follows from it is as far apart as it may be.
        return replace(parting, finding="unknown", unreached=False)
    if parting.finding != "beyond" and start_apart(comparison.common, line, zero=zero):
        # Another training, though its losses may be the same: an offset of all logits, say, reaches none.
        parting = replace(parting, finding="beyond", unreached=False)
    return replace(_with_batches(comparison, _with_state(comparison, parting)), own=bool(comparison.own))


def find_unequal_gradient(comparison: Comparison, *, audited: np.ndarray) -> Parting | None:
    """The first step whose outputs are equal to the bit and whose output gradients rounding cannot explain.

    Outputs and targets that are equal are a free audit: the two losses were given the same.

    Args:
        comparison: The two traces.
        audited: Whether the audit has decided about the step; bool[S].

    Raises:
        Trouble: A trace is damaged.
    """
    distances = comparison.distances("output_grad")
    if distances is None or not all(map(comparison.compares, ("input", "output"))):
        return None
    equal = ~(comparison.differs_in("input") | comparison.differs_in("output")) & ~audited
    line = parting_line("output_grad", comparison.unit)
    for begin, part in distances.each_part():
        suspicious = equal[begin : begin + part.steps] & (np.nan_to_num(part.each, posinf=np.inf).max(axis=1) > line)
        if suspicious.any():
            return _part(comparison, begin + int(np.argmax(suspicious)), "output_grad")
    return None


def _part(comparison: Comparison, index: int, quantity: str) -> Parting:
    """Measures a difference that follows equal bits."""
    if quantity == "input":
        return _part_at_input(comparison, index)
    distances = comparison.distances("update" if quantity == "param" else quantity)
    if distances is None:
        return _part_by_norms(comparison, index, quantity)
    line, here = _line(comparison, quantity, index, distances), distances.at(index)
    # A tensor whose gradient is zero but for rounding is judged beside the whole.
    measured = (here.beside_whole if quantity in ("param_grad", "step_grad") else here.each)[0]
    # A tensor of zeros in the baseline has no size of its own.
    measured = np.where(np.isinf(measured), here.beside_whole[0], measured)
    excess = np.where(np.isnan(measured), np.inf, measured / line)
    worst = _first_beyond(excess, backwards=quantity == "param_grad")
    far = _far(unit_after_equal_bits(comparison.common, quantity))
    beyond = excess[worst] > 1 and (quantity in _DIRECT or measured[worst] > far or np.isnan(measured[worst]))
    return Parting(
        index,
        "update" if quantity == "param" else quantity,
        _name(comparison, quantity, worst),
        float(measured[worst]),
        float(line[worst]),
        "beyond" if beyond else "unknown" if excess[worst] > 1 else "within",
    )


def _part_by_norms(comparison: Comparison, index: int, quantity: str) -> Parting:
    """Compares the norms of tensors that cannot be paired, or that have no sketches."""
    if quantity == "param_grad" and comparison.compares("param_grad"):
        baseline, candidate = (float(side[index]) for side in comparison.both("param_grad_norm"))
        line = max(lines.CHANGED_NORM.value, lines.FAR_NARROW.value * comparison.unit)
        if abs(candidate - baseline) > line * baseline:
            distance = abs(candidate - baseline) / baseline if baseline else np.inf
            return Parting(index, quantity, None, distance, line, "beyond")
    # Equal norms say nothing: other tensors may have them.
    return Parting(index, quantity, None, None, None, "unknown")


def _part_at_input(comparison: Comparison, index: int) -> Parting:
    """Inputs have no sketches: those that differ by rounding only give outputs and gradients that do."""
    sides = (("output", parting_line("output", comparison.unit)), ("output_grad", _far(comparison.unit)))
    for quantity, line in sides:
        distances = comparison.distances(quantity)
        if distances is None and quantity == "output":
            # A run of an earlier version: how far is not known, and decides nothing.
            return Parting(index, "input", None, None, None, "unknown")
        if distances is None or float(np.nan_to_num(distances.at(index).each, nan=np.inf).max()) > line:
            return Parting(index, "input", None, None, None, "beyond")
    return Parting(index, "input", None, None, None, "within")


def _line(comparison: Comparison, quantity: str, index: int, distances: Distances) -> np.ndarray:
    """The largest relative distance of each tensor that rounding can explain; float64[T]."""
    unit = unit_after_equal_bits(comparison.common, quantity)
    line = np.full(distances.tensors, parting_line(quantity, unit))
    if quantity == "param":
        # The update is the difference of two parameters, each of which is rounded.
        size = np.array(comparison.baseline.record.initial_norms or [np.inf] * len(line))
        size = size + _moved_upto(distances, index + 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            line = line + np.nan_to_num(lines.PARTING_SUM.value * unit * size / distances.at(index).norms[0])
    return line


def _moved_upto(updates: Distances, end: int) -> np.ndarray:
    """The sum of the norms of the baseline's updates before a position; float64[T]."""
    moved = np.empty((0, updates.tensors))
    for _, part in updates.each_part(end=end):
        # One after the other, so that it is the same however the steps are parted: `sum` may add them in pairs.
        moved = np.concatenate([moved, part.norms]).cumsum(axis=0)[-1:]
    return np.asarray(moved[0])


def _first_beyond(excess: np.ndarray, *, backwards: bool) -> int:
    """The first tensor beyond its line in the order of computation; where none is, the furthest."""
    beyond = np.flatnonzero(excess > 1)
    if not beyond.size:
        return int(np.argmax(excess))
    return int(beyond[-1] if backwards else beyond[0])


def _name(comparison: Comparison, quantity: str, tensor: int) -> str | None:
    record = comparison.baseline.record
    if quantity == "buffer":
        names = record.buffer_names or []
    elif quantity in ("param_grad", "step_grad", "param"):
        names = record.param_names
    else:
        return (record.output_names or [None])[tensor] if quantity in ("output", "output_grad") else None
    return names[tensor] if tensor < len(names) else None


def _with_state(comparison: Comparison, parting: Parting) -> Parting:
    """The same with a difference of the states as its cause, if there is one and its consequence is beyond rounding."""
    if parting.finding != "beyond":
        return parting
    # What the first common step starts from comes before everything that is computed in it.
    if not parting.index and (starts := differences_of_starts(comparison.common)):
        named = (*starts, *comparison.state.at(0))
        return Parting(0, "state", None, parting.distance, parting.line, "beyond", named)
    if not comparison.state.known:
        return parting
    if parting.quantity == "step_grad" and comparison.state.named[parting.index]:
        # One loop may add to the gradient by hand what a setting of the other one's optimizer adds.
        update = _part(comparison, parting.index, "param")
        if update.finding == "within":
            return update
    if comparison.state.begins[parting.index]:
        named = comparison.state.scale_at(parting.index)
        return Parting(parting.index, "state", None, parting.distance, parting.line, "beyond", named)
    # Every step before was equal to the bit, so that a setting that differed then alone had no effect.
    index, updates = parting.index, parting.quantity in ("update", "param")
    named = tuple(
        each
        for each in comparison.state.at(index)
        if (updates or not each.of_optimizer) and not is_idle(comparison, each)
    )
    if named:
        index = _since(comparison.state.named, index)
    elif named := _generators(comparison, index):
        # Nobody had drawn from it since it began to differ.
        index = _since(comparison.state.generators[named[0].of], index)
    if named or (updates and comparison.state.tensors[index]):
        return Parting(index, "state", None, parting.distance, parting.line, "beyond", named)
    return parting


def is_idle(comparison: Comparison, difference: StateDifference) -> bool:
    """Whether a setting belongs to parameters alone that neither side moves, as frozen ones are."""
    if not difference.parameters:
        return False
    # By number, as settings of an optimizer name them, and by name, as frozen ones are named.
    still: dict[int | str, bool] = {number: bool(each) for number, each in enumerate(unmoved(comparison.common))}
    still |= {name: still.get(number, False) for number, name in enumerate(comparison.baseline.record.param_names)}
    return all(still.get(each, False) for each in difference.parameters)


def _since(differs: np.ndarray, index: int) -> int:
    """The first of the steps up to this one at all of which something differs, bool[S]."""
    equal = np.flatnonzero(~differs[: index + 1])
    return int(equal[-1]) + 1 if equal.size else 0


def _with_batches(comparison: Comparison, parting: Parting) -> Parting:
    """The same with what the batches of the step have to do with it."""
    if parting.finding != "beyond" or parting.quantity == "state":
        return parting
    return replace(parting, because=explain_batches(comparison, parting.index, parting.quantity))


def _generators(comparison: Comparison, index: int) -> tuple[StateDifference, ...]:
    """The generators whose states differ, and from which the baseline draws in the step."""
    return tuple(
        StateDifference("random generator", "in one state", "in another", name)
        for name, differs in comparison.state.generators.items()
        if differs[index] and comparison.state.draws(name, index)
    )
