"""Whether two recordings that begin apart by rounding begin with other states of their optimizers.

A training that goes on from a checkpoint of its own has other digests of everything, and its first steps have none
before them that show how rounding grows. But copies of both optimizers, with the states that they begin with, were
given the same gradients: what they add is as far apart as their states are.
"""

from __future__ import annotations

import math

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.jumps import Jump
from parity.judge.onset import updates_part
from parity.judge.parting import parting_line
from parity.judge.stored_sketches import equal_starts, measure
from parity.judge.unmoved import moved_by_rounding
from parity.plan import lines


def find_other_state(comparison: Comparison) -> Jump | None:
    """How far the states of the optimizers are apart in the first common step, if that is too far; or None.

    Args:
        comparison: The two traces.

    Raises:
        Trouble: A trace is damaged.
    """
    records = comparison.baseline.record, comparison.candidate.record
    # The copies were made before the first step of a recording, and from equal parameters `same_optimizer` compares
    # them in float64.
    if any(side.begin for side in comparison.common) or not comparison.paired or equal_starts(*records):
        return None
    counted = ~moved_by_rounding(comparison.common, parting_line("param_grad", comparison.unit))
    apart = measure(*records, "optimizer", among=counted)
    drift = _drift(comparison, counted)
    if apart is None or drift is None or not apart.whole > 0 or not updates_part(comparison):
        return None
    explained = lines.JUMP.value * drift
    inexact = math.hypot(*(record.optimizer_inexact or 0.0 for record in records)) / apart.whole
    if not apart.share > max(explained, parting_line("update", comparison.unit)) + lines.DEVICE.value * inexact:
        return None
    # An element that had no gradient for long is as far off as its whole step where it gets one earlier on one side;
    # then the parameters are apart by that step, too.
    certain = drift <= lines.QUIET.value and apart.share > lines.JUMP_UPDATE.value + lines.DEVICE.value * inexact
    return Jump(0, "state", records[1].param_names[apart.furthest], apart.share, drift, certain)


def _drift(comparison: Comparison, counted: np.ndarray) -> float | None:
    """How far parameters, outputs and gradients of the first common step are apart, the largest; None if not known.

    Args:
        comparison: The two traces.
        counted: The parameters that are looked at; bool[T] or bool[1].
    """
    gradients = comparison.distances("step_grad") or comparison.distances("param_grad")
    starts = measure(comparison.baseline.record, comparison.candidate.record, "initial", among=counted)
    if gradients is None or starts is None:
        return None
    outputs = comparison.distances("output")
    found = [starts.share, float(gradients.whole[0]), *([float(outputs.whole[0])] if outputs else [])]
    return max(found) if all(map(math.isfinite, found)) else None
