"""Whether the optimizers of two runs are the same function: given the same gradients in float64, they add the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from parity.judge.same_function import OtherFunction
from parity.judge.trial_trace import paired
from parity.plan import lines
from parity.store.trace import SKETCH_SUMS
from parity.store.trials import TrialRecord

# Roundoff of the float64 parameters whose difference is what was added, with a margin for both sides.
_ROUNDOFF = 8 * 2.0**-53


@dataclass(frozen=True)
class Optimizers:
    """What is known of the optimizers of two runs.

    Attributes:
        known: Whether both were asked, from equal parameters.
        other: Where they are not the same function, or None.
    """

    known: bool
    other: OtherFunction | None


def compare_optimizers(baseline: TrialRecord, candidate: TrialRecord) -> Optimizers:
    """Compares what the optimizers of both made of gradients that parity had given them before their first steps."""
    nothing = Optimizers(known=False, other=None)
    # Of optimizers that go on from other steps the states differ, and of other parameters the decay.
    starts = [(record.first_step or 0, record.initial_digests) for record in (baseline, candidate)]
    if starts[0] != starts[1] or starts[0][1] is None or not paired(baseline, candidate):
        return nothing
    one, other = (
        np.array(record.optimizer_sketches or []).reshape(-1, SKETCH_SUMS) for record in (baseline, candidate)
    )
    whole = math.hypot(*(baseline.optimizer_norms or ()))
    # A rate that begins at 0 adds nothing, which says nothing.
    if one.shape != other.shape or not one.size or not whole > 0:
        return nothing
    each = np.linalg.norm(one - other, axis=1)
    distance = float(np.linalg.norm(each))
    inexact = math.hypot(*(record.optimizer_inexact or 0.0 for record in (baseline, candidate)))
    size = math.hypot(*(baseline.initial_norms or ()))
    if distance <= lines.SAME_FUNCTION.value * whole + _ROUNDOFF * size + lines.DEVICE.value * inexact:
        return Optimizers(known=True, other=None)
    share = distance / whole
    tensor = candidate.param_names[int(np.argmax(np.nan_to_num(each, nan=np.inf)))]
    why = (
        "their optimizers compute other steps: given the same gradients in float64, what they add to equal parameters "
        f"differs most at {tensor}, by {share:.3g} of the whole (rounding explains {lines.SAME_FUNCTION.value:g})"
    )
    certain = math.isfinite(share) and share > lines.ROUNDED_CONSTANT.value
    if not certain:
        why += ", which a constant that one of them rounds to float32 explains as well"
    return Optimizers(known=True, other=OtherFunction("update", tensor, why, certain=certain, asked=True))
