"""The plots of a pair over its steps: losses, differences, and errors against float64.

Letters: S is the number of steps of the pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.judge.decide_loss import LossAudit
from parity.judge.verdict import Judgement, PairVerdict
from parity.plan import lines
from parity.render.page.figures import Frame, Json, equal, figure, not_finite, series
from parity.render.page.thinning import thin
from parity.store.trace import QUANTITIES


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
    steps = min(verdict.steps for verdict in noise)
    rel = np.fmax.reduce([verdict.comparison.loss_rel[:steps] for verdict in noise])
    ulp = np.fmax.reduce([verdict.comparison.loss_ulp[:steps] for verdict in noise]).astype(float)
    return NoiseBand(len(noise), rel, ulp)


def losses(frame: Frame) -> Plot:
    """The plot of both losses."""
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
    """The plots of the difference of the losses, in ulp and relative to the baseline, with the noise band."""
    ulp = frame.verdict.comparison.loss_ulp.astype(float)
    ulp[ulp < 0] = np.nan  # -1 stands for a NaN on one side or on both
    band = ""
    if noise:
        band = f" The grey area shows what rounding alone does: the largest difference of {noise.trials} noise trials."
    return [
        Plot(
            "ulp",
            "Difference of the losses in ulp",
            "|candidate - baseline| of the loss in ulp, the number of floating-point values from one to the other."
            f" Equal losses are in the band at the bottom.{band}",
            _difference(frame, ulp, noise.ulp if noise else None, title="ulp", hover="%{y:d} ulp"),
        ),
        Plot(
            "rel",
            "Relative difference of the losses",
            f"|candidate - baseline| / |baseline| of the loss.{band}",
            _difference(
                frame,
                frame.verdict.comparison.loss_rel,
                noise.rel if noise else None,
                title="relative difference",
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
    # Thinning keeps the step at which the losses first differ: a reader looks for it.
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
    """Errors of gradient and loss against float64, with the line of the verdict, at the audited steps."""
    both = frame.verdict.comparison.both
    told = (
        "The error against float64, in u (unit roundoff), of the candidate and of the baseline, each on its own output "
        "and target. Above the line is no rounding."
    )
    some = f" {int(audit.audited.sum())} of {frame.verdict.steps} steps were audited."
    found = (
        ("gradient", "output gradient", both("grad_error_u"), audit.grad_line),
        ("loss-error", "loss", both("loss_error_u"), audit.loss_line),
    )
    return [
        Plot(name, f"Errors of the {what} against float64", told + some, _errors(frame, sides, line))
        for name, what, sides, line in found
    ]


def _errors(frame: Frame, sides: Sequence[np.ndarray], line: np.ndarray) -> Json:
    traces: list[Json] = []
    drawn = []
    for role, values in zip(("baseline", "candidate"), sides, strict=True):
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
    steps = thin(line, most=frame.most // 2)
    steps = steps[np.isfinite(line[steps])]
    traces.append(series(steps, line[steps], "line", name="line of the verdict", hover="the line is %{y:.4g} u"))
    return figure(frame, traces, title="error in u", log=[*drawn, line[steps]])


def shared_steps(frame: Frame, table: pa.Table) -> list[Plot]:
    """Of a pair of devices: its steps from shared states, each quantity's worst tensor beside its line."""
    if not frame.verdict.device_audit:
        return []
    rows = table.filter(pc.equal(table["trial"], frame.verdict.pair.candidate.trial)).to_pylist()
    traces: list[Json] = []
    drawn = [np.array([lines.DEVICE.value])]
    for quantity in QUANTITIES:
        worst: dict[int, float] = {}
        for row in (row for row in rows if row["quantity"] == quantity):
            allowed = max(lines.LEAST_ERROR.value, row["baseline_error_u"], row["spread_u"] or 0)
            error = row["candidate_error_u"] / allowed
            worst[row["step"]] = max(worst.get(row["step"], 0.0), error)
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
    line = series(
        ends, np.full(2, lines.DEVICE.value), "line", name="line of the verdict", hover="the line is %{y:.3g} times"
    )
    return [
        Plot(
            "shared",
            "Steps from shared states",
            "At these steps the candidate device took the step that the baseline took, from the baseline's state. Drawn"
            " is its error against float64 in times of the baseline's own, of each quantity's worst tensor. Above the "
            "line is no rounding.",
            figure(frame, [*traces, line], title="times the baseline's error", log=drawn),
        )
    ]


def _digits(verdict: PairVerdict) -> int:
    # 9 significant digits identify a float32, 17 a float64.
    return 17 if verdict.pair.baseline.loss_dtype == "float64" else 9


def _how_far(verdict: PairVerdict) -> str:
    largest = verdict.largest
    if largest.step is None:
        return ""
    if not largest.rel:
        somewhere = verdict.comparison.differs["loss"].any()
        return f"They are equal at every step{' at which both are numbers' if somewhere else ''}."
    return f"They differ most at step {largest.step}, by {largest.rel:.2g} relative to the baseline."


def _borders(frame: Frame) -> str:
    epochs = " Dashed lines mark the beginnings of epochs." if len(frame.epochs) else ""
    partial = " Dotted lines mark partial batches." if len(frame.partial) else ""
    return epochs + partial


def _thinned(frame: Frame) -> str:
    if frame.verdict.steps <= frame.most:
        return ""
    return (
        f" Of {frame.verdict.steps:,} steps about {frame.most:,} are drawn, among them the first difference, the "
        "extremes of every stretch, NaN and infinity."
    )
