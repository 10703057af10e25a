"""The panels of a pair: each shows one of several plots, as the reader chooses."""

from dataclasses import dataclass

from parity.render.differing import Rows
from parity.render.page import plots
from parity.render.page.curves import curves
from parity.render.page.distances import distances, tensor_distances
from parity.render.page.figures import Frame
from parity.render.page.heat_map import heat_map
from parity.render.page.plots import NoiseBand, Plot


@dataclass(frozen=True)
class Panel:
    """Plots that share a place on the page.

    Attributes:
        name: Its name in the anchors of the page.
        title: The title above it.
        plots: The plots, of which the first is shown; at least one.
        curves: Whether both sides are drawn, so that a logarithmic axis and smoothing are offered.
    """

    name: str
    title: str
    plots: tuple[Plot, ...]
    curves: bool = False


def make_panels(frame: Frame, rows: Rows, noise: NoiseBand | None) -> tuple[Panel, ...]:
    """The panels of a pair, none of which is empty.

    Args:
        frame: The pair, and how many points a series may have.
        rows: Where its quantities and tensors differ.
        noise: The band of the noise trials, or None.

    Raises:
        Trouble: A trace is damaged.
    """
    verdict = frame.verdict
    panels = [Panel("curves", "Both sides", tuple(curves(frame)), curves=True)]
    # Equal traces have their curves only: a plot of differences would be empty.
    if verdict.first:
        # Who looks at what passed has the heat map for its tensors: the page stays small.
        tensors = [] if verdict.meaning.passing else tensor_distances(frame)
        apart = (plots.differences(frame, noise), distances(frame), *tensors)
        panels.append(Panel("differences", "How far apart", tuple(plot for plot in apart if plot)))
    if verdict.loss_audit:
        panels.append(Panel("errors", "Audit", tuple(plots.audits(frame, verdict.loss_audit))))
    elif verdict.device_audit:
        panels.append(Panel("shared", "Audit", (plots.shared_steps(frame, verdict.device_audit),)))
    if verdict.first:
        panels.append(Panel("map", "Where they differ", (heat_map(frame, rows),)))
    return tuple(panel for panel in panels if panel.plots)
