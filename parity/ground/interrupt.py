"""Ctrl-C and SIGTERM: the first ends a command in order, a second one at once, whatever it is doing."""

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

import psutil

from parity.ground import temporary

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# One Ctrl-C may come twice: from the terminal, and from a program that passes it on.
ONCE_S = 0.2


@dataclass
class _State:
    """Of this process.

    Attributes:
        came: Whether there was an interruption.
        due: Whether it is still to be raised.
        held: Whether it has to wait.
        place: Of the run that can be gone on with; empty while there is nothing to keep.
    """

    came: bool = False
    due: bool = False
    held: bool = False
    place: str = ""


_state = _State()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, the first SIGINT or SIGTERM raises KeyboardInterrupt, and the second ends the process.

    The second is seen by a thread of its own, since the main one may be in the midst of a long call. In any thread but
    the main one, where no handler can be set, the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    vars(_state).update(vars(_State()))
    # A shell's background job ignores Ctrl-C, and so do we then.
    before = {each: signal.getsignal(each) for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN}
    read, write = os.pipe()
    os.set_blocking(write, False)
    watcher = threading.Thread(target=_watch, args=(read,), name="parity-interrupt", daemon=True)
    watcher.start()
    woken = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for each in before:
        signal.signal(each, _first)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(woken)
        os.close(write)
        watcher.join()
        os.close(read)


def _first(_signum: int, _frame: FrameType | None) -> None:
    if not _state.came:
        _state.came = _state.due = True
        _raise_due()


def _raise_due() -> None:
    if _state.due and not _state.held:
        _state.due = False
        raise KeyboardInterrupt


def _watch(read: int) -> None:
    """Ends the process with the second signal.

    Source:
        The number of each signal comes by `signal.set_wakeup_fd`, at once, whatever Python is doing.
    """
    first_s: float | None = None
    while number := os.read(read, 1):
        if number[0] in SIGNALS:
            if first_s is None:
                first_s = time.monotonic()
            elif time.monotonic() - first_s > ONCE_S:
                end_at_once("interrupted again, and ended at once.")


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Lets no first interruption break off the block; it is raised at its end."""
    before, _state.held = _state.held, True
    try:
        yield
    finally:
        _state.held = before
    _raise_due()


@contextlib.contextmanager
def let_through() -> Iterator[None]:
    """Within `held`, a block that may be interrupted after all."""
    before, _state.held = _state.held, False
    try:
        _raise_due()
        yield
    finally:
        _state.held = before


def keep(place: object) -> None:
    """Takes note of where there is a run to be gone on with."""
    _state.place = str(place)


def how_to_go_on() -> str:
    """What to say behind the reason of an end that came too early."""
    return f" What was trained is kept: go on with it by --resume {_state.place}." if _state.place else ""


def end_at_once(reason: str) -> NoReturn:
    """Ends the process with status 2, and what it started with it: no more than a killing does, but with a word."""
    for child in reversed(psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            child.kill()
    for folder in temporary.mine:
        shutil.rmtree(folder, ignore_errors=True)
    shown = b"\x1b[?25h" if os.isatty(2) else b""  # a live bar hides the cursor
    with contextlib.suppress(OSError):
        os.write(2, shown + f"parity: {reason}{how_to_go_on()}\n".encode())
    os._exit(2)
