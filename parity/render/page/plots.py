"""The plots of a pair over its steps: losses, differences, and errors against float64.

Letters: S steps of the pair; K of them that are drawn.
"""

from dataclasses import dataclass

import numpy as np

from parity.judge.decide_device import DeviceAudit
from parity.judge.decide_loss import AuditedErrors, LossAudit
from parity.judge.verdict import Judgement, PairVerdict
from parity.render.page.figures import Frame, Json, equal, figure, not_finite, series
from parity.render.page.thinning import thin
from parity.store.trace import QUANTITIES


@dataclass(frozen=True)
class Plot:
    """A figure with its words.

    Attributes:
        name: In the page's anchors.
        title: Above it.
        caption: Below it: what is drawn, and what it tells.
        figure: For Plotly.js.
        height: In CSS pixels.
    """

    name: str
    title: str
    caption: str
    figure: Json
    height: int = 300


@dataclass(frozen=True)
class NoiseBand:
    """How far rounding alone drives the losses apart: the largest of the noise trials at each step.

    Attributes:
        trials: How many.
        rel: float64[S].
        ulp: float64[S].
    """

    trials: int
    rel: np.ndarray
    ulp: np.ndarray


def noise_band(judgement: Judgement) -> NoiseBand | None:
    """The band of the run's noise trials, over the steps that all of them have; None where there are none."""
    noise = [verdict for verdict in judgement.pairs if verdict.pair.axis == "noise" and verdict.steps]
    if not noise:
        return None
    steps = min(verdict.steps for verdict in noise)
    rel = np.fmax.reduce([verdict.comparison.loss_rel[:steps] for verdict in noise])
    ulp = np.fmax.reduce([verdict.comparison.loss_ulp[:steps] for verdict in noise]).astype(float)
    return NoiseBand(len(noise), rel, ulp)


def losses(frame: Frame) -> Plot:
    """Both losses, one upon the other."""
    traces: list[Json] = []
    sides = frame.verdict.comparison.both("loss")
    for role, values in zip(("baseline", "candidate"), sides, strict=True):
        steps = thin(values, most=frame.most, always=frame.always)
        shown = values[steps]
        finite = np.where(np.isfinite(shown), shown, np.nan)
        traces.append(series(steps, finite, role, name=role, hover=f"{role} %{{y:.{_digits(frame.verdict)}g}}"))
        traces += not_finite(steps, shown, role, name=role)
    return Plot(
        "losses",
        "Losses",
        f"The loss of {frame.verdict.pair.baseline.trial} (baseline) and of {frame.verdict.pair.candidate.trial} "
        f"(candidate) at each step. {_how_far(frame.verdict)}{_borders(frame)}{_thinned(frame)}",
        figure(frame, traces, title="loss"),
    )


def differences(frame: Frame, noise: NoiseBand | None) -> list[Plot]:
    """|difference| of the losses in ulp, and relative to the baseline, with the noise band."""
    ulp = frame.verdict.comparison.loss_ulp.astype(float)
    ulp[ulp < 0] = np.nan
    told = ""
    if noise:
        told = f" The grey area is what rounding alone does: the largest of {noise.trials} noise trials."
    return [
        Plot(
            "ulp",
            "How far the losses are apart, in ulp",
            "|candidate - baseline| of the loss in ulp, the number of floats from one to the other."
            f" Equal losses are in the band at the bottom.{told}",
            _difference(frame, ulp, noise.ulp if noise else None, title="ulp", hover="%{y:d} ulp"),
        ),
        Plot(
            "rel",
            "How far the losses are apart, relative",
            f"|candidate - baseline| / |baseline| of the loss.{told}",
            _difference(
                frame,
                frame.verdict.comparison.loss_rel,
                noise.rel if noise else None,
                title="relative",
                hover="%{y:.4g}",
            ),
        ),
    ]


def _difference(frame: Frame, values: np.ndarray, noise: np.ndarray | None, *, title: str, hover: str) -> Json:
    traces = []
    if noise is not None:
        steps = thin(noise, most=frame.most)
        steps = steps[(noise[steps] > 0) & (steps < len(values))]
        traces.append(series(steps, noise[steps], "noise", name="noise", hover=f"noise {hover}") | {"fill": "tozeroy"})
    begins = np.flatnonzero(values != 0)[:1].tolist()
    steps = thin(values, most=frame.most, always=(*frame.always, *begins))
    shown = values[steps]
    apart = steps[np.isfinite(shown) & (shown > 0)]
    traces.append(series(apart, values[apart], "candidate", name="|difference|", hover=hover, mode="markers"))
    traces += equal(steps[shown == 0], "candidate", label="equal")
    traces += not_finite(steps, shown, "candidate", name="difference")
    drawn = [values[apart], noise[noise > 0]] if noise is not None else [values[apart]]
    return figure(frame, traces, title=title, log=drawn)


def audits(frame: Frame, audit: LossAudit) -> list[Plot]:
    """Errors of gradient and loss against float64 at the audited steps, with the limit that decided the verdict."""
    caption = (
        "The error against float64, in u (unit roundoff), of the candidate and of the baseline, each on its own output "
        "and target. Rounding cannot explain an error above the limit. "
        f"{int(audit.audited.sum())} of {frame.verdict.steps} steps were audited."
    )
    drawn = (("gradient", "output gradient", audit.gradient), ("loss-error", "loss", audit.loss))
    return [
        Plot(name, f"Errors of the {what} against float64", caption, _errors(frame, errors))
        for name, what, errors in drawn
    ]


def _errors(frame: Frame, errors: AuditedErrors) -> Json:
    traces: list[Json] = []
    drawn = []
    for role, values in (("baseline", errors.baseline), ("candidate", errors.candidate)):
        audited = np.flatnonzero(~np.isnan(values))
        always = np.flatnonzero(np.isin(audited, frame.always))
        steps = audited[thin(values[audited], most=frame.most, always=always.tolist())]
        shown = values[steps]
        seen = np.isfinite(shown) & (shown > 0)
        drawn.append(shown[seen])
        hover = f"{role} %{{y:.4g}} u"
        traces.append(series(steps[seen], shown[seen], role, name=role, hover=hover, mode="markers"))
        traces += equal(steps[shown == 0], role, label="0")
        traces += not_finite(steps, shown, role, name=role)
    line = errors.line
    steps = thin(line, most=frame.most // 2)
    steps = steps[np.isfinite(line[steps])]
    traces.append(series(steps, line[steps], "line", name="limit", hover="the limit is %{y:.4g} u"))
    return figure(frame, traces, title="error in u", log=[*drawn, line[steps]])


def shared_steps(frame: Frame, audit: DeviceAudit) -> Plot:
    """Steps of a pair of devices from shared states: the error of each quantity's worst tensor beside the limit."""
    traces: list[Json] = []
    drawn = [np.array([audit.line])]
    for quantity in QUANTITIES:
        worst: dict[int, float] = {}
        for error in audit.errors:
            if error.quantity == quantity:
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
    ends = np.array([0, frame.verdict.steps - 1])
    line = series(ends, np.full(2, audit.line), "line", name="limit", hover="the limit is %{y:.3g} times")
    return Plot(
        "shared",
        "Steps from shared states",
        "At these steps the candidate device took the step that the baseline took, from the baseline's state. Shown is "
        "its error against float64 as a multiple of the baseline's error, for the worst tensor of each quantity. "
        "Rounding cannot explain an error above the limit.",
        figure(frame, [*traces, line], title="times the baseline's error", log=drawn),
    )


def _digits(verdict: PairVerdict) -> int:
    return 17 if verdict.pair.baseline.loss_dtype == "float64" else 9


def _how_far(verdict: PairVerdict) -> str:
    largest = verdict.largest
    if largest.step is None:
        return ""
    if not largest.rel:
        somewhere = verdict.comparison.differs["loss"].any()
        return f"They are equal at every step{' where both are numbers' if somewhere else ''}."
    return f"They are furthest apart at step {largest.step}, by {largest.rel:.2g} of the baseline's."


def _borders(frame: Frame) -> str:
    told = [" Dashed lines are the beginnings of epochs."] if len(frame.epochs) else []
    return "".join([*told, " Dotted lines are partial batches."] if len(frame.partial) else told)


def _thinned(frame: Frame) -> str:
    if frame.verdict.steps <= frame.most:
        return ""
    return (
        f" Of {frame.verdict.steps:,} steps some {frame.most:,} are drawn: the first difference, the extremes of every "
        "stretch, and NaN and infinity among them."
    )
