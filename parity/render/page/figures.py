"""The common parts of all plots over steps: packed numbers, bands for values that have no place on the axis, borders.

A figure is what Plotly.js draws: traces and a layout, as JSON. It has no colours: a trace or shape has the name of its
role, and the page gives each role a colour in light and in dark mode.

Letters: S is the number of steps of a pair, K the number of those that are drawn.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from parity.judge.verdict import PairVerdict

Json = dict[str, Any]

# Most epoch borders, and most partial batches, that are drawn; of more, evenly spaced ones are.
MOST_BORDERS = 40
# Most characters of a name in a caption.
_LONGEST = 60
# Labels of the numbers that are not finite, in the order in which their band shows them.
NOT_FINITE = ("-inf", "inf", "NaN")


@dataclass(frozen=True)
class Frame:
    """What every plot of a pair marks, and how many points it may have.

    Attributes:
        verdict: The pair and its verdict.
        most: Approximate number of points that a series may have.
    """

    verdict: PairVerdict
    most: int

    @cached_property
    def always(self) -> tuple[int, ...]:
        """Positions of the steps that every plot shows, however many it leaves out."""
        # What the page's text names must be found in its plots.
        marked = (self.verdict.first, self.verdict.onset)
        steps = {each.step for each in marked if each} | {self.verdict.largest.step, self.verdict.both_nan}
        audit = {self.verdict.audit.step} if self.verdict.audit else set()
        positions = {step - self.first for step in steps | audit if step is not None}
        return tuple(sorted(position for position in positions if 0 <= position < self.verdict.steps))

    @property
    def first(self) -> int:
        """Number of the first step: a recording may continue an earlier one."""
        return self.verdict.comparison.first_step

    @cached_property
    def epochs(self) -> np.ndarray:
        """Number of the first step of each epoch but the first; int64[epochs - 1]."""
        # The first epoch begins at the edge of the plot, so it needs no border.
        epoch = self.verdict.comparison.both("epoch")[1]
        return np.flatnonzero(np.diff(epoch)) + 1 + self.first

    @cached_property
    def partial(self) -> np.ndarray:
        """Numbers of the steps whose batch has fewer rows than the largest; int64[partial batches]."""
        rows = self.verdict.comparison.both("rows")[1]
        return np.flatnonzero(rows < rows.max()) + self.first if len(rows) else np.empty(0, np.int64)


def pack(values: np.ndarray) -> Json:
    """Numbers in the base64 form that Plotly.js reads; floats in the narrowest dtype that is exact.

    Args:
        values: float64, int64 or uint8, of one or two dimensions.

    Returns:
        The dtype, the bytes (little-endian, in base64) and, for a matrix, the shape.
    """
    if values.dtype.kind == "f":
        # A float64 above the range of float32 becomes infinite, which the comparison below notices.
        with np.errstate(over="ignore"):
            narrow = values.astype("<f4")
        kind = "f4" if np.array_equal(narrow, values, equal_nan=True) else "f8"
    else:
        # Steps as int32: Plotly.js reads no 64-bit integers.
        kind = "u1" if values.dtype == np.uint8 else "i4"
    packed: Json = {"dtype": kind, "bdata": base64.b64encode(values.astype(f"<{kind}").tobytes()).decode()}
    # Plotly.js takes the shape of a matrix as text; a single row of numbers has none.
    return packed | {"shape": ",".join(map(str, values.shape))} if values.ndim > 1 else packed


def pack_steps(steps: np.ndarray) -> Json:
    """Numbers of steps in the form that report.js reads: those without a gap as their first number and their count.

    Args:
        steps: In ascending order; int64[K].
    """
    if len(steps) > 1 and steps[-1] - steps[0] == len(steps) - 1:
        return {"first": int(steps[0]), "count": len(steps)}
    return pack(steps)


def series(steps: np.ndarray, values: np.ndarray, role: str, *, name: str, hover: str, mode: str = "lines") -> Json:
    """A series on the main axis.

    Args:
        steps: Numbers of the steps; int64[K].
        values: The values, where NaN makes a gap; float64[K].
        role: The role that decides the colour.
        name: The name in the legend.
        hover: What hovering shows after the step, as a hovertemplate of Plotly.
        mode: "lines" or "markers".
    """
    return {
        "type": "scatter",
        "mode": mode,
        "x": pack_steps(steps),
        "y": pack(values),
        "name": name,
        "meta": role,
        # Hovering shows all series of a step below its number. The empty <extra> removes the name that Plotly repeats.
        "hovertemplate": f"{hover}<extra></extra>",
    }


def not_finite(steps: np.ndarray, values: np.ndarray, role: str, *, name: str) -> list[Json]:
    """Marks in the band at the top for numbers that are NaN or infinite; empty where all are finite.

    Args:
        steps: Numbers of the steps; int64[K].
        values: The values; float64[K].
        role: The role that decides the colour.
        name: The name of the series, for hovering.
    """
    kinds = (np.isneginf(values), np.isposinf(values), np.isnan(values))
    return [
        _in_band(steps[kind], "y2", label, role, name=name, symbol="x", hover=f"{name} is {label} at step %{{x:,d}}")
        # Each kind has a line of its own in the band, in this order.
        for label, kind in zip(NOT_FINITE, kinds, strict=True)
        if kind.any()
    ]


def equal(steps: np.ndarray, role: str, *, label: str) -> list[Json]:
    """Marks in the band at the bottom for steps whose value is 0, which has no place on a logarithmic axis.

    Args:
        steps: Numbers of the steps; int64[K].
        role: The role that decides the colour.
        label: What a value of 0 means, in a word.
    """
    # An empty trace would still make room for the band.
    if not len(steps):
        return []
    return [_in_band(steps, "y3", label, role, name=label, symbol="line-ns-open", hover=f"{label} at step %{{x:,d}}")]


def _in_band(steps: np.ndarray, axis: str, label: str, role: str, *, name: str, symbol: str, hover: str) -> Json:
    """Marks in a band, all in the line with this label."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": pack_steps(steps),
        # The axis of a band has categories, so its values are texts.
        "y": [label] * len(steps),
        "yaxis": axis,
        "name": name,
        "meta": role,
        "marker": {"symbol": symbol, "size": 8},
        "showlegend": False,
        "hovertemplate": f"{hover}<extra></extra>",
    }


def figure(frame: Frame, traces: Sequence[Json], *, title: str, log: Sequence[np.ndarray] = ()) -> Json:
    """A figure of traces over steps, with bands where they are needed, borders and marks.

    Args:
        frame: What is marked for the pair.
        traces: The series to draw.
        title: Title of the main axis.
        log: The positive numbers that a logarithmic axis must hold; empty for a linear axis.
    """
    # The main axis leaves room for the bands that some trace uses.
    axes = {trace.get("yaxis", "y") for trace in traces}
    bottom, top = 0.1 if "y3" in axes else 0.0, 0.86 if "y2" in axes else 1.0
    main: Json = {"title": {"text": title}, "domain": [bottom, top], "automargin": True}
    # Plotly finds the range of a linear axis by itself.
    if log:
        main |= {"type": "log", "exponentformat": "e"} | _decades(np.concatenate(log))
    layout: Json = {
        "xaxis": {
            "title": {"text": "step", "standoff": 8},
            "unifiedhovertitle": {"text": "step %{x:,d}"},
            # Half a step more at both ends, so that the marks of the first and last step are whole. Fixed, so that all
            # plots of a pair have the same steps above each other.
            "range": [frame.first - 0.5, frame.first + frame.verdict.steps - 0.5],
            "anchor": "free",
        },
        "yaxis": main,
        "shapes": [*_borders(frame), *_onset(frame)],
        "annotations": _marks(frame),
        "hovermode": "x unified",
        # With what the bands of the same plot show at this step.
        "hoversubplots": "axis",
    }
    band: Json = {"type": "category", "fixedrange": True, "automargin": True, "showgrid": False}
    if "y2" in axes:
        # Only the kinds that occur have a line, so that the band has no empty ones.
        there = {trace["y"][0] for trace in traces if trace.get("yaxis") == "y2"}
        order = [label for label in NOT_FINITE if label in there]
        layout["yaxis2"] = band | {"domain": [0.9, 1.0], "categoryorder": "array", "categoryarray": order, "dtick": 1}
    if "y3" in axes:
        layout["yaxis3"] = band | {"domain": [0.0, 0.06]}
    return {"data": [*traces], "layout": layout}


def _decades(numbers: np.ndarray) -> Json:
    """The range of an axis in whole decades, and the number of decades from tick to tick."""
    # A distance relative to zero is infinite, and has no decade; nor has zero.
    numbers = numbers[np.isfinite(numbers) & (numbers > 0)]
    low, high = (np.log10([numbers.min(), numbers.max()]) if len(numbers) else np.array([0.0, 1.0])).tolist()
    # At least one decade, even where all numbers are equal.
    low, high = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    # A tenth of a decade of room for marks at the ends; about seven ticks, at whole decades.
    return {"range": [low - 0.1, high + 0.1], "dtick": -(-(high - low) // 7)}


def _borders(frame: Frame) -> list[Json]:
    """Lines at the borders of epochs and at partial batches, evenly spaced ones where there are many."""
    # An epoch begins between two steps; a partial batch is a step.
    found = [("epoch", frame.epochs - 0.5), ("partial", frame.partial)]
    return [
        _upright(float(place), name)
        for name, places in found
        for place in places[:: max(1, -(-len(places) // MOST_BORDERS))]
    ]


def _onset(frame: Frame) -> list[Json]:
    return [_upright(float(frame.verdict.onset.step), "beyond")] if frame.verdict.onset else []


def _marks(frame: Frame) -> list[Json]:
    """Labels of the first difference and of the onset, each in a line of its own above the plot."""
    labelled = [("first difference", frame.verdict.first), ("more than rounding", frame.verdict.onset)]
    marks: list[Json] = []
    for row, (text, found) in enumerate(labelled):
        if found:
            # The label extends towards the middle of the plot, so that it is not cut off at an edge.
            early = found.step - frame.first < frame.verdict.steps / 2
            place = {"x": found.step, "y": 1.0, "yref": "paper", "yshift": 4 + 15 * row}
            side = {"xanchor": "left" if early else "right", "yanchor": "bottom", "align": "left"}
            arrow = "▾ {}" if early else "{} ▾"
            # The name decides the colour, as with traces and shapes.
            marks.append({"text": arrow.format(f"{text}, step {found.step}"), "name": text, "showarrow": False})
            marks[-1] |= place | side
    return marks


def short(name: str, *, most: int = _LONGEST) -> str:
    """A name in one line, for a caption in which a very long one would hide what is said."""
    line = " ".join(name.split())
    # The middle is left out, so that both ends of a long name can be read.
    return line if len(line) <= most else f"{line[: most // 2 - 1]}…{line[-(most // 2) :]}"


def _upright(place: float, name: str) -> Json:
    """A vertical line through the whole plot, behind its points."""
    return {"type": "line", "name": name, "x0": place, "x1": place, "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}


def label(name: str, *, most: int) -> str:
    r"""A name for a figure: one line of at most `most` characters, with markup as text.

    >>> label("a\n<b>" + "x" * 40, most=20)
    'a &lt;b&gt;xxxx…xxxxxxxxxx'
    """
    # Plotly draws some HTML in labels. `&` first, since the other escapes contain it.
    return short(name, most=most).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
