"""Whether the optimizers of two runs are the same function: given the same gradients in float64, they add the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

from parity.judge.same_function import OtherFunction
from parity.judge.stored_sketches import equal_starts, measure, other_function
from parity.judge.trial_trace import paired
from parity.plan import lines
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
    if not equal_starts(baseline, candidate) or not paired(baseline, candidate):
        return nothing
    apart = measure(baseline, candidate, "optimizer")
    # A rate that begins at 0 adds nothing, which says nothing.
    if apart is None or not apart.whole > 0:
        return nothing
    inexact = math.hypot(*(record.optimizer_inexact or 0.0 for record in (baseline, candidate)))
    size = math.hypot(*(baseline.initial_norms or ()))
    if apart.distance <= lines.SAME_FUNCTION.value * apart.whole + _ROUNDOFF * size + lines.DEVICE.value * inexact:
        return Optimizers(known=True, other=None)
    tensor = candidate.param_names[apart.furthest]
    why = (
        "their optimizers compute other steps: given the same gradients in float64, what they add to equal parameters "
        f"differs most at {tensor}, by {apart.share:.3g} of the whole (rounding explains {lines.SAME_FUNCTION.value:g})"
    )
    return Optimizers(known=True, other=other_function("update", tensor, apart, why, asked=True))
