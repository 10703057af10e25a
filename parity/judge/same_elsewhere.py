"""Whether two runs compute the same function where a small step leads to, and not only where they begin.

Parameters that begin with zeros hide what is computed before them.
"""

from __future__ import annotations

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.same_function import OtherFunction
from parity.judge.stored_sketches import equal_starts, measure, other_function
from parity.judge.trial_trace import paired
from parity.plan import lines
from parity.store.trials import TrialRecord


def compare_elsewhere(baseline: TrialRecord, candidate: TrialRecord) -> OtherFunction | None:
    """Where the gradients of both differ in float64 after a small step against them, or None.

    Args:
        baseline: A trial.
        candidate: Another one, whose gradient in its first step is the same in float64.
    """
    apart = measure(baseline, candidate, "elsewhere")
    if apart is None or not equal_starts(baseline, candidate) or not paired(baseline, candidate) or not apart.whole:
        return None
    # Written with `not`, because every comparison with a NaN is False.
    if not apart.share > lines.SAME_FUNCTION.value:
        return None
    tensor = candidate.param_names[apart.furthest]
    why = (
        "they compute other functions: taken in float64 from the same parameters, their first steps agree, but after a "
        f"small step of the parameters their gradients differ most at {tensor}, by {apart.share:.3g} of the whole "
        f"gradient (rounding explains {lines.SAME_FUNCTION.value:g})"
    )
    return other_function("param_grad", tensor, apart, why, elsewhere=True)


def first_shown(comparison: Comparison) -> int | None:
    """The position of the first step whose gradients rounding does not explain, or None.

    Functions that agree in the first steps and differ beside them are another training only where the difference shows.

    Raises:
        Trouble: A trace is damaged.
    """
    gradients = comparison.distances("param_grad")
    if gradients is None:
        return None
    # A NaN is not known to be explained.
    beyond = ~(gradients.whole <= lines.PARTING_PARAM_GRAD.value * comparison.unit)
    return int(np.argmax(beyond)) if beyond.any() else None
