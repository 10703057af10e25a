"""Ctrl-C and SIGTERM: the first ends a command in order, a second one ends it at once, whatever it is doing."""

import contextlib
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from os import _exit  # the original, which is replaced while the user's code runs
from types import FrameType
from typing import NoReturn

from parity.ground import temporary

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# One Ctrl-C may arrive twice: from the terminal, and from a program that passes it on. Two within this time count as
# one; it is shorter than a person takes to press the keys again.
ONCE_S = 0.2


@dataclass
class _State:
    """The interruption of this process.

    Attributes:
        came: Whether an interruption has come.
        due: Whether it has still to be raised.
        held: Whether raising it has to wait.
        place: Directory of the run that can be continued; empty if there is none.
        abandoned: Whether a call that does not return was left to a thread of its own.
    """

    came: bool = False
    due: bool = False
    held: bool = False
    place: str = ""
    abandoned: bool = False


_state = _State()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, the first SIGINT or SIGTERM raises KeyboardInterrupt, and the second ends the process.

    A thread of its own watches for the second, since the main thread may be in the middle of a long call. Outside the
    main thread no handler can be set, and the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    vars(_state).update(vars(_State()))  # what happened in an earlier block does not count
    # A background job of a shell ignores Ctrl-C, and has to keep ignoring it.
    before = {each: signal.getsignal(each) for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN}
    read, write = os.pipe()
    os.set_blocking(write, False)  # as `signal.set_wakeup_fd` demands
    watcher = threading.Thread(target=_watch, args=(read,), name="parity-interrupt", daemon=True)
    watcher.start()
    woken = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for each in before:
        signal.signal(each, _first)
    try:
        yield
    finally:
        # Handlers and wakeup descriptor go before the pipe: a signal in between must not write to one that is closed.
        for each, handler in before.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(woken)
        os.close(write)  # ends the watcher, whose read then returns nothing
        watcher.join()
        os.close(read)


def _first(_signum: int, _frame: FrameType | None) -> None:
    # A second signal is the watcher's: this handler waits for the main thread, which may be in a long call.
    if not _state.came:
        _state.came = _state.due = True
        _raise_due()


def _raise_due() -> None:
    if _state.due and not _state.held:
        _state.due = False
        raise KeyboardInterrupt


def _watch(read: int) -> None:
    """Ends the process at the second signal.

    Args:
        read: File descriptor to which the number of each signal is written.

    Source:
        `signal.set_wakeup_fd`: the number is written at once, whatever Python is doing.
    """
    first_s: float | None = None
    while number := os.read(read, 1):
        if number[0] in SIGNALS:
            if first_s is None:
                first_s = time.monotonic()
            elif time.monotonic() - first_s > ONCE_S:
                end_at_once("interrupted again, and stopped at once.")


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Holds a first interruption back while the block runs; it is raised when the block has ended."""
    before, _state.held = _state.held, True
    try:
        yield
    finally:
        _state.held = before
    _raise_due()


@contextlib.contextmanager
def let_through() -> Iterator[None]:
    """Runs a block within `held` that may be interrupted after all."""
    before, _state.held = _state.held, False
    try:
        _raise_due()
        yield
    finally:
        _state.held = before


def keep(place: object) -> None:
    """Records the directory of a run that can be continued after an interruption."""
    _state.place = str(place)


def how_to_go_on() -> str:
    """A sentence on how to continue the run, to append to the reason why it ended early; empty if there is none."""
    return f" What was trained is kept: continue it with --resume {shlex.quote(_state.place)}." if _state.place else ""


def end_at_once(reason: str) -> NoReturn:
    """Ends the process with exit status 2, and its children with it: like a kill, but with a message.

    Args:
        reason: What to print, without "parity: ".
    """
    _end_what_is_left()
    shown = b"\x1b[?25h" if os.isatty(2) else b""  # shows the cursor, which a live bar hides
    with contextlib.suppress(OSError):
        # Not `print`: the main thread may be writing, and hold the lock of stderr's buffer for as long as that takes.
        os.write(2, shown + f"parity: {reason}{how_to_go_on()}\n".encode())
    _exit(2)  # without cleaning up, which could wait for what was interrupted


def abandon() -> None:
    """Records that a call which does not return was left to its thread, so that the process must not wait for it."""
    _state.abandoned = True


def abandoned() -> bool:
    """Whether a call was left to its thread."""
    return _state.abandoned


def leave_if_abandoned(status: int) -> None:
    """Ends the process, and its children with it, if a call was left to its thread; else does nothing.

    Args:
        status: The exit status.
    """
    if _state.abandoned:
        with contextlib.suppress(OSError):  # the reader of the output has gone
            sys.stdout.flush()
        _end_what_is_left()
        os._exit(status)  # what is registered for the end of the process could wait for that call


def _end_what_is_left() -> None:
    """Ends the children of this process, and removes its temporary folders."""
    import psutil  # here, as few commands end in this way, and it takes long to import

    # Reversed, so that children end before their parents, which might start them again.
    for child in reversed(psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            child.kill()
    # `os._exit` runs no `finally`, so nothing else removes these folders.
    for folder in temporary.mine:
        shutil.rmtree(folder, ignore_errors=True)
