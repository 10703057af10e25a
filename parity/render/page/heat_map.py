"""The heat map of a pair: which quantities and tensors differ at which steps, and how far they are apart.

Letters: S is the number of steps of the pair, C the number of columns, each of one or more steps.
"""

import numpy as np

from parity.render.differing import Rows
from parity.render.page.figures import Frame, Json, figure, label, pack, series
from parity.render.page.plots import Plot

# Most columns of the picture, each some 3 pixels wide on a wide page; of more steps, several share a column.
MOST_COLUMNS = 300
# A page of many pairs, whose series have few points, has fewer columns too: so many for each point.
_PER_POINT = 2
# Pixels of a row, enough for its label.
_ROW_HEIGHT = 15
# A distance is stored in a byte, to keep the page small: 1 is 1e-12 or less, and each further step is a sixteenth of a
# decade, up to 7e3 and more; 0 is equal. report.js reads it.
LEAST_DECADE, PER_DECADE = -12, 16


def heat_map(frame: Frame, rows: Rows) -> Plot:
    """The heat map, with rows in the order of computation.

    Args:
        frame: The pair that it is of, and what is marked.
        rows: Where its quantities and tensors differ.
    """
    steps = frame.verdict.steps
    # Rounded up, so that there are never more columns than that.
    width = -(-steps // min(MOST_COLUMNS, _PER_POINT * frame.most))
    names = _labels(rows)
    pictures = _pictures(frame, rows, names, width)
    # The same axis of steps, borders and marks as the other plots; only the vertical axis is replaced.
    drawn = figure(frame, [*pictures, *_mark(frame, rows, names)], title="")
    # Reversed, since Plotly counts from below and the order of computation is read from the top.
    drawn["layout"]["yaxis"] |= {
        "autorange": "reversed",
        "fixedrange": True,
        "showgrid": False,
        "type": "category",
        "dtick": 1,
        # In the order of computation, also where one picture lacks some of the rows.
        "categoryorder": "array",
        "categoryarray": names,
    }
    drawn["layout"] |= {"showlegend": False, "hovermode": "closest"}
    return Plot(
        "tensors",
        "What differs, step by step",
        _caption(rows, width, known=any(each["meta"] == "far" for each in pictures)),
        drawn,
        height=150 + _ROW_HEIGHT * len(names),
    )


def _pictures(frame: Frame, rows: Rows, names: list[str], width: int) -> list[Json]:
    """Two pictures in one: rows of which only equal or not is known, and rows of which the distance is."""
    # The centre of the first column, which covers the first `width` steps.
    columns: Json = {"x0": frame.first + (width - 1) / 2, "dx": width, "showscale": False}
    where = f"{width} steps around %{{x:d}}" if width > 1 else "step %{x:d}"
    traces: list[Json] = []
    shares = {name: row for name, row in zip(names, rows.shown, strict=True) if row.distance is None}
    if shares:
        traces.append(
            columns
            | {
                "type": "heatmap",
                "z": pack(np.stack([_shares(row.differs, width) for row in shares.values()])),
                "y": [*shares],
                "zmin": 0,
                "zmax": 100,
                "meta": "heat",
                "hovertemplate": "%{y}<br>"
                f"{where}: {'%{z} % of them differ' if width > 1 else '%{text}'}<extra></extra>",
            }
        )
    known = {
        name: _furthest(row.distance, row.differs, width)
        for name, row in zip(names, rows.shown, strict=True)
        if row.distance is not None
    }
    if known:
        traces.append(
            columns
            | {
                "type": "heatmap",
                "z": pack(np.stack([*known.values()])),
                "y": [*known],
                "meta": "far",
                "showscale": True,
                "hovertemplate": f"%{{y}}<br>{where}: %{{text}}<extra></extra>",
            }
        )
    return traces


def _mark(frame: Frame, rows: Rows, names: list[str]) -> list[Json]:
    """A circle around the first difference; nothing where there is none, or it has no row."""
    first = frame.verdict.first
    # The row of the tensor, or that of the whole quantity where its tensors have no rows.
    place = [
        name
        for name, row in zip(names, rows.shown, strict=True)
        if first and row.quantity == first.quantity and row.tensor in (None, first.tensor)
    ][:1]
    if not first or not place:
        return []
    mark = series(np.array([first.step]), np.zeros(1), "first", name="first", hover="first difference, step %{x}")
    look = {"symbol": "circle-open", "size": 13}
    return [mark | {"y": place, "mode": "markers", "marker": look, "cliponaxis": False}]


def _caption(rows: Rows, width: int, *, known: bool) -> str:
    """How to read the heat map.

    Args:
        rows: Where quantities and tensors differ.
        width: Number of steps in a column.
        known: Whether any distance is known.
    """
    colour = (
        "Light cells are equal; the colour shows how far apart the two sides are, on a logarithmic scale (a tensor "
        "relative to its whole quantity). Grey cells differ by an amount that is not stored."
        if known
        else "Light cells are equal; grey cells differ by an amount that is not stored."
    )
    if width > 1:
        furthest = " It shows the largest distance, or is darker the more of them differ." if known else ""
        colour += f" A cell covers {width} steps.{furthest or ' It is darker the more of them differ.'}"
    left_out = f" {rows.left_out} tensors that differ later are not shown." if rows.left_out else ""
    return (
        f"A row for each quantity and parameter tensor, in the order of computation. {colour} "
        f"The circle marks the first difference.{left_out}"
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


def _furthest(distance: np.ndarray, differs: np.ndarray, width: int) -> np.ndarray:
    """The largest distance in each column as a byte, on a logarithmic scale; uint8[C], 0 where no bit differs.

    Args:
        distance: The distance at each step; float64[S].
        differs: Whether any bit differs there; bool[S].
        width: Number of steps in a column.
    """
    # A distance beside a NaN is larger than any other. One that is 0 where bits differ is less than any other.
    size = np.clip(np.where(np.isnan(distance), np.inf, distance), 10.0**LEAST_DECADE, 1e100)
    bytes_of = np.clip(np.round(1 + PER_DECADE * (np.log10(size) - LEAST_DECADE)), 1, 255)
    furthest: np.ndarray = np.maximum.reduceat(
        np.where(differs, bytes_of, 0).astype(np.uint8), np.arange(0, len(distance), width)
    )
    return furthest


def _labels(rows: Rows) -> list[str]:
    """A short, unique label for each row, since Plotly would draw rows with equal labels as one."""
    found: list[str] = []
    for row in rows.shown:
        name = label(row.name, most=28)
        # Names that were cut to the same label get a number.
        count = sum(each == name or each.startswith(f"{name} (") for each in found)
        found.append(f"{name} ({count + 1})" if count else name)
    return found
