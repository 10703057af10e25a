"""Whether the models of two runs do the same to their buffers: in float64, their first steps add the same.

In float32 a fault of running statistics may be smaller than what an optimizer makes of a gradient that is nothing but
rounding, and such an update is in the buffers that are computed from parameters.
"""

from __future__ import annotations

import math

import numpy as np

from parity.judge.same_function import OtherFunction
from parity.plan import lines
from parity.store.trace import SKETCH_SUMS
from parity.store.trials import TrialRecord


def compare_buffers(baseline: TrialRecord, candidate: TrialRecord) -> OtherFunction | None:
    """Where the first steps of both, from equal parameters and buffers, do not do the same to a buffer.

    Args:
        baseline: A trial.
        candidate: Another one, whose model has the same output in float64.
    """
    records = (baseline, candidate)
    starts = [(each.first_step or 0, each.initial_digests, each.initial_buffer_digests) for each in records]
    if starts[0] != starts[1] or None in starts[0] or baseline.buffer_names != candidate.buffer_names:
        return None
    one, other = (np.array(each.buffer_added_sketches or []).reshape(-1, SKETCH_SUMS) for each in records)
    whole = math.hypot(*(baseline.buffer_added_norms or ()))
    if one.shape != other.shape or not one.size:
        return None
    each = np.linalg.norm(one - other, axis=1)
    distance = float(np.linalg.norm(each))
    # Written with `not`, because every comparison with a NaN is False.
    if not distance > lines.SAME_FUNCTION.value * whole + sum(record.buffer_added_inexact or 0.0 for record in records):
        return None
    share = distance / whole if whole else math.inf
    tensor = (candidate.buffer_names or [])[int(np.argmax(np.nan_to_num(each, nan=np.inf)))]
    why = (
        "their models compute other buffers: taken in float64 from the same parameters and buffers, what their first "
        f"steps add differs most at {tensor}, by {share:.3g} of the whole (rounding explains "
        f"{lines.SAME_FUNCTION.value:g})"
    )
    certain = share > lines.ROUNDED_CONSTANT.value
    if not certain:
        why += ", which a constant that one of them rounds to float32 explains as well"
    return OtherFunction("buffer", tensor, why, certain=certain)
