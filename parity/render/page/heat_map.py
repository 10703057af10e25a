"""Step x tensor: what differs where, as a picture and as a table.

Letters: S steps of the pair; R rows of the picture, one for each quantity or tensor; C columns, of one or more
steps.
"""

import numpy as np

from parity.render.differing import Rows
from parity.render.page.figures import Frame, Json, figure, label, pack, series
from parity.render.page.plots import Plot

MOST_COLUMNS = 300
_ROW_HEIGHT = 15


def heat_map(frame: Frame, rows: Rows) -> Plot:
    """What differs at which step: rows in the order of the chain."""
    steps = frame.verdict.steps
    width = -(-steps // MOST_COLUMNS)
    shares = np.stack([_shares(row.differs, width) for row in rows.shown])
    names = _labels(rows)
    picture: Json = {
        "type": "heatmap",
        "z": pack(shares),
        "x0": (width - 1) / 2,
        "dx": width,
        "y": names,
        "zmin": 0,
        "zmax": 100,
        "showscale": False,
        "meta": "heat",
        "hovertemplate": "%{y}<br>"
        + (f"{width} steps around %{{x:d}}: %{{z}} % of them differ" if width > 1 else "step %{x:d}: %{z} % differs")
        + "<extra></extra>",
    }
    traces = [picture]
    first = frame.verdict.first
    if first:
        found = (row.quantity == first.quantity and row.tensor in (None, first.tensor) for row in rows.shown)
        place = [name for name, here in zip(names, found, strict=True) if here][:1]
        mark = series(np.array([first.step]), np.zeros(1), "first", name="first", hover="first difference")
        look = {"symbol": "circle-open", "size": 13}
        traces.append(mark | {"y": place, "mode": "markers", "marker": look, "cliponaxis": False})
    drawn = figure(frame, traces, title="")
    drawn["layout"]["yaxis"] |= {
        "autorange": "reversed",
        "fixedrange": True,
        "showgrid": False,
        "type": "category",
        "dtick": 1,
    }
    drawn["layout"]["showlegend"] = False
    left_out = f" {rows.left_out} tensors that differ later are left out." if rows.left_out else ""
    return Plot(
        "tensors",
        "What differs, step by step",
        "A row for each quantity and parameter tensor, in the order of computation; filled where its bits differ."
        f" The circle is the first difference.{left_out}",
        drawn,
        height=130 + _ROW_HEIGHT * len(names),
    )


def _shares(differs: np.ndarray, width: int) -> np.ndarray:
    """Per cent of the steps of each column that differ, at least 1 where any does; uint8[C]."""
    starts = np.arange(0, len(differs), width)
    counts = np.add.reduceat(differs.astype(np.int64), starts)
    sizes = np.minimum(width, len(differs) - starts)
    shares: np.ndarray = np.ceil(100 * counts / sizes).astype(np.uint8)
    return shares


def _labels(rows: Rows) -> list[str]:
    """Of each row a short name that no other has, since rows of one name would be one."""
    found: list[str] = []
    for row in rows.shown:
        name = label(row.name, most=28)
        count = sum(each == name or each.startswith(f"{name} (") for each in found)
        found.append(f"{name} ({count + 1})" if count else name)
    return found
