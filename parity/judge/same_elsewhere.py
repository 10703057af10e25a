"""Whether two runs compute the same function where a small step leads to, and not only where they begin.

Parameters that begin with zeros hide what is computed before them.
"""

from __future__ import annotations

import math

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.same_function import OtherFunction
from parity.judge.trial_trace import paired
from parity.plan import lines
from parity.store.trace import SKETCH_SUMS
from parity.store.trials import TrialRecord


def compare_elsewhere(baseline: TrialRecord, candidate: TrialRecord) -> OtherFunction | None:
    """Where the gradients of both differ in float64 after a small step against them, or None.

    Args:
        baseline: A trial.
        candidate: Another one, whose gradient in its first step is the same in float64.
    """
    starts = [(record.first_step or 0, record.initial_digests) for record in (baseline, candidate)]
    if starts[0] != starts[1] or starts[0][1] is None or not paired(baseline, candidate):
        return None
    one, other = (
        np.array(record.elsewhere_sketches or []).reshape(-1, SKETCH_SUMS) for record in (baseline, candidate)
    )
    whole = math.hypot(*(baseline.elsewhere_norms or ()))
    if one.shape != other.shape or not one.size or not whole > 0:
        return None
    each = np.linalg.norm(one - other, axis=1)
    share = float(np.linalg.norm(each)) / whole
    # Written with `not`, because every comparison with a NaN is False.
    if not share > lines.SAME_FUNCTION.value:
        return None
    tensor = candidate.param_names[int(np.argmax(each))]
    why = (
        "they compute other functions: taken in float64 from the same parameters, their first steps agree, but after a "
        f"small step of the parameters their gradients differ most at {tensor}, by {share:.3g} of the whole gradient "
        f"(rounding explains {lines.SAME_FUNCTION.value:g})"
    )
    certain = share > lines.ROUNDED_CONSTANT.value
    if not certain:
        why += ", which a constant that one of them rounds to float32 explains as well"
    return OtherFunction("param_grad", tensor, why, certain=certain, elsewhere=True)


def first_shown(comparison: Comparison) -> int | None:
    """The position of the first step whose gradients rounding does not explain, or None.

    Functions that differ beside the first steps are not the same training only where that shows.

    Raises:
        Trouble: A trace is damaged.
    """
    gradients = comparison.distances("param_grad")
    if gradients is None:
        return None
    # A NaN is not known to be explained.
    beyond = ~(gradients.whole <= lines.PARTING_PARAM_GRAD.value * comparison.unit)
    return int(np.argmax(beyond)) if beyond.any() else None
