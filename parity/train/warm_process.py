"""The process that `warm.warm_process` starts: it imports what trials need, and forks a process for each seat.

It computes nothing and runs no code of a user, as the seats' processes do, which `seat_process` describes.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from functools import partial
from multiprocessing import connection

from parity.train.seat_process import end_with, import_or_explain, run_as_child
from parity.train.seat_process import serve as serve_seat
from parity.train.warm import LENGTH, OOM_SCORE, STATUS


def serve(listening: int, parent: int) -> None:
    """Takes the requests of seats until the process that started this one has ended.

    Args:
        listening: Descriptor of the socket at which they come.
        parent: Id of the process that started this one.
    """
    end_with(parent)
    # What is wrong with an import, each seat finds out again, and reports for its trials.
    import_or_explain()
    # The seats share this process's memory until they write to it, and looking for garbage writes.
    gc.collect()
    gc.freeze()
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    # A handler has to be set for the signal to wake anybody.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    seats: dict[int, socket.socket] = {}
    with socket.socket(fileno=listening) as requests:
        while True:
            ready = connection.wait([requests, woken])
            if woken in ready:
                woken.recv(4096)
                _report_ended(seats)
            if requests in ready:
                asked, _ = requests.accept()
                child = os.fork()
                if child == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    # Their seats would not see this process end if another seat had them open.
                    for each in (requests, woken, wakes, *seats.values()):
                        each.close()
                    run_as_child(partial(_become_seat, asked))
                seats[child] = asked


def _report_ended(seats: dict[int, socket.socket]) -> None:
    """Reports the exit status of each seat's process that has ended to the seat."""
    while seats:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if not ended:
            return
        with seats.pop(ended) as asked, contextlib.suppress(OSError):  # the seat may be gone as well
            asked.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))


def _become_seat(asked: socket.socket) -> None:
    """Makes this process the seat's: with the environment, the folder and the output of the worker that asks."""
    header, descriptors, _, _ = socket.recv_fds(asked, LENGTH.size, 4, socket.MSG_WAITALL)
    (length,) = LENGTH.unpack(header)
    request = json.loads(asked.recv(length, socket.MSG_WAITALL))
    asked.close()
    control, data, stdout, stderr = descriptors
    for source, target in ((stdout, 1), (stderr, 2)):
        os.dup2(source, target)
        os.close(source)
    for each in (control, data):
        os.set_inheritable(each, False)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:] = request["path"]
    os.chdir(request["folder"])
    OOM_SCORE.write_text(request["oom_score"])
    serve_seat(control, data, os.getppid())
