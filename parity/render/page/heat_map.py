"""The heat map of a pair: which quantities and tensors differ at which steps.

Letters: S is the number of steps of the pair, C the number of columns, each of one or more steps.
"""

import numpy as np

from parity.render.differing import Rows
from parity.render.page.figures import Frame, Json, figure, label, pack, series
from parity.render.page.plots import Plot

# Most columns of the picture, each some 3 pixels wide on a wide page; of more steps, several share a column.
MOST_COLUMNS = 300
# Pixels of a row, enough for its label.
_ROW_HEIGHT = 15


def heat_map(frame: Frame, rows: Rows) -> Plot:
    """The heat map, with rows in the order of computation.

    Args:
        frame: The pair that it is of, and what is marked.
        rows: Where its quantities and tensors differ.
    """
    steps = frame.verdict.steps
    # Rounded up, so that there are never more columns than that.
    width = -(-steps // MOST_COLUMNS)
    shares = np.stack([_shares(row.differs, width) for row in rows.shown])
    names = _labels(rows)
    picture: Json = {
        "type": "heatmap",
        "z": pack(shares),
        # The centre of the first column, which covers steps 0 to width - 1.
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
        # The row of the tensor, or that of the whole quantity where its tensors have no rows.
        found = (row.quantity == first.quantity and row.tensor in (None, first.tensor) for row in rows.shown)
        place = [name for name, here in zip(names, found, strict=True) if here][:1]
        mark = series(np.array([first.step]), np.zeros(1), "first", name="first", hover="first difference")
        look = {"symbol": "circle-open", "size": 13}
        traces.append(mark | {"y": place, "mode": "markers", "marker": look, "cliponaxis": False})
    # The same axis of steps, borders and marks as the other plots; only the vertical axis is replaced.
    drawn = figure(frame, traces, title="")
    # Reversed, since Plotly counts from below and the order of computation is read from the top.
    drawn["layout"]["yaxis"] |= {
        "autorange": "reversed",
        "fixedrange": True,
        "showgrid": False,
        "type": "category",
        "dtick": 1,
    }
    drawn["layout"]["showlegend"] = False
    shades = f" A cell covers {width} steps, and is darker the more of them differ." if width > 1 else ""
    left_out = f" {rows.left_out} tensors that differ later are not shown." if rows.left_out else ""
    return Plot(
        "tensors",
        "What differs, step by step",
        "A row for each quantity and parameter tensor, in the order of computation; filled where its bits differ."
        f"{shades} The circle marks the first difference.{left_out}",
        drawn,
        height=130 + _ROW_HEIGHT * len(names),
    )


def _shares(differs: np.ndarray, width: int) -> np.ndarray:
    """The percentage of the steps in each column that differ, at least 1 where any does; uint8[C].

    Args:
        differs: Whether each step differs; bool[S].
        width: Number of steps in a column.
    """
    starts = np.arange(0, len(differs), width)
    counts = np.add.reduceat(differs.astype(np.int64), starts)
    # The last column may cover fewer steps.
    sizes = np.minimum(width, len(differs) - starts)
    # Rounded up, so that one step of many does not become 0, the colour of no difference.
    shares: np.ndarray = np.ceil(100 * counts / sizes).astype(np.uint8)
    return shares


def _labels(rows: Rows) -> list[str]:
    """A short, unique label for each row, since Plotly would draw rows with equal labels as one."""
    found: list[str] = []
    for row in rows.shown:
        name = label(row.name, most=28)
        # Names that were cut to the same label get a number.
        count = sum(each == name or each.startswith(f"{name} (") for each in found)
        found.append(f"{name} ({count + 1})" if count else name)
    return found
