"""A seat: a GPU, or the cores of a CPU trial, on which trials run one after the other.

Each trial runs in a process of its own. The seat's process, which `seat_process` describes, forks it: so torch is
imported once for each seat and not for each trial. Where a process that has imported torch should not fork, a seat
starts a new process for each trial.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any

import numpy as np

from parity.plan.trial import Trial
from parity.store.events import Captured, Ended, Event
from parity.store.position import Position, SharedSteps
from parity.train.shared_arrays import write_arrays
from parity.train.warm import Forked, Warm

# On macOS a fork without exec breaks Metal, and Apple's other frameworks as well.
# Source: docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods.
FORKS = sys.platform == "linux"
# The import path comes first: until then, "" would find modules in the working folder.
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[4:]; from parity.train.seat_process import serve; "
    "serve(*map(int, sys.argv[1:4]))"
)


class ProcessEnded(Exception):  # noqa: N818 - a fact about another process, not an error of ours
    """The process of a trial, or that of its seat, ended before the trial did.

    Attributes:
        how: The name of a signal, or "exit code N", followed by the error if there was one; None for SIGKILL, which
            nobody can tell from a lack of memory.
    """

    def __init__(self, status: int, raised: str | None = None) -> None:
        super().__init__(status)
        self.how: str | None = None
        if status != -signal.SIGKILL:
            self.how = f"exit code {status}" if status >= 0 else signal.Signals(-status).name
        if raised:
            self.how = f"{self.how}, after {raised}"


class _Remote(Exception):  # noqa: N818 - carries a traceback, as the cause of the exception that it belongs to
    """The traceback of an exception in another process."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Seat:
    """Trains one trial at a time, each in a process of its own.

    Its process inherits this one's environment, which has to be complete by the first `start`.

    Args:
        data: The task's data; dtype[rows, ...] by name.
        forks: Whether the processes of the trials are forked.
        warm: Processes of this machine that have imported torch already; the first that fits and is free is used.
    """

    def __init__(self, data: dict[str, np.ndarray], *, forks: bool = FORKS, warm: Sequence[Warm] = ()) -> None:
        self._file, self._layout = write_arrays(data)
        self._forks = forks
        self._warm = warm
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._control: Connection | None = None
        self._trial: Connection | None = None
        self._request: tuple[Trial, SharedSteps | None, Position | None] | None = None

    def start(self, trial: Trial, shared: SharedSteps | None, position: Position | None) -> None:
        """Takes a trial, as `perform` does; none of its code runs before the first `advance`.

        Raises:
            ProcessEnded: The seat's process has ended since the last trial.
        """
        if self._process is None or not self._forks:
            self._launch()
        elif self._control and self._control.poll():  # it says nothing by itself
            raise ProcessEnded(self._status())
        self._request = (trial, shared, position)

    def advance(self) -> Event:
        """Trains up to the next event, and returns it; after the last one the trial's process has ended.

        Raises:
            ProcessEnded: The trial's process ended without one, or the seat's did.
            Exception: What `perform` raised.
        """
        from parity.train.seat_process import Raised, Uncaught

        # Sending fails if the process has ended; how it did so is read below.
        with suppress(OSError):
            if self._request:
                self._begin(self._request)
            if self._trial:
                self._trial.send(None)
        answer = self._answer()
        if isinstance(answer, Uncaught):
            raise ProcessEnded(self._status(), answer.error)
        if isinstance(answer, Ended | Captured | Raised):
            # The next trial may need the memory, and that of the GPU, that this one's process holds until it has ended.
            self._status()
        if isinstance(answer, Raised):
            raise answer.error from _Remote(answer.traceback)
        event: Event = answer
        return event

    def close(self) -> None:
        """Ends the seat's process, and that of a trial that has not ended."""
        for each in (self._trial, self._control):
            if each:
                each.close()
        if self._process:
            self._process.wait()
        os.close(self._file)

    def _launch(self) -> None:
        """Starts the seat's process, which imports torch meanwhile unless a warm process has done so."""
        if self._control:
            self._control.close()
        self._control, theirs = multiprocessing.Pipe()
        with theirs:
            descriptors = (theirs.fileno(), self._file)
            usable = (each.fork(*descriptors) for each in self._warm if self._forks and each.fits())
            self._process = next(filter(None, usable), None)
            if self._process is None:
                numbers = map(str, (*descriptors, os.getpid()))
                # Unbuffered (-u), as Ray's workers are: what a loss prints before it crashes is in the log.
                arguments = [sys.executable, "-u", "-c", _PROGRAM, *numbers, *sys.path]
                self._process = subprocess.Popen(arguments, pass_fds=descriptors)
        self._control.send((self._layout, self._forks))

    def _begin(self, request: tuple[Trial, SharedSteps | None, Position | None]) -> None:
        """Gives the trial a process, by giving the seat's process its end of a connection."""
        assert self._control and self._process
        self._request = None
        self._trial, theirs = multiprocessing.Pipe()
        with theirs:
            send_handle(self._control, theirs.fileno(), self._process.pid)
        self._trial.send(request)

    def _answer(self) -> Any:
        """What the trial's process sends next.

        Raises:
            ProcessEnded: It ended without an answer.
        """
        assert self._control and self._trial
        # Both, since a process that the loss has forked may keep the trial's connection open.
        if self._trial in connection.wait([self._trial, self._control]):
            with suppress(EOFError, OSError):
                return self._trial.recv()
        raise ProcessEnded(self._status())

    def _status(self) -> int:
        """Waits for the end of the trial's process; returns its exit status, negative for a signal."""
        assert self._control and self._process
        if self._trial:
            self._trial.close()
        with suppress(EOFError, OSError):
            status: int = self._control.recv()
            return status
        # The seat's process has ended itself, and its trial with it.
        return self._process.wait()
