"""The process that `warm.warm_process` starts: it imports what trials need, and forks the process of a seat.

Like the processes of seats, which `seat_process` describes, it computes nothing and runs no code of a user.
"""

import contextlib
import gc
import json
import os
import socket
import sys
from functools import partial

from parity.train.seat_process import end_with, import_or_explain, run_as_child
from parity.train.seat_process import serve as serve_seat
from parity.train.warm import LENGTH, OOM_SCORE, STATUS


def serve(listening: int, parent: int) -> None:
    """Takes the request of a seat, forks its process, and reports its end; waits for the process that started this one.

    Args:
        listening: Descriptor of the socket at which the request comes.
        parent: Id of the process that started this one, with which this one ends.
    """
    end_with(parent)
    # An import that fails is ignored here: the seat repeats it, and reports the error for its trials.
    import_or_explain()
    # The seat shares this process's memory until it writes to it, and looking for garbage writes.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=listening) as requests:
        asked, _ = requests.accept()
    child = os.fork()
    if child == 0:
        run_as_child(partial(_become_seat, asked))
    _, status = os.waitpid(child, 0)
    with asked, contextlib.suppress(OSError):  # the seat may be gone as well
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
