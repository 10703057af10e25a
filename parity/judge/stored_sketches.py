"""How far two trials are apart in what each computed in float64 beside its training, and stored with its record.

Letters: T tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from parity.judge.same_function import ROUNDED_CONSTANT, OtherFunction
from parity.plan import lines
from parity.store.trace import SKETCH_SUMS
from parity.store.trials import TrialRecord


@dataclass(frozen=True)
class Apart:
    """How far the tensors are apart that two trials have stored sketches of.

    Attributes:
        distance: The distance of all tensors together.
        whole: The norm of the baseline's.
        furthest: Number of the tensor that is furthest.
    """

    distance: float
    whole: float
    furthest: int

    @property
    def share(self) -> float:
        """The relative distance; infinite where the baseline's tensors are all zero."""
        return self.distance / self.whole if self.whole else math.inf


def equal_starts(baseline: TrialRecord, candidate: TrialRecord) -> bool:
    """Whether both are known to begin at the same step with the same parameters, to the bit."""
    starts = [(record.first_step or 0, record.initial_digests) for record in (baseline, candidate)]
    return starts[0] == starts[1] and starts[0][1] is not None


def measure(
    baseline: TrialRecord, candidate: TrialRecord, name: str, *, among: np.ndarray | None = None
) -> Apart | None:
    """How far they are apart in the columns `name`_norms and `name`_sketches; None where a trial lacks them.

    Args:
        baseline: The trial whose norms are the whole.
        candidate: The other trial.
        name: What the columns are named after.
        among: The tensors that are looked at, bool[T] or bool[1]; None for all.
    """
    one, other = (
        np.array(getattr(record, f"{name}_sketches") or []).reshape(-1, SKETCH_SUMS) for record in (baseline, candidate)
    )
    if one.shape != other.shape or not one.size:
        return None
    each = np.linalg.norm(one - other, axis=1)
    norms = np.array(getattr(baseline, f"{name}_norms") or [0.0])
    if among is not None:
        each, norms = (np.where(among, numbers, 0.0) for numbers in (each, norms))
    whole = math.hypot(*norms)
    return Apart(float(np.linalg.norm(each)), whole, int(np.argmax(np.nan_to_num(each, nan=np.inf))))


def other_function(quantity: str, tensor: str, apart: Apart, why: str, **kind: bool) -> OtherFunction:
    """That two trials compute other functions, for certain unless a rounded constant explains the distance.

    Args:
        quantity: As `OtherFunction` has it.
        tensor: Name of the tensor that is furthest.
        apart: How far the two are apart.
        why: What was found, in words.
        kind: Further attributes of `OtherFunction`.
    """
    certain = math.isfinite(apart.distance) and apart.share > lines.ROUNDED_CONSTANT.value
    return OtherFunction(quantity, tensor, why if certain else f"{why}, {ROUNDED_CONSTANT}", certain=certain, **kind)
