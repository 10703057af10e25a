"""The first difference of two traces, described: where it is, the values of both sides, and how far they are apart."""

from dataclasses import dataclass

import numpy as np

from parity.judge.common_steps import Both
from parity.judge.state_differences import StateDifferences
from parity.judge.ulp import bits_differ, relative, ulp_distance
from parity.store.trace import NORMED_QUANTITIES, TENSOR_QUANTITIES


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


def describe(both: Both, index: int, quantity: str, *, state: StateDifferences, tensors: bool) -> Difference:
    """What is stored of a quantity that differs.

    Args:
        both: The common steps of the two traces.
        index: Position among them.
        quantity: One of `trace.QUANTITIES`.
        state: Where the states differ.
        tensors: Whether the parameter tensors of both sides belong together, one by one.

    Raises:
        Trouble: A trace is damaged.
    """
    number, epoch, batch = (int(both[0].at(name, index)) for name in ("step", "epoch", "batch"))
    numbers = _numbers(both, index, quantity, tensors=tensors)
    if numbers is None:
        # A digest says that bits differ, not how far.
        tensor, left, right = _first_tensor(both, index, quantity, state=state, tensors=tensors)
        return Difference(number, epoch, batch, quantity, tensor, left, right, abs=None, rel=None, ulp=None)
    # Arrays of one element, which the distances of whole columns are made for.
    baseline, candidate = (np.array([side]) for side in numbers)
    absolute = abs(numbers[1] - numbers[0])
    rel = float(relative(np.array([absolute]), baseline)[0])
    ulp = None
    if quantity == "loss":
        distance = int(ulp_distance(baseline, candidate, dtype=both[0].trace.record.loss_dtype or "float32")[0])
        ulp = distance if distance >= 0 else None
    return Difference(number, epoch, batch, quantity, None, *numbers, abs=absolute, rel=rel, ulp=ulp)


def _numbers(both: Both, index: int, quantity: str, *, tensors: bool) -> tuple[float, float] | None:
    """The losses where they differ, the norms where nothing else does; None where digests show the difference."""
    if quantity == "loss":
        name = "loss"
    elif quantity in NORMED_QUANTITIES and not _digests_differ(both, index, quantity, tensors=tensors):
        name = f"{quantity}_norm"
    else:
        return None
    # Arrays of one element, since bits are compared in the memory of arrays.
    baseline, candidate = (np.array([side.at(name, index)], np.float64) for side in both)
    return (float(baseline[0]), float(candidate[0])) if bits_differ(baseline, candidate)[0] else None


def _digests_differ(both: Both, index: int, quantity: str, *, tensors: bool) -> bool:
    left, right = (side.at(f"{quantity}_digest", index) for side in both)
    return bool(
        left != right or (quantity in TENSOR_QUANTITIES and _tensors_differ(both, index, quantity, tensors).any())
    )


def _tensors_differ(both: Both, index: int, quantity: str, tensors: bool) -> np.ndarray:
    """Whether each parameter tensor differs; bool[P], or bool[1] where they do not belong together."""
    if not tensors:
        # None of them counts as equal.
        return np.ones(1, bool)
    left, right = (side.tensors_at(quantity, index) for side in both)
    differs: np.ndarray = left != right
    return differs


def _first_tensor(
    both: Both, index: int, quantity: str, *, state: StateDifferences, tensors: bool
) -> tuple[str | None, str, str]:
    """Name and digests of the first tensor that differs, in the order of computation; the name may be None."""
    if quantity == "state" and (shown := state.first_at(index)):
        return shown.of_what, shown.baseline, shown.candidate
    digests = [side.at(f"{quantity}_digest", index) for side in both]
    names = both[0].trace.record.param_names
    tensor = None
    if quantity in TENSOR_QUANTITIES and tensors:
        found = np.flatnonzero(_tensors_differ(both, index, quantity, tensors))
        if found.size:
            # Stored in the model's order, computed in the reverse one by the backward pass.
            number = int(found[-1] if quantity == "param_grad" else found[0])
            tensor = names[number]
            # The digests of this tensor instead of those of all tensors together.
            digests = [side.tensors_at(quantity, index)[number] for side in both]
    return tensor, f"{int(digests[0]):016x}", f"{int(digests[1]):016x}"
