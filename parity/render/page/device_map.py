"""A map of a fleet: a square for each device, class by class, with marks on the odd ones."""

from collections.abc import Sequence

import numpy as np

from parity.judge.fleet import DeviceClass
from parity.judge.verdict import Judgement
from parity.render.page.figures import Json, label, pack
from parity.render.page.plots import Plot
from parity.store.stored_run import StoredRun

# States of a device, from those that need no attention to those that do.
STATES = ("equal", "other code", "unfinished", "no majority", "odd")
# Squares in a row, as many as a wide page shows at a size that can be pointed at.
_WIDTH = 50
# Most devices whose names are on the map, to limit the size of the page.
_MOST_NAMES = 500


def states(run: StoredRun, each: DeviceClass) -> dict[str, str]:
    """The state of each device of a class, one of `STATES`.

    Args:
        run: The stored run.
        each: The class.
    """
    # Later states replace earlier ones, so the gravest comes last.
    found = dict.fromkeys(each.devices, "equal") | dict.fromkeys(each.apart, "other code")
    for record in run.trials:
        if record.unit in found and record.status != "complete" and not record.noise:
            found[record.unit] = "unfinished"
    for vote in each.votes:
        if not vote.decided:
            # The groups after the largest one: they differ from it, but no group is known to be wrong.
            found |= {record.unit: "no majority" for group in vote.groups[1:] for record in group}
    return found | {unit.device: "odd" for unit in each.odd}


def device_map(run: StoredRun, judgement: Judgement) -> Plot:
    """The map: 50 squares in a row, and a new row for each class.

    Args:
        run: The stored run.
        judgement: Its judgement.
    """
    rows: list[np.ndarray] = []
    ticks: dict[int, str] = {}
    marked: list[tuple[int, int, str]] = []
    for each in judgement.fleet.classes:
        ticks[len(rows)] = f"class {each.label}"
        found = states(run, each)
        for start in range(0, len(each.devices), _WIDTH):
            devices = each.devices[start : start + _WIDTH]
            # 0 is an empty square, so that all rows are equally wide; states begin at 1.
            row = np.full(_WIDTH, 0, np.uint8)
            row[: len(devices)] = [1 + STATES.index(found[device]) for device in devices]
            marked += [(n, len(rows), f"{device}: {found[device]}") for n, device in enumerate(devices)]
            rows.append(row)
    # A small fleet has no empty columns at its right.
    wide = min(_WIDTH, max(len(each.devices) for each in judgement.fleet.classes))
    picture: Json = {
        "type": "heatmap",
        "z": pack(np.stack(rows)[:, :wide]),
        "zmin": 0,
        "zmax": len(STATES),
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
        "meta": "devices",
        # The squares are a picture only; the invisible marks above them have the names.
        "hoverinfo": "skip",
    }
    names = _names(marked)
    axis: Json = {"fixedrange": True, "showgrid": False, "zeroline": False}
    layout: Json = {
        "xaxis": axis | {"showticklabels": False},
        # Plotly counts rows from below; the first class belongs at the top.
        "yaxis": axis | {"autorange": "reversed", "tickvals": [*ticks], "ticktext": [*ticks.values()]},
        "showlegend": False,
        "hovermode": "closest",
    }
    target = "a square" if len(marked) <= _MOST_NAMES else "a cross"
    return Plot(
        "devices",
        "Map of the devices",
        "A square for each device, class by class, in the order of the plan; a cross marks each device that is not "
        f"equal to the majority of its class. Hover over {target} to see its name.",
        {"data": [picture, names], "layout": layout},
        height=110 + 26 * len(rows),
    )


def _names(marked: Sequence[tuple[int, int, str]]) -> Json:
    """The marks above the squares, which show the names of their devices to a pointer.

    Args:
        marked: Column, row, and name with state of each device.
    """
    # In a fleet of many devices only those that are not equal have names.
    named = [mark for mark in marked if len(marked) <= _MOST_NAMES or not mark[2].endswith(": equal")][:_MOST_NAMES]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x for x, _, _ in named],
        "y": [y for _, y, _ in named],
        "text": [label(text, most=80) for _, _, text in named],
        "meta": "names",
        "marker": {
            "symbol": "x-thin-open",
            "size": 9,
            # An invisible mark still shows its name to a pointer.
            "opacity": [float(not text.endswith(": equal")) for _, _, text in named],
        },
        "hovertemplate": "%{text}<extra></extra>",
    }
