"""Opens a page in the browser of this machine, if it has one."""

import os
import sys
import webbrowser
from pathlib import Path


def show(page: Path) -> None:
    """Opens a page; says on stderr how to see it where there is no browser."""
    if not _has_browser() or not webbrowser.open(page.resolve().as_uri()):
        print(f"parity: No browser was found to open {page}. Open the file on a machine that has one.", file=sys.stderr)


def _has_browser() -> bool:
    """Whether a browser with a window of its own can be expected; one in the terminal would get the terminal."""
    if sys.platform != "linux":
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
