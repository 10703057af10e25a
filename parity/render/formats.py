"""The documents that --format offers, made of a judged run.

Each is made by a module of its own, which is imported when its document is asked for: a run that prints text does not
load what Markdown needs.
"""

import sys
from collections.abc import Callable

from parity.ground.streams import encodable
from parity.judge.verdict import Judgement
from parity.store.stored_run import StoredRun


def _text(run: StoredRun, judgement: Judgement) -> str:
    from parity.render import terminal

    return terminal.render_text(run, judgement)


def _markdown(run: StoredRun, judgement: Judgement) -> str:
    from parity.render import markdown

    return markdown.render(run, judgement)


def _json(run: StoredRun, judgement: Judgement) -> str:  # noqa: ARG001 - the formats share one signature
    from parity.render import summary

    return summary.render(judgement)


def _junit(run: StoredRun, judgement: Judgement) -> str:
    from parity.render import junit

    return junit.render(run, judgement)


# By name, the function that makes the document.
FORMATS: dict[str, Callable[[StoredRun, Judgement], str]] = {
    "text": _text,
    "markdown": _markdown,
    "json": _json,
    "junit": _junit,
}


def print_report(run: StoredRun, judgement: Judgement, *, form: str = "text") -> None:
    """Prints the report of a judged run to stdout, in one of `FORMATS`.

    Args:
        run: The stored run.
        judgement: Its judgement.
        form: Name of the format.
    """
    # Each document ends with its own line break.
    sys.stdout.write(encodable(FORMATS[form](run, judgement), getattr(sys.stdout, "encoding", None), form))
