"""Whether two trainings were driven apart, for unknown reasons, before their first common step.

Rounding grows, and in a chaotic training to any size: a resumed training may begin 10 % away from another one although
both are right. A difference that arose before the recordings begin may be rounding or a fault. It is a fault if
rounding cannot be the reason: some tensors are far apart and others near, or the optimizers' states are equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.starts import of_another_step, parameters_apart, set_aside
from parity.plan import lines


@dataclass(frozen=True)
class DriftedStart:
    """That parameters are apart before the first common step.

    Attributes:
        tensor: The parameter that is furthest.
        distance: How far all of them are apart, relative.
    """

    tensor: str
    distance: float


def find_drifted_start(comparison: Comparison, *, line: float, zero: float) -> DriftedStart | None:
    """How far apart the parameters are before the first common step, if rounding may have grown that far; or None.

    Args:
        comparison: The two traces.
        line: The largest distance, relative to all parameters, that needs no growth.
        zero: The largest length of a gradient that is zero but for rounding, relative to that of all parameters.

    Raises:
        Trouble: A trace is damaged.
    """
    # A training that begins has had no time.
    found = parameters_apart(comparison.common) if comparison.first_step and comparison.paired else None
    if found is None:
        return None
    counted = ~set_aside(comparison.common, zero) & (found[1] > 0)
    apart, norms = (each[np.broadcast_to(counted, each.shape)] for each in found)
    whole = float(np.linalg.norm(norms))
    share = float(np.linalg.norm(apart)) / whole if whole else 0.0
    if not line < share < np.inf or of_another_step(comparison.common):
        return None
    # Each gradient depends on all parameters, so rounding drives all of them apart, and the states of the optimizers.
    each = apart / norms
    quiet = (
        float(np.sort(each)[len(each) // 4]) <= lines.QUIET.value
    )  # a quarter of them, so that a single odd one decides nothing
    alone = quiet and float(each.max()) > lines.FAR.value
    if alone or _equal_states(comparison):
        return None
    furthest = int(np.flatnonzero(np.broadcast_to(counted, found[0].shape))[np.argmax(apart)])
    return DriftedStart(comparison.candidate.record.param_names[furthest], share)


def _equal_states(comparison: Comparison) -> bool:
    """Whether the optimizers have states, and these are equal to the bit before the first common step."""
    state = comparison.state
    counts = [side.list_at("state_counts", 0) for side in comparison.common]
    kept = all(each is not None and bool(np.any(each > 0)) for each in counts)
    return state.known and state.comparable and kept and not state.tensors[0] and not state.named[0]
