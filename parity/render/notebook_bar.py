"""The progress of a check in a notebook: one bar of tqdm for all trials, which names the phase and goes at the end."""

from __future__ import annotations

import sys
import warnings
from types import TracebackType
from typing import Any


def make_bar() -> NotebookBar | None:
    """A bar, or None where tqdm is not installed."""
    try:
        with warnings.catch_warnings():
            # Without ipywidgets it warns, and shows a bar of text.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm
    except ModuleNotFoundError:
        return None
    return NotebookBar(tqdm)


class NotebookBar:
    """A bar of tqdm that is shown for as long as its `with` block runs.

    Args:
        tqdm: The class of bars for this notebook, with widgets or of text.
    """

    def __init__(self, tqdm: Any) -> None:
        # Not kept: below it comes the result. Twice a second, as each change is a message to the browser.
        self._bar = tqdm(total=1, desc="starting", bar_format="{desc} [{elapsed}]", leave=False, mininterval=0.5)

    def __enter__(self) -> NotebookBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def enter(self, phase: str) -> None:
        """Shows which phase the check is in."""
        self._bar.set_description_str(phase)

    def show(self, done: int, total: int, left: str) -> None:
        """Shows how many steps of all trials are done.

        Args:
            done: Number of steps; less than before where a trial begins again.
            total: Number of steps of all trials.
            left: The time that is left in words; "" if it is not known.
        """
        # The time that is left is that of all trials, as on a terminal, and not what tqdm makes of the last steps.
        self._bar.bar_format = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps [{elapsed}{postfix}]"
        self._bar.total = total
        self._bar.set_postfix_str(left, refresh=False)
        self._bar.update(done - self._bar.n)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(line, file=sys.stderr)
