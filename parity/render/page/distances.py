"""The plots of a pair's distances: how far each quantity is apart at each step, with its limit, and its tensors."""

import numpy as np

from parity.judge.distances import Distances
from parity.judge.floors import judged_distance
from parity.judge.seen import limits
from parity.judge.tensor_distances import TensorDistances
from parity.render.page.figures import Frame, Json, figure, label, not_finite, series
from parity.render.page.plots import Plot
from parity.render.page.thinning import thin
from parity.store.trace import SKETCHED_QUANTITIES

# Quantities whose tensors have a plot of their own, and most tensors in it: those that are furthest apart.
_BY_TENSOR = {"param_grad": "gradient", "update": "update"}
_MOST_TENSORS = 4
# Roles that give the tensors of a plot their colours.
_ROLES = ("candidate", "baseline", "param_grad", "line")


def distances(frame: Frame) -> Plot | None:
    """The plot; None where no distance is known, or none is above 0.

    Args:
        frame: The pair, and how many points a series may have.
    """
    comparison = frame.verdict.comparison
    traces: list[Json] = []
    known: list[np.ndarray] = []
    drawn: list[np.ndarray] = []
    for quantity in SKETCHED_QUANTITIES:
        found = judged_distance(comparison, quantity)
        # A quantity that is equal at every step has no line that a reader could look for.
        if found is None or not found.any():
            continue
        steps = thin(found, most=frame.most, always=frame.always)
        shown = found[steps]
        # Zero has no place on a logarithmic axis, and what is not finite has a band of its own: both are gaps.
        apart = np.where(np.isfinite(shown) & (shown > 0), shown, np.nan)
        numbers = steps + frame.first
        line = series(numbers, apart, quantity, name=quantity, hover=f"{quantity} %{{y:.1e}}", mode="lines+markers")
        # The legend shows and hides a quantity together with its limit.
        traces.append(line | {"legendgroup": quantity})
        traces += [each | {"legendgroup": quantity} for each in not_finite(numbers, shown, quantity, name=quantity)]
        limit = limits(comparison, quantity)
        traces.append(_limit(frame, quantity, limit))
        known.append(apart[~np.isnan(apart)])
        drawn += [known[-1], np.unique(limit)]
    # Infinite distances alone, as beside a NaN, would leave the axes empty.
    if not any(len(each) for each in known):
        return None
    return Plot(
        "distances",
        "Distance of every quantity",
        "The distance of each quantity from the baseline's, |candidate - baseline| / |baseline| over all its tensors, "
        "estimated from what both sides stored; equal steps are not drawn. The dashed line is the limit of the "
        "quantity: up to the first difference, what rounding can explain; after it, the distance above which a sudden "
        "jump is examined.",
        figure(frame, traces, title="relative distance", log=drawn),
        height=360,
    )


def tensor_distances(frame: Frame) -> list[Plot]:
    """A plot for the gradient and for the update of the tensors that are furthest apart; none where all are equal.

    Args:
        frame: The pair, and how many points a series may have.

    Raises:
        Trouble: A trace is damaged.
    """
    names = frame.verdict.comparison.baseline.record.param_names
    plots = []
    for quantity, what in _BY_TENSOR.items():
        found = frame.verdict.comparison.distances(quantity)
        # One tensor alone is the whole quantity.
        if found is None or len(names) < 2:
            continue
        furthest = np.argsort(-_largest(found), kind="stable")[:_MOST_TENSORS]
        sizes = np.concatenate([_finite(part)[:, furthest] for _, part in found.each_part()])
        traces, drawn = [], []
        for role, tensor, size in zip(_ROLES, furthest.tolist(), sizes.T, strict=False):
            steps = thin(size, most=frame.most, always=frame.always)
            steps = steps[size[steps] > 0]
            if len(steps):
                values = size[steps]
                name = label(names[tensor], most=28)
                line = series(steps + frame.first, values, role, name=name, hover=f"{name} %{{y:.1e}}")
                traces.append(line | {"mode": "lines+markers"})
                drawn.append(values)
        if traces:
            title = f"Distance of the {what}, tensor by tensor"
            caption = (
                f"The distance of the {what} of the {len(traces)} tensors that are furthest apart, relative to the "
                f"norm of the whole {what}; equal steps are not drawn."
            )
            drawing = figure(frame, traces, title="relative distance", log=drawn)
            plots.append(Plot(f"{quantity}-tensors", title, caption, drawing, height=360))
    return plots


def _largest(distances: Distances) -> np.ndarray:
    """The largest finite distance of each tensor beside the whole; float64[T]."""
    largest: np.ndarray = np.max([_finite(part).max(axis=0) for _, part in distances.each_part()], axis=0)
    return largest


def _finite(part: TensorDistances) -> np.ndarray:
    """The distance of each tensor beside the whole, 0 where it is not finite; float64[N, T]."""
    return np.where(np.isfinite(part.beside_whole), part.beside_whole, 0.0)


def _limit(frame: Frame, quantity: str, values: np.ndarray) -> Json:
    """The limit of a quantity, float64[S], as a line with a step where the two part."""
    # Both ends of each level, half a step beyond its first and last step.
    changes = np.flatnonzero(np.diff(values)) + 1
    edges = np.array([0, *np.repeat(changes, 2), len(values)]) - 0.5 + frame.first
    levels = np.repeat(values[[0, *changes]], 2)
    line = series(edges, levels, quantity, name=f"limit of {quantity}", hover="")
    # The limits would double the lines of each hover label.
    return (
        line
        | {"hoverinfo": "skip", "hovertemplate": None}
        | {"legendgroup": quantity, "showlegend": False, "line": {"dash": "dash", "width": 1}}
    )
