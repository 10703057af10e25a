"""The phases of a command: what it waits for, when, and for how long; what `--verbose` prints.

A command is in one phase at a time, which is what its main thread waits for. What goes on beside it, in a thread or in
other processes, is a span: it has its times, and nobody waits for it until its phase is entered.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

Phase: TypeAlias = Literal[
    "imports", "plan", "Ray", "workers", "contract", "training", "files", "judging", "end of Ray"
]

# What each phase is, as --verbose and the documentation explain it, in the order in which they usually come.
MEANINGS: dict[Phase, str] = {
    "imports": "Python and its packages",
    "plan": "names, options and the task's data",
    "Ray": "Ray starts, or the cluster is joined",
    "workers": "from the first request to the first trial that has begun",
    "contract": "the losses are checked; the first step follows",
    "training": "from the first step to the last event of a trial",
    "files": "tables, run.json, the page",
    "judging": "the verdicts, and the report",
    "end of Ray": "Ray's processes end",
}


# Longest time from the start of a process to that of its command, which takes Python 0.2 s. An older one was a shell:
# the last command of `bash -c "… && …"` takes its place, and its age with it.
LONGEST_START_S = 5.0


@dataclass
class Times:
    """When a phase was, in seconds since the command began.

    Attributes:
        from_s: When it began first.
        to_s: When it ended last.
        waited_s: How long the command waited for it.
    """

    from_s: float
    to_s: float
    waited_s: float = 0.0


@dataclass
class _Clock:
    """The phases of this process.

    Attributes:
        began_s: When the command began, as `time.monotonic` has it.
        quiet: Whether no phase is announced.
        now: The phase that the command is in, or None.
        since_s: When it was entered, in seconds since the command began.
        times: The phases so far, in the order in which they began.
        show: What is called with each phase that is entered, or None.
    """

    began_s: float = field(default_factory=time.monotonic)
    quiet: bool = True
    now: Phase | None = None
    since_s: float = 0.0
    times: dict[Phase, Times] = field(default_factory=dict)
    show: Callable[[Phase], None] | None = None


_clock = _Clock()


def begin(*, process: bool, quiet: bool) -> None:
    """Begins a command, in the phase "imports".

    Args:
        process: Whether the command began with this process; otherwise it begins now.
        quiet: Whether to announce no phase.
    """
    age_s = process_age_s() if process else 0.0
    began_s = time.monotonic() - (age_s if age_s < LONGEST_START_S else 0.0)
    vars(_clock).update(vars(_Clock(began_s=began_s, quiet=quiet)))
    enter("imports")
    _clock.since_s = _clock.times["imports"].from_s = 0.0


def elapsed_s() -> float:
    """Seconds since the command began."""
    return time.monotonic() - _clock.began_s


def process_age_s() -> float:
    """Seconds since this process began."""
    if sys.platform != "linux":
        import psutil

        return time.time() - psutil.Process().create_time()
    # psutil reckons from the time of the start of the system, which Linux has in whole seconds.
    # Source: man 5 proc_pid_stat, field 22, in ticks since then; the name before it may have spaces and brackets.
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")


def enter(phase: Phase, announcement: str = "") -> None:
    """Ends the phase that the command is in, and enters another one.

    Args:
        phase: The phase.
        announcement: What to print on stderr, such as "starting Ray"; nothing if it is empty.
    """
    leave()
    _clock.now, _clock.since_s = phase, elapsed_s()
    _times(phase, _clock.since_s)
    if _clock.show:
        _clock.show(phase)
    if announcement:
        announce(announcement)


def leave() -> None:
    """Ends the phase that the command is in."""
    if _clock.now:
        now_s = elapsed_s()
        times = _times(_clock.now, _clock.since_s)
        times.to_s = max(times.to_s, now_s)
        times.waited_s += now_s - _clock.since_s
    _clock.now = None


@contextlib.contextmanager
def shown(show: Callable[[Phase], None]) -> Iterator[None]:
    """Calls a function with each phase that is entered while the block runs, after `begin`."""
    _clock.show = show
    try:
        yield
    finally:
        _clock.show = None


@contextlib.contextmanager
def span(phase: Phase) -> Iterator[None]:
    """Notes that something of a phase goes on while the block runs, whatever the command waits for meanwhile."""
    from_s = elapsed_s()
    try:
        yield
    finally:
        note(phase, from_s, elapsed_s())


def note(phase: Phase, from_s: float, to_s: float) -> None:
    """Notes that something of a phase went on between two times, in seconds since the command began."""
    times = _times(phase, from_s)
    times.from_s, times.to_s = min(times.from_s, from_s), max(times.to_s, to_s)


def announce(text: str) -> None:
    """Prints a line on stderr: the seconds since the command began, and the text."""
    if not _clock.quiet:
        print(f"{elapsed_s():.0f} s: {text}", file=sys.stderr, flush=True)


def table() -> list[str]:
    """The lines of a table of all phases so far."""
    leave()
    lines = [f"{'phase':<10} {'from':>8} {'to':>8} {'waited':>8}"]
    lines += [
        f"{name:<10} {each.from_s:>6.2f} s {each.to_s:>6.2f} s {each.waited_s:>6.2f} s  {MEANINGS[name]}"
        for name, each in sorted(_clock.times.items(), key=lambda item: item[1].from_s)
    ]
    return lines


def _times(phase: Phase, from_s: float) -> Times:
    return _clock.times.setdefault(phase, Times(from_s, from_s))
