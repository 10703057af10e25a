"""The plot of a pair's distances: how far each quantity is apart at each step, with its limit."""

import numpy as np

from parity.judge.floors import judged_distances
from parity.judge.seen import limits
from parity.render.page.figures import Frame, Json, figure, not_finite, series
from parity.render.page.plots import Plot
from parity.render.page.thinning import thin
from parity.store.trace import SKETCHED_QUANTITIES


def distances(frame: Frame) -> Plot | None:
    """The plot; None where no distance is known, or none is above 0.

    Args:
        frame: The pair, and how many points a series may have.
    """
    comparison = frame.verdict.comparison
    traces: list[Json] = []
    drawn: list[np.ndarray] = []
    for quantity in SKETCHED_QUANTITIES:
        found = judged_distances(comparison, quantity)
        # A quantity that is equal at every step has no line that a reader could look for.
        if found is None or not found.whole.any():
            continue
        steps = thin(found.whole, most=frame.most, always=frame.always)
        shown = found.whole[steps]
        # Zero has no place on a logarithmic axis, and what is not finite has a band of its own: both are gaps.
        apart = np.where(np.isfinite(shown) & (shown > 0), shown, np.nan)
        numbers = steps + frame.first
        line = series(numbers, apart, quantity, name=quantity, hover=f"{quantity} %{{y:.3g}}", mode="lines+markers")
        # The legend shows and hides a quantity together with its limit.
        traces.append(line | {"legendgroup": quantity})
        traces += [each | {"legendgroup": quantity} for each in not_finite(numbers, shown, quantity, name=quantity)]
        limit = _limit(frame, quantity)
        traces.append(limit)
        drawn += [apart[~np.isnan(apart)], np.unique(limits(comparison, quantity))]
    if not traces:
        return None
    return Plot(
        "distances",
        "How far apart, step by step",
        "The distance of each quantity from the baseline's, |candidate - baseline| / |baseline| over all its tensors, "
        "estimated from what both have stored; none is drawn where it is 0. Dashed is the limit of the quantity: up to "
        "the step at which the two part, what rounding can explain; after it, the distance from which on a sudden "
        "growth is looked into.",
        figure(frame, traces, title="relative distance", log=drawn),
        height=360,
    )


def _limit(frame: Frame, quantity: str) -> Json:
    """The limit of a quantity, as a line with a step where the two part."""
    values = limits(frame.verdict.comparison, quantity)
    # Both ends of each level, half a step beyond its first and last step.
    changes = np.flatnonzero(np.diff(values)) + 1
    edges = np.array([0, *np.repeat(changes, 2), len(values)]) - 0.5 + frame.first
    levels = np.repeat(values[[0, *changes]], 2)
    line = series(edges, levels, quantity, name=f"limit of {quantity}", hover=f"the limit of {quantity} is %{{y:.3g}}")
    return line | {"legendgroup": quantity, "showlegend": False, "line": {"dash": "dash", "width": 1}}
