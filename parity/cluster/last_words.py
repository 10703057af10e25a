"""What ended a worker's process: noted in its log as it ends, and looked up there afterwards.

There is no other source: the worker's parent is Ray's raylet, which does not ask for the status of a child. A signal
that can be caught is noted by a handler, the exit code of `os._exit` by a wrapper. SIGKILL cannot be noted, and neither
can a call of `_exit` in C; both are reported as `NOTHING_NOTED`. How the process of a trial ended is known to its
parent, and the worker, which ends with it, notes that in its own log.
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
from typing import NoReturn

# Begins the line that a process writes to its log as it ends.
MARK = "parity: this process ends by "
# Signals that end a process unless it handles them; Ray keeps SIGINT from its workers. Source: signal(7).
NAMES = "SIGHUP SIGQUIT SIGTRAP SIGUSR1 SIGUSR2 SIGALRM SIGSTKFLT SIGXCPU SIGVTALRM SIGPROF SIGIO SIGPWR SIGSYS"
# Signals after which no Python code can run, by the words in which faulthandler reports them.
# Source: cpython, Modules/faulthandler.c; the third is the older spelling.
FATAL = {
    "Segmentation fault": "SIGSEGV",
    "Floating-point exception": "SIGFPE",
    "Floating point exception": "SIGFPE",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Illegal instruction": "SIGILL",
}
NOTHING_NOTED = "without a message, as after SIGKILL (sent by the system when memory runs out, or by a user)"
# How much of a log is read, from its end: a traceback of faulthandler has a few KB.
MOST_BYTES = 2**16

_exit = os._exit


def note() -> str | None:
    """Makes this process note what ends it.

    Returns:
        Path of the file that it will be noted in; None if stderr does not go to a file.
    """
    path = _stderr()
    if path is None:
        return None
    faulthandler.enable(2, all_threads=False)
    for name in NAMES.split():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _by_signal)
    # Ray's handler raises SystemExit wherever the process happens to be: in the loss, which would be blamed for it.
    signal.signal(signal.SIGTERM, _by_signal)
    owner = os.getpid()

    def noted_exit(status: int) -> None:
        if os.getpid() == owner:  # not in a process that the loss has forked
            _write(f"exit code {status}")
        _exit(status)

    os._exit = noted_exit  # type: ignore[assignment]
    os.register_at_fork(after_in_child=_forget)
    return path


def end(how: str | None) -> NoReturn:
    """Ends this process, and notes what ended the one that it worked for.

    Args:
        how: The name of a signal, or "exit code N" and the error; None to note nothing, as after SIGKILL.
    """
    if how:
        _write(how)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process outlived SIGKILL")


def _by_signal(number: int, _frame: FrameType | None) -> None:
    _write(signal.Signals(number).name)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _write(what: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"\n{MARK}{what}\n".encode())


def _forget() -> None:
    """Undoes `note` in a process that the loss has forked: its end is not the worker's."""
    faulthandler.disable()
    for name in (*NAMES.split(), "SIGTERM"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is _by_signal:
            signal.signal(number, signal.SIG_DFL)


def _stderr() -> str | None:
    """Path of the file that this process's stderr goes to, or None."""
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
    """What ended the process whose log this is: as `end` and `note` write it; None if it noted nothing.

    Raises:
        OSError: The file cannot be read.
    """
    with Path(path).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_BYTES))
        text = file.read().decode(errors="replace")
    lines = re.findall(rf"^(?:Fatal Python error: ({'|'.join(FATAL)})|{MARK}(.+))$", text, re.MULTILINE)
    if not lines:
        return None
    fatal, noted = lines[-1]
    return FATAL.get(fatal) or noted
