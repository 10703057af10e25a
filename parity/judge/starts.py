"""What two traces start their first common step from: parameters and buffers, as each has stored them before it.

A recording that continues an earlier one has those that it started with; the earlier one, those after the step before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from parity.ground.percent import percent
from parity.judge.common_steps import Both, CommonSteps
from parity.judge.state_settings import StateDifference
from parity.judge.step_sketches import parameters_before
from parity.judge.stored_sketches import measure
from parity.judge.trial_trace import paired, unlike_digests
from parity.judge.unmoved import moved_by_rounding, unmoved
from parity.store.trace import SKETCH_SUMS


def differences_of_starts(both: Both) -> tuple[StateDifference, ...]:
    """In what the tensors differ from which the first common step is taken; what is not stored differs in nothing.

    Raises:
        Trouble: A trace is damaged.
    """
    return tuple(_of_tensors(both, "parameters")) + tuple(_of_tensors(both, "buffers"))


def equal_parameters(both: Both) -> bool:
    """Whether both are known to take their first common step from parameters that are equal to the bit.

    Raises:
        Trouble: A trace is damaged.
    """
    left, right = _digests_before(both)
    return left is not None and right is not None and np.array_equal(left, right)


def parameters_apart(both: Both) -> tuple[np.ndarray, np.ndarray] | None:
    """How far the parameters are apart from which the first common step is taken; None where that is not known.

    Returns:
        ||b - a|| of each, and ||a|| of the baseline's; each float64[T].

    Raises:
        Trouble: A trace is damaged.
    """
    sides = [parameters_before(side, 0) for side in both]
    if sides[0] is None or sides[1] is None or sides[0].shape != sides[1].shape:
        return None
    # Sketches of a trace that has begun before are sums of what its steps added, and estimate the length, too.
    return np.linalg.norm(sides[1] - sides[0], axis=1), np.linalg.norm(sides[0], axis=1)


def start_apart(both: Both, line: float, *, zero: float) -> bool:
    """Whether both are known to begin their trainings with parameters that are further apart than a line.

    Parameters that neither side moves do not count: what is computed from them shows in the outputs. Nor do,
    in trainings that continue from an earlier step, those whose gradient is nothing but rounding.

    Args:
        both: The common steps of the two traces.
        line: A distance, relative to all parameters of the baseline.
        zero: The largest length of a gradient that is zero but for rounding, relative to that of all parameters.

    Raises:
        Trouble: A trace is damaged.
    """
    records = [side.trace.record for side in both]
    if any(side.begin for side in both) or not paired(records[0], records[1]):
        return False
    apart = measure(records[0], records[1], "initial", among=~set_aside(both, zero))
    # A NaN, of a parameter that is not finite, is not known to be apart.
    return apart is not None and apart.distance > line * math.hypot(*(records[0].initial_norms or ()))


def set_aside(both: Both, zero: float) -> np.ndarray:
    """Which parameters say nothing where they differ before the first common step; bool[T] or bool[1].

    Args:
        both: The common steps of the two traces.
        zero: The largest length of a gradient that is zero but for rounding, relative to that of all parameters.

    Raises:
        Trouble: A trace is damaged.
    """
    aside = unmoved(both)
    return aside | moved_by_rounding(both, zero) if both[0].trace.first_step + both[0].begin else aside


def of_another_step(both: Both) -> bool:
    """Whether one side takes its first common step from parameters that the other one had after another step.

    Raises:
        Trouble: A trace is damaged.
    """
    left, right = _digests_before(both)
    return any(
        digests is not None
        and len(digests) == len(side.trace.record.param_names)
        and _step_of(side, "parameters", digests) is not None
        for side, digests in ((both[0], right), (both[1], left))
    )


def _digests_before(both: Both) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Digests of the parameters of each side before the first common step; None twice if they cannot be compared."""
    if unlike_digests(both[0].trace.record, both[1].trace.record):
        return None, None
    left, right = (_before(side, "parameters") for side in both)
    return left, right


def _of_tensors(both: Both, what: str) -> Iterator[StateDifference]:
    if unlike_digests(both[0].trace.record, both[1].trace.record):
        return
    left, right = (_before(side, what) for side in both)
    names = _names(both[0], what)
    alike = (
        paired(both[0].trace.record, both[1].trace.record) if what == "parameters" else names == _names(both[1], what)
    )
    if left is None or right is None or not alike or len(left) != len(right) or np.array_equal(left, right):
        return
    first = both[0].trace.first_step + both[0].begin
    for side, digests, swapped in ((both[0], right, False), (both[1], left, True)):
        if (step := _step_of(side, what, digests)) is not None:
            found = [f"those after step {first - 1}" if first else "the first ones", f"those after step {step}"]
            yield StateDifference(f"{what} before step {first}", *(reversed(found) if swapped else found))
            return
    others = np.flatnonzero(left != right)
    # Digests say that tensors differ, and sketches how far; those of the initial parameters are stored.
    far = None if what == "buffers" or any(side.begin for side in both) else _distances(both)
    # The first of those that may be the furthest: sketches show a distance to within a factor of 3.
    index = int(others[0] if far is None else others[far[others] >= far[others].max() / 3][0])
    if far is None:
        one, other = (f"{int(digests[index]):016x}" for digests in (left, right))
    else:
        one, other = (f"norm {(side.trace.record.initial_norms or ())[index]:.4g}" for side in both)
        other += f", {percent(far[index])} away" if math.isfinite(far[index]) else ""
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    of = f"{names[index]}{more}" + (f" before step {first}" if first else "")
    yield StateDifference(what if first else f"initial {what}", one, other, of)


def _distances(both: Both) -> np.ndarray | None:
    """How far the initial parameters are apart, relative to the baseline's; float64[T], or None where it is not known.

    Infinite for one that is zero in the baseline, or not finite.
    """
    records = [side.trace.record for side in both]
    one, other = (np.array(record.initial_sketches or []).reshape(-1, SKETCH_SUMS) for record in records)
    norms = [np.array(record.initial_norms or [], np.float64) for record in records]
    if one.shape != other.shape or not len(one) == len(norms[0]) == len(norms[1]):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        far: np.ndarray = np.linalg.norm(one - other, axis=1) / norms[0]
    far[~np.isfinite(far)] = np.inf
    return far


def _names(side: CommonSteps, what: str) -> Sequence[str]:
    record = side.trace.record
    return record.param_names if what == "parameters" else record.buffer_names or []


def _before(side: CommonSteps, what: str) -> np.ndarray | None:
    """The digests of the tensors before the first common step, uint64[T]; None where they are not stored."""
    if side.begin and what == "parameters":
        return side.trace.digests_at("param", side.begin - 1)
    if side.begin:
        return side.trace.list_at("buffer_digests", side.begin - 1)
    record = side.trace.record
    stored = record.initial_digests if what == "parameters" else record.initial_buffer_digests
    return None if stored is None else np.array(stored, np.uint64)


def _step_of(side: CommonSteps, what: str, digests: np.ndarray) -> int | None:
    """The step after which the parameters of a side were these; None where there is none."""
    if what != "parameters" or not len(digests):
        return None
    rows = np.flatnonzero((side.trace.digests("param") == digests).all(axis=1))
    return side.trace.first_step + int(rows[0]) if rows.size else None
