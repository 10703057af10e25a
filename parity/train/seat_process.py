"""The process of a seat: it imports torch once, computes nothing, and forks a child for each trial.

What a trial changes (globals, torch's switches, generators, CUDA) is changed in its child, and ends with it. The parent
draws from no generator, starts no thread of OpenMP and does not touch CUDA, so a child is what a process of its own
would be, without the seconds of its imports. It is started by `seat.Seat`; no code of a user runs in it.
"""

import contextlib
import ctypes
import faulthandler
import gc
import os
import platform
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any, NoReturn

import numpy as np
import psutil

from parity.ground.quoting import cut, explain_error
from parity.store.events import Captured, Ended
from parity.train.perform import perform
from parity.train.shared_arrays import map_arrays
from parity.version import package_sha256

# Source: linux, include/uapi/linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Most characters of such an error that are reported, since a progress line has them as well.
MOST_REPORTED = 500


@dataclass(frozen=True)
class Raised:
    """The last answer of a trial whose events raised an exception: an error of parity, or a `Trouble`.

    Attributes:
        error: The exception.
        traceback: Its traceback, which an exception loses on its way to another process.
    """

    error: Exception
    traceback: str


@dataclass(frozen=True)
class Uncaught:
    """The last answer of a trial whose code raised something other than an `Exception`, which ends its process.

    Attributes:
        error: The class and the message, on one line.
    """

    error: str


def serve(control: int, data: int, parent: int) -> None:
    """Takes trials from the process that started this one, until that closes its end or has ended.

    Args:
        control: Descriptor of a connection. It brings the layout of the data and whether to fork, then a connection for
            each trial; it takes the exit status of each child, negative for a signal.
        data: Descriptor of the file with the task's data.
        parent: Id of the process that started this one.
    """
    end_with(parent)
    questions = Connection(control)
    try:
        layout, forks = questions.recv()
        arrays = map_arrays(data, layout)
        os.close(data)
        broken = import_or_explain()
        if forks:
            _serve_children(questions, arrays, broken)
        else:
            _serve_here(questions, arrays, broken)
    except (EOFError, ConnectionError):
        return  # nobody is left to train for


def import_training() -> None:
    """Imports what a trial needs: most of what it would otherwise spend before its first step."""
    # The first optimizer of a process imports torch._dynamo, and the first column of pyarrow imports pandas.
    import pandas  # noqa: F401
    import pyarrow.pandas_compat  # noqa: F401
    import torch._dynamo  # noqa: F401

    import parity.observe.contract.checking
    import parity.observe.diagnosis.diagnostician
    import parity.train.candidate_step
    import parity.train.imported
    import parity.train.loop
    import parity.train.machine
    import parity.train.replay
    import parity.train.saved_state
    import parity.train.shared_step
    import parity.train.switches

    # Now, and once: the files are still those that were imported here.
    package_sha256()
    # Kept by `platform`, which starts a process (uname -p) for it.
    platform.platform()
    parity.train.imported.imported_files()


def import_or_explain() -> Raised | None:
    """Imports what a trial needs; returns what each trial has to answer if that fails, as without torch."""
    # Imports make many objects and little garbage: looking for it takes 0.6 of 4 seconds.
    gc.disable()
    try:
        import_training()
    except Exception as error:  # noqa: BLE001 - raised again by the process that asks
        return Raised(error, traceback.format_exc())
    finally:
        gc.enable()
    return None


def _serve_children(control: Connection, data: dict[str, np.ndarray], broken: Raised | None) -> None:
    """Forks a child for each trial, and reports how it ended."""
    # What a trial's own processes leave behind becomes a child of this one, which ends it with the trial.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    # A handler has to be set for the signal to wake anybody.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    # The children share this process's memory until they write to it, and looking for garbage writes.
    gc.collect()
    gc.freeze()
    parent = os.getpid()
    while True:
        trial = recv_handle(control)
        child = os.fork()
        if child == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for each in (control, woken, wakes):
                each.close()
            end_with(parent)
            _train(trial, data, broken)
        os.close(trial)
        control.send(_wait(child, control, woken))


def _wait(child: int, control: Connection, woken: socket.socket) -> int:
    """Waits for the end of a child; returns its exit status, negative for a signal.

    Raises:
        EOFError: The process that started this one is gone; the child has been ended.
    """
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            _end_children()
            return os.waitstatus_to_exitcode(status)
        ready = connection.wait([control, woken])
        if control in ready:  # nothing is said while a trial runs, so this is the end of the connection
            _end_children()
            raise EOFError
        woken.recv(4096)


def _end_children() -> None:
    """Kills all that descends from this process, and waits until it is gone."""
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # there is none left
            return
        if not ended:
            for each in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    each.kill()
            time.sleep(0.001)


def _serve_here(control: Connection, data: dict[str, np.ndarray], broken: Raised | None) -> None:
    """Trains one trial in this very process, on systems where a process that has imported torch should not fork."""
    trial = recv_handle(control)
    threading.Thread(target=_end_after, args=(control,), daemon=True).start()
    _train(trial, data, broken)


def _end_after(control: Connection) -> None:
    """Ends this process as soon as the one that started it is gone, whatever the trial is doing."""
    control.poll(None)
    os.kill(os.getpid(), signal.SIGKILL)


def _train(trial: int, data: dict[str, np.ndarray], broken: Raised | None) -> NoReturn:
    """Trains a trial in this process, and ends the process."""

    def answer_all() -> None:
        # Python seeds its own generator anew in each child; that of NumPy would begin alike in all of them.
        np.random.seed()
        # Where it crashed is written to the log, also as the name of the signal; a process of its own does not do so.
        faulthandler.enable(2, all_threads=False)
        os.register_at_fork(after_in_child=faulthandler.disable)
        answer(Connection(trial), data, broken)

    run_as_child(answer_all)


def run_as_child(run: Callable[[], object]) -> NoReturn:
    """Calls a function in a process that was forked, and ends the process: with status 0 if the function returns."""
    status = 1
    try:
        run()
        status = 0
    except (EOFError, ConnectionError):
        pass  # nobody asks any longer
    except BaseException:  # noqa: BLE001 - for the log; this process must not go on as its parent's copy
        traceback.print_exc()
    os._exit(status)


def answer(questions: Connection, data: dict[str, np.ndarray], broken: Raised | None = None) -> None:
    """Answers each question with the next event of a trial, until the last one.

    Args:
        questions: Brings what `perform` takes beside the data, then None for each question.
        data: The task's data; dtype[rows, ...] by name.
        broken: What to answer instead of training, or None.
    """
    trial, shared, position = questions.recv()
    events = perform(trial, data, shared, position)
    sent: Any = None
    while not isinstance(sent, Ended | Captured | Raised):
        # Not a step ahead: the driver stores each event before it asks for the next one.
        questions.recv()
        try:
            sent = broken or next(events)
        except Exception as error:  # noqa: BLE001 - raised again by the process that asked
            sent = Raised(error, traceback.format_exc())
        # Ctrl-C does not reach this process, so the trial's code has raised it.
        except BaseException as error:
            questions.send(Uncaught(cut(" ".join(explain_error(error).split()), MOST_REPORTED)))
            raise
        questions.send(sent)


def end_with(parent: int) -> None:
    """Makes the system kill this process when its parent ends; does so at once if it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    # Linux alone has it. Elsewhere the end of a connection is what ends this process.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)
