"""Whether two recordings that begin apart by rounding begin with other states of their optimizers.

A training that goes on from a checkpoint of its own has other digests of everything, and its first steps have none
before them that show how rounding grows. But copies of both optimizers, with the states that they begin with, were
given the same gradients: what they add is as far apart as their states are. A recording that has begun earlier has no
copies with the states of that step. There the updates themselves are compared, made of gradients that are as near as
the parameters are.
"""

from __future__ import annotations

import math

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.floors import quiet_line
from parity.judge.jumps import Jump
from parity.judge.onset import updates_part
from parity.judge.parting import parting_line
from parity.judge.starts import equal_parameters, parameters_apart
from parity.judge.stored_sketches import Apart, measure
from parity.judge.unmoved import moved_by_rounding
from parity.plan import lines


def find_other_state(comparison: Comparison) -> Jump | None:
    """How far the states of the optimizers are apart in the first common step, if that is too far; or None.

    Args:
        comparison: The two traces.

    Raises:
        Trouble: A trace is damaged.
    """
    # From equal parameters `same_optimizer` compares the optimizers in float64, or the two part by what differs.
    if not comparison.paired or equal_parameters(comparison.common):
        return None
    counted = ~moved_by_rounding(comparison.common, parting_line("param_grad", comparison.unit))
    drift = _drift(comparison, counted)
    if drift is None or not updates_part(comparison):
        return None
    return _of_copies(comparison, counted, drift) or _of_updates(comparison, counted, drift)


def _of_copies(comparison: Comparison, counted: np.ndarray, drift: float) -> Jump | None:
    """The same from what copies of both optimizers have made of equal gradients."""
    records = comparison.baseline.record, comparison.candidate.record
    # The copies were made before the first step of a recording.
    apart = None if any(side.begin for side in comparison.common) else measure(*records, "optimizer", among=counted)
    if apart is None or not apart.whole > 0:
        return None
    inexact = math.hypot(*(record.optimizer_inexact or 0.0 for record in records)) / apart.whole
    least = max(lines.JUMP.value * drift, parting_line("update", comparison.unit))
    if not apart.share > least + lines.DEVICE.value * inexact:
        return None
    # An element that had no gradient for long is as far off as its whole step where it gets one earlier on one side;
    # then the parameters are apart by that step, too.
    certain = _certain(apart.share, drift) and apart.share > lines.JUMP_UPDATE.value + lines.DEVICE.value * inexact
    return Jump(0, "state", records[1].param_names[apart.furthest], apart.share, drift, certain)


def _of_updates(comparison: Comparison, counted: np.ndarray, drift: float) -> Jump | None:
    """The same from what the optimizers have added in the first common step, in the training itself."""
    # A training that begins has no states, and Adam's first step is the sign of each gradient, however small it is.
    updates = comparison.distances("update") if comparison.first_step else None
    if updates is None:
        return None
    here = updates.at(0)
    each, norms = (np.where(counted, numbers[0], 0.0) for numbers in (here.absolute, here.norms))
    apart = Apart(float(np.linalg.norm(each)), math.hypot(*norms), int(np.argmax(np.nan_to_num(each, nan=np.inf))))
    # The gradients are not equal, and an element whose own is nearly zero may have been moved by its noise.
    least = max(lines.JUMP.value * drift, quiet_line(lines.JUMP_UPDATE, comparison.unit))
    if not apart.whole > 0 or not apart.share > least:
        return None
    name = comparison.candidate.record.param_names[apart.furthest]
    return Jump(0, "state", name, apart.share, drift, _certain(apart.share, drift), by_updates=True)


def _certain(share: float, drift: float) -> bool:
    """Whether no optimizer makes updates that are so far apart of what is this near."""
    return drift <= lines.QUIET.value and share > lines.UPDATE_TURNS.value * math.sqrt(drift)


def _drift(comparison: Comparison, counted: np.ndarray) -> float | None:
    """How far parameters, outputs and gradients of the first common step are apart, the largest; None if not known.

    Args:
        comparison: The two traces.
        counted: The parameters that are looked at; bool[T] or bool[1].
    """
    gradients = comparison.distances("step_grad") or comparison.distances("param_grad")
    apart = parameters_apart(comparison.common)
    if gradients is None or apart is None:
        return None
    starts, whole = (float(np.linalg.norm(np.where(counted, numbers, 0.0))) for numbers in apart)
    outputs = comparison.distances("output")
    found = [
        starts / whole if whole else math.inf,
        float(gradients.whole[0]),
        *([float(outputs.whole[0])] if outputs else []),
    ]
    return max(found) if all(map(math.isfinite, found)) else None
