"""The progress of the trials on stderr: live bars on a terminal or in a notebook, otherwise a line now and then."""

import importlib.util
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from parity.ground import phases
from parity.render.notebook_bar import NotebookBar
from parity.render.wrapping import flat

# Seconds between two lines where there is no terminal: often enough to see that the run is alive, and not a long log.
LINE_EVERY_S = 10.0
# Most trials with a bar or an entry of their own, so that the bars fit a small terminal.
MOST_BARS = 12
# Seconds of training after which the time that is left can be estimated.
ESTIMATE_AFTER_S = 1.0


class TrialProgress:
    """Shows the progress of trials for as long as its `with` block runs.

    Args:
        trials: Names of the trials, in the order of the plan.
        steps: Number of steps of each trial, at least 1.
        quiet: Whether to show nothing.
        bar: The bar of a notebook, in which to show it instead; it is the caller's.
    """

    def __init__(
        self, trials: Sequence[str], *, steps: int, quiet: bool = False, bar: NotebookBar | None = None
    ) -> None:
        self._bar = bar
        # stderr, so that stdout has the report alone and can be piped.
        self._console = Console(stderr=True, quiet=quiet or bar is not None)
        self._steps = steps
        self._done = dict.fromkeys(trials, 0)
        self._ended: set[str] = set()
        # Steps of all trials that are done, and those that are left of trials that have not ended.
        self._all_done, self._all_left = 0, steps * len(trials)
        self._running: dict[str, None] = {}
        # In a notebook, Rich changes what it has shown with the widgets of this package.
        widgets = not self._console.is_jupyter or importlib.util.find_spec("ipywidgets") is not None
        self._live = is_live(self._console) and widgets
        self._last_line = time.monotonic()
        # When the first step was done, on the monotonic clock, and how many steps were done then.
        self._first_step: tuple[float, int] | None = None
        self._bars = Progress(
            # Without markup: the names of trials contain those of losses, which users choose.
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=self._console,
            # Rich would print the bars once at the end of a log, where lines have been printed already.
            disable=not self._live or bar is not None,
        )
        # The estimate is one for the whole run, so it has a bar of its own unless there is only one bar.
        self._all = self._bars.add_task("training", total=steps * len(trials), state="") if len(trials) > 1 else None
        # Many trials share one bar, whose length is that of all of them together.
        self._one = len(trials) > MOST_BARS
        self._tasks = {}
        if not self._one:
            self._tasks = {trial: self._bars.add_task(flat(trial), total=steps, state="waiting") for trial in trials}

    def __enter__(self) -> "TrialProgress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, trial: str, done: int, *, state: str = "") -> None:
        """Shows how many steps of a trial are done.

        Args:
            trial: Its name.
            done: Number of steps; less than before where a trial begins again.
            state: The status of a trial that has ended, else empty.
        """
        # Negative where a trial begins again after its worker was lost: the bar goes back with it.
        advance = done - self._done[trial]
        self._done[trial] = done
        self._all_done += advance
        if trial not in self._ended:
            # A trial that has failed takes no more steps.
            self._all_left -= advance + (self._steps - done if state else 0)
        if state:
            self._ended.add(trial)
            self._running.pop(trial, None)
        else:
            self._running[trial] = None  # a dict keeps the order in which the trials began
        # Monotonic, since the clock of the machine may be set while trials run.
        now = time.monotonic()
        left = self._time_left(now)
        if self._bar:
            self._bar.show(self._all_done, self._steps * len(self._done), left)
            return
        if trial in self._tasks:
            only = left if self._all is None and not state else ""
            self._bars.update(self._tasks[trial], completed=done, state=state or only)
        if self._all is not None:
            ended = f"{len(self._ended)} of {len(self._done)} ended"
            self._bars.update(self._all, advance=advance, state=", ".join(filter(None, (ended, left))))
        if not self._live and now - self._last_line > LINE_EVERY_S:
            self._last_line = now
            # Trials that have begun but not made a step yet would only lengthen the line.
            running = [f"{name} {self._done[name]}/{self._steps}" for name in self._running if self._done[name]]
            if len(running) > MOST_BARS:
                running = [f"{len(running)} training"]
            ended = f"{len(self._ended)} of {len(self._done)} trials ended"
            self.say(f"{phases.elapsed_s():.0f} s: {'; '.join(filter(None, (ended, *running, left)))}")

    def say(self, line: str) -> None:
        """Prints a line above the bars."""
        if self._bar:
            self._bar.say(flat(line))
            return
        # No wrapping, and brackets in names are not markup. What ended a worker may be a text of any length.
        self._console.print(flat(line), soft_wrap=True, markup=False, highlight=False)

    def _time_left(self, now: float) -> str:
        """How long all trials together will take at the pace that they have had so far; "" if that is not known."""
        if self._first_step is None:
            self._first_step = (now, self._all_done) if self._all_done else None
            return ""
        took, steps = now - self._first_step[0], self._all_done - self._first_step[1]
        if took < ESTIMATE_AFTER_S or steps <= 0 or self._all_left <= 0:
            return ""
        return f"about {_duration(self._all_left * took / steps)} left"


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows more than text."""
    return Console().is_jupyter


def is_live(console: Console) -> bool:
    """Whether what the console has shown can be changed: on a terminal, and in a notebook."""
    return console.is_terminal or console.is_jupyter


def _duration(seconds: float) -> str:
    """Some seconds in words.

    >>> [_duration(seconds) for seconds in (0.4, 59, 100, 3600, 90_000)]
    ['1 s', '59 s', '2 min', '1 h 00 min', '25 h 00 min']
    """
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
