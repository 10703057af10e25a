"""Whether the models of two runs do the same to their buffers: in float64, their first steps add the same.

In float32 a fault of running statistics may be smaller than what an optimizer makes of a gradient that is nothing but
rounding, and such an update is in the buffers that are computed from parameters.
"""

from __future__ import annotations

from parity.judge.same_function import OtherFunction
from parity.judge.stored_sketches import equal_starts, measure, other_function
from parity.plan import lines
from parity.store.trials import TrialRecord


def compare_buffers(baseline: TrialRecord, candidate: TrialRecord) -> OtherFunction | None:
    """Where the first steps of both, from equal parameters and buffers, do not do the same to a buffer.

    Args:
        baseline: A trial.
        candidate: Another one, whose model has the same output in float64.
    """
    buffers = [record.initial_buffer_digests for record in (baseline, candidate)]
    equal = equal_starts(baseline, candidate) and buffers[0] == buffers[1] and buffers[0] is not None
    apart = measure(baseline, candidate, "buffer_added")
    if apart is None or not equal or baseline.buffer_names != candidate.buffer_names:
        return None
    inexact = sum(record.buffer_added_inexact or 0.0 for record in (baseline, candidate))
    # Written with `not`, because every comparison with a NaN is False.
    if not apart.distance > lines.SAME_FUNCTION.value * apart.whole + inexact:
        return None
    tensor = (candidate.buffer_names or [])[apart.furthest]
    why = (
        "their models compute other buffers: taken in float64 from the same parameters and buffers, what their first "
        f"steps add differs most at {tensor}, by {apart.share:.3g} of the whole (rounding explains "
        f"{lines.SAME_FUNCTION.value:g})"
    )
    return other_function("buffer", tensor, apart, why)
