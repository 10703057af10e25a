"""What --format names: the documents that are made of a judged run. Each is loaded when it is asked for."""

import json
import re
import sys
from collections.abc import Callable

from parity.judge.verdict import Judgement
from parity.store.stored_run import StoredRun


def _text(run: StoredRun, judgement: Judgement) -> str:
    """In colour where stdout is a terminal."""
    from rich.console import Console

    from parity.render import terminal

    console = Console()
    with console.capture() as capture:
        terminal.render(run, judgement, console)
    text = re.sub(r" +\n", "\n", capture.get())  # tables are padded
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def _markdown(run: StoredRun, judgement: Judgement) -> str:
    from parity.render import markdown

    return markdown.render(run, judgement)


def _json(run: StoredRun, judgement: Judgement) -> str:  # noqa: ARG001 - all of them are called alike
    from parity.render.summary import summarize

    return json.dumps(summarize(judgement), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _junit(run: StoredRun, judgement: Judgement) -> str:
    from parity.render import junit

    return junit.render(run, judgement)


# Name -> what makes the document.
FORMATS: dict[str, Callable[[StoredRun, Judgement], str]] = {
    "text": _text,
    "markdown": _markdown,
    "json": _json,
    "junit": _junit,
}


def print_report(run: StoredRun, judgement: Judgement, *, form: str = "text") -> None:
    """Prints the report of a judged run to stdout, in one of `FORMATS`."""
    sys.stdout.write(FORMATS[form](run, judgement))
