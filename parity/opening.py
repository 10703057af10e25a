"""parity open DIR: opens the report of a run in a browser."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from parity.ground.command import guarded
from parity.ground.errors import Trouble
from parity.plan.command_options import make_open_parser
from parity.render.browser import show


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return guarded(lambda: open_page(make_open_parser().parse_args(arguments).directory))


def open_page(directory: str) -> int:
    """Opens the page of a run, and prints its path; returns the exit status.

    Args:
        directory: The run directory.

    Raises:
        Trouble: It is not a run directory of this machine, or its page cannot be made.
    """
    if not directory.strip():
        raise Trouble(f"{directory!r} is not a path: it is empty. Give the --out of a run.")
    if "://" in directory:
        raise Trouble(
            f"{directory} is on an object store, which a browser cannot open. "
            f"Write the page here with: parity report {shlex.quote(directory)} --html report.html"
        )
    page = Path(directory) / "report.html"
    if not page.is_file():
        _make(Path(directory))
    print(page)
    show(page)
    return 0


def _make(directory: Path) -> None:
    """Judges a run that has no page, and writes it."""
    # Here, since it takes a moment, and a page that exists is opened at once.
    from parity.render.page import html
    from parity.report import judged
    from parity.store.files import write_text

    write_text(directory / "report.html", html.render(*judged([directory])))


if __name__ == "__main__":
    sys.exit(main())
