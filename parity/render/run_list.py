"""The runs of a folder as a table."""

from collections.abc import Sequence

from parity.ground.quoting import visible
from parity.store.found_runs import FoundRun

# Most characters of a word that somebody else may have stored.
_MOST = 20
_HEADING = ("began (UTC)", "state", "verdict", "run")


def render(runs: Sequence[FoundRun]) -> str:
    """The runs, a line for each; the path comes last and is never broken, so that it can be copied."""
    rows = [(_time(run.created), run.state, _short(run.verdict) or "-", visible(str(run.path))) for run in runs]
    # Of the last column no width is needed.
    room = [max(len(row[place]) for row in (_HEADING, *rows)) for place in range(3)]
    return "".join(
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(cells, room, strict=True)), path]) + "\n"
        for *cells, path in (_HEADING, *rows)
    )


def _time(created: str) -> str:
    """Date and minute of a time as ISO 8601 has it."""
    return _short(created[:16].replace("T", " ")) or "-"


def _short(text: str) -> str:
    return visible(text if len(text) <= _MOST else f"{text[: _MOST - 1]}…")
