"""The plots of a pair over its steps: losses, differences, and errors against float64.

Letters: S is the number of steps of the pair.
"""

from dataclasses import dataclass

import numpy as np

from parity.judge.decide_device import DeviceAudit
from parity.judge.decide_loss import AuditedErrors, LossAudit
from parity.judge.distances import unit_of_quantity
from parity.judge.verdict import Judgement
from parity.render.page.figures import Frame, Json, equal, figure, not_finite, pack, series
from parity.render.page.thinning import thin
from parity.store.trace import QUANTITIES

# The largest number that a plot shows as a difference in ulp.
_MOST_ULP = 2**31 - 1


@dataclass(frozen=True)
class Plot:
    """A figure with its title and caption.

    Attributes:
        name: Its name in the anchors of the page.
        title: The title above it.
        caption: The text below it: what is drawn, and how to read it.
        figure: What Plotly.js draws.
        height: Height in CSS pixels.
    """

    name: str
    title: str
    caption: str
    figure: Json
    height: int = 300


@dataclass(frozen=True)
class NoiseBand:
    """How far rounding alone drives the losses apart: the largest difference of the noise trials at each step.

    Attributes:
        trials: Number of noise trials.
        rel: Relative difference; float64[S].
        ulp: Difference in ulp; float64[S].
    """

    trials: int
    rel: np.ndarray
    ulp: np.ndarray


def noise_band(judgement: Judgement) -> NoiseBand | None:
    """The band of a run's noise trials, over the steps that all of them have; None where there are none."""
    noise = [verdict for verdict in judgement.pairs if verdict.pair.axis == "noise" and verdict.steps]
    if not noise:
        return None
    # A noise trial that was interrupted is shorter.
    steps = min(verdict.steps for verdict in noise)
    # `fmax` ignores a NaN in rel. In ulp -1 stands for one, which is below every distance.
    rel = np.fmax.reduce([verdict.comparison.loss_rel[:steps] for verdict in noise])
    ulp = np.fmax.reduce([verdict.comparison.loss_ulp[:steps] for verdict in noise]).astype(float)
    return NoiseBand(len(noise), rel, ulp)


def differences(frame: Frame, noise: NoiseBand | None) -> Plot | None:
    """The plot of the relative difference of the losses, with the noise band; None where the losses never differ.

    Args:
        frame: The pair, and how many points a series may have.
        noise: The band, or None where there are no noise trials.
    """
    values = frame.verdict.comparison.loss_rel
    # Without a number to draw there would be nothing but empty axes: a NaN is in the plot of the losses.
    if not (np.isfinite(values) & (values > 0)).any():
        return None
    band = ""
    if noise:
        band = f" The grey area shows what rounding alone does: the largest difference of {noise.trials} noise trials."
    return Plot(
        "rel",
        "Relative difference of the loss",
        f"|candidate - baseline| / |baseline| of the loss. Equal losses are in the band at the bottom.{band}",
        _difference(frame, values, noise.rel if noise else None),
    )


def _difference(frame: Frame, values: np.ndarray, noise: np.ndarray | None) -> Json:
    traces = []
    if noise is not None:
        steps = thin(noise, most=frame.most)
        # Zero has no place on a logarithmic axis, and the pair may be shorter than the noise trials.
        steps = steps[(noise[steps] > 0) & (steps < len(values))]
        band = steps + frame.first
        line = series(band, noise[steps], "noise", name="noise trials", hover="noise trials: up to %{y:.3g}")
        traces.append(line | {"fill": "tozeroy"})
    # Thinning keeps the step at which the losses first differ: a reader looks for it.
    begins = np.flatnonzero(values != 0)[:1].tolist()
    steps = thin(values, most=frame.most, always=(*frame.always, *begins))
    shown = values[steps]
    apart = steps[np.isfinite(shown) & (shown > 0)]
    # -1 stands for a NaN, which is not among these steps; `clip` since Plotly.js reads no 64-bit integers.
    ulp = {"customdata": pack(np.clip(frame.verdict.comparison.loss_ulp[apart], 0, _MOST_ULP))}
    hover = "differ by %{y:.3g} (%{customdata:,} ulp)"
    here = apart + frame.first
    traces.append(series(here, values[apart], "candidate", name="difference", hover=hover, mode="markers") | ulp)
    traces += equal(steps[shown == 0] + frame.first, "candidate", label="equal")
    traces += not_finite(steps + frame.first, shown, "candidate", name="difference")
    drawn = [values[apart], noise[noise > 0]] if noise is not None else [values[apart]]
    return figure(frame, traces, title="relative difference", log=drawn)


def audits(frame: Frame, audit: LossAudit) -> list[Plot]:
    """Errors of gradient and loss against float64 at the audited steps, with the limit that decided the verdict.

    Args:
        frame: The pair, and how many points a series may have.
        audit: The audit of its losses.
    """
    units = {
        "gradient": audit.unit,
        "loss": np.full(frame.verdict.steps, unit_of_quantity(frame.verdict.pair.candidate, "loss")),
    }
    caption = (
        "The error relative to a float64 reference, of the candidate and of the baseline, each on its own output and "
        "target. Rounding cannot explain an error above the limit. "
        f"{int(audit.audited.sum())} of {frame.verdict.steps} steps were audited."
    )
    drawn = (
        ("gradient", "gradient", "output gradient", audit.gradient),
        ("loss-error", "loss", "loss", audit.loss),
    )
    return [
        Plot(name, f"Error of the {what} against float64", caption, errors)
        for name, key, what, each in drawn
        if (errors := _errors(frame, each, units[key]))
    ]


def _errors(frame: Frame, errors: AuditedErrors, unit: np.ndarray) -> Json | None:
    """The figure of the errors of both sides, relative; None where no error is a positive number.

    Args:
        frame: The pair, and how many points a series may have.
        errors: In u.
        unit: The unit roundoff u at each step; float64[S].
    """
    traces: list[Json] = []
    drawn = []
    for role, values in (("baseline", errors.baseline * unit), ("candidate", errors.candidate * unit)):
        # Only audited steps are thinned, or the gaps between them would take the place of points.
        audited = np.flatnonzero(~np.isnan(values))
        # As positions among the audited steps, which `thin` is given.
        always = np.flatnonzero(np.isin(audited, frame.always))
        steps = audited[thin(values[audited], most=frame.most, always=always.tolist())]
        shown = values[steps]
        seen = np.isfinite(shown) & (shown > 0)
        drawn.append(shown[seen])
        hover = f"{role} %{{y:.3g}}"
        numbers = steps + frame.first
        traces.append(series(numbers[seen], shown[seen], role, name=role, hover=hover, mode="markers"))
        traces += equal(numbers[shown == 0], role, label="0")
        traces += not_finite(numbers, shown, role, name=role)
    if not any(len(each) for each in drawn):
        return None
    line = errors.line * unit
    steps = thin(line, most=frame.most // 2)
    steps = steps[np.isfinite(line[steps])]
    numbers = steps + frame.first
    traces.append(series(numbers, line[steps], "line", name="limit", hover="limit %{y:.3g}"))
    return figure(frame, traces, title="relative error", log=[*drawn, line[steps]])


def shared_steps(frame: Frame, audit: DeviceAudit) -> Plot:
    """Steps of a pair of devices from shared states: the error of each quantity's worst tensor beside the limit.

    Args:
        frame: The pair, and what is marked.
        audit: The candidate's steps from shared states.
    """
    traces: list[Json] = []
    # The limit belongs to the range of the axis even where all errors are far below it.
    drawn = [np.array([audit.line])]
    for quantity in QUANTITIES:
        worst: dict[int, float] = {}
        for error in audit.errors:
            if error.quantity == quantity:
                # The tensor that is closest to its limit speaks for its quantity.
                worst[error.step] = max(worst.get(error.step, 0.0), error.times)
        steps, values = np.array(sorted(worst), np.int64), np.array([worst[step] for step in sorted(worst)])
        if len(steps):
            seen = np.isfinite(values) & (values > 0)
            drawn.append(values[seen])
            hover = f"{quantity} %{{y:.3g}} times the baseline's error"
            mode = "markers"
            traces.append(series(steps[seen], values[seen], quantity, name=quantity, hover=hover, mode=mode))
            traces += equal(steps[values == 0], quantity, label="0")
            traces += not_finite(steps, values, quantity, name=quantity)
    # The limit is the same at all steps, so two points draw it.
    ends = np.array([0, frame.verdict.steps - 1]) + frame.first
    line = series(ends, np.full(2, audit.line), "line", name="limit", hover="limit %{y:.3g} times")
    return Plot(
        "shared",
        "Steps from shared states",
        "At these steps the candidate device took the step that the baseline took, from the baseline's state. Shown is "
        "its error against float64 as a multiple of the baseline's error, for the worst tensor of each quantity. "
        "Rounding cannot explain an error above the limit.",
        figure(frame, [*traces, line], title="times the baseline's error", log=drawn),
    )


def thinned(frame: Frame) -> str:
    """That not all steps are drawn, in a sentence; empty where they are."""
    if frame.verdict.steps <= frame.most:
        return ""
    return (
        f" Of {frame.verdict.steps:,} steps about {frame.most:,} are drawn, among them the first difference, the "
        "extremes of every stretch, NaN and infinity."
    )
