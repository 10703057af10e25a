"""What ended a worker's process: noted in its log as it ends, and looked up there afterwards.

Nobody else can say: the worker's parent is Ray's raylet, which asks no process what it ended with. A signal that can
be caught is noted by a handler, the exit code of `os._exit` by a wrapper. SIGKILL ends a process without a word; so
does `_exit` called in C, which is why nobody is told more than that.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType

MARK = "parity: this process ends by "
# What end a process that does nothing about them; SIGINT is kept from Ray's workers.
NAMES = "SIGHUP SIGQUIT SIGTRAP SIGUSR1 SIGUSR2 SIGALRM SIGSTKFLT SIGXCPU SIGVTALRM SIGPROF SIGIO SIGPWR SIGSYS"
# How the interpreter tells the ones after which no Python code can run.
FATAL = {
    "Segmentation fault": "SIGSEGV",
    "Floating-point exception": "SIGFPE",
    "Floating point exception": "SIGFPE",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Illegal instruction": "SIGILL",
}
NOTHING_NOTED = "without a message, as after SIGKILL (sent by the system when memory runs out, or by a user)"
# Of a log, from its end.
MOST_BYTES = 2**16

_exit = os._exit


def note() -> str | None:
    """Makes this process note what ends it.

    Returns:
        The file that it is noted in, None where stderr is none.
    """
    path = _stderr()
    if path is None:
        return None
    faulthandler.enable(2, all_threads=False)
    for name in NAMES.split():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _by_signal)
    # Ray's handler raises SystemExit wherever the process is: in the loss, which would be blamed for it.
    signal.signal(signal.SIGTERM, _by_signal)
    owner = os.getpid()

    def noted_exit(status: int) -> None:
        if os.getpid() == owner:  # and not of a process that the loss has forked
            _write(f"exit code {status}")
        _exit(status)

    os._exit = noted_exit  # type: ignore[assignment]
    os.register_at_fork(after_in_child=_forget)
    return path


def _by_signal(number: int, _frame: FrameType | None) -> None:
    _write(signal.Signals(number).name)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _write(what: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"\n{MARK}{what}\n".encode())


def _forget() -> None:
    """A process that the loss has forked ends as it likes."""
    faulthandler.disable()
    for name in (*NAMES.split(), "SIGTERM"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is _by_signal:
            signal.signal(number, signal.SIG_DFL)


def _stderr() -> str | None:
    """The file that this process's stderr goes to."""
    with contextlib.suppress(OSError):
        if sys.platform == "darwin":
            import fcntl

            path = fcntl.fcntl(2, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0").decode()
        else:
            path = str(Path("/proc/self/fd/2").readlink())
        if Path(path).is_file():
            return path
    return None


def look_up(path: str) -> str | None:
    """What ended the process that noted it there: the name of a signal or an exit code; None if it noted nothing.

    Raises:
        OSError: The file cannot be read.
    """
    with Path(path).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_BYTES))
        text = file.read().decode(errors="replace")
    said = re.findall(rf"^(?:Fatal Python error: ({'|'.join(FATAL)})|{MARK}(.+))$", text, re.MULTILINE)
    if not said:
        return None
    fatal, noted = said[-1]
    return FATAL.get(fatal) or noted
