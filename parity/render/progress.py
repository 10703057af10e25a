"""The progress of the trials on stderr: a live bar for each on a terminal, otherwise a line now and then."""

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from parity.render.wrapping import flat

# Seconds between two lines where there is no terminal: often enough to see that the run is alive, and not a long log.
LINE_EVERY_S = 10.0
# Most trials with a bar or an entry of their own, so that the bars fit a small terminal.
MOST_BARS = 12


class TrialProgress:
    """Shows the progress of trials for as long as its `with` block runs.

    Args:
        trials: Names of the trials, in the order of the plan.
        steps: Number of steps of each trial, at least 1.
        quiet: Whether to show nothing.
    """

    def __init__(self, trials: Sequence[str], *, steps: int, quiet: bool = False) -> None:
        # stderr, so that stdout has the report alone and can be piped.
        self._console = Console(stderr=True, quiet=quiet)
        self._steps = steps
        self._done = dict.fromkeys(trials, 0)
        self._ended: set[str] = set()
        self._running: dict[str, None] = {}
        self._began = self._last_line = time.monotonic()
        self._bars = Progress(
            # Without markup: the names of trials contain those of losses, which users choose.
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=self._console,
            # Rich would print the bars once at the end of a log, where lines have been printed already.
            disable=not self._console.is_terminal,
        )
        # Many trials share one bar, whose length is that of all of them together.
        self._one = len(trials) > MOST_BARS
        if self._one:
            bar = self._bars.add_task(f"{len(trials)} trials", total=steps * len(trials), state="")
            self._tasks = dict.fromkeys(trials, bar)
        else:
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
        if state:
            self._ended.add(trial)
            self._running.pop(trial, None)
        else:
            self._running[trial] = None  # a dict keeps the order in which the trials began
        if self._one:
            self._bars.update(self._tasks[trial], advance=advance, state=f"{len(self._ended)} ended")
        else:
            self._bars.update(self._tasks[trial], completed=done, state=state)
        # Monotonic, since the clock of the machine may be set while trials run.
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line > LINE_EVERY_S:
            self._last_line = now
            # Trials that have begun but not made a step yet would only lengthen the line.
            running = [f"{name} {self._done[name]}/{self._steps}" for name in self._running if self._done[name]]
            if len(running) > MOST_BARS:
                running = [f"{len(running)} training"]
            ended = f"{len(self._ended)} of {len(self._done)} trials ended"
            self.say(f"{now - self._began:.0f} s: {'; '.join((ended, *running))}")

    def say(self, line: str) -> None:
        """Prints a line above the bars."""
        # No wrapping, and brackets in names are not markup. What ended a worker may be a text of any length.
        self._console.print(flat(line), soft_wrap=True, markup=False, highlight=False)
