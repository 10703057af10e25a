"""Runs the processes of seats for the tests: forks each of them from this process, which has imported torch.

The suite starts many seats to train a few steps on each, and a seat begins by importing torch for 3 to 5 seconds of a
core. So does what finds the facts of a node. This process does so once, on the first request. It computes nothing, as
the process of a seat: so a child is what a process of its own would be. It has the descriptors, environment, folder and
arguments of the process that passed them on (`sitecustomize`), and ends with it.

    python -u tests/warm/server.py ADDRESS PARENT

ADDRESS is the path of the socket to listen at; PARENT is the id of the process whose end is that of this one.
"""

import atexit
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import threading
import types
from pathlib import Path

from sitecustomize import PARENT

ROOT = Path(__file__).parents[2]
# Begin the names of variables that libraries read when torch is imported: they have to be as they were for this one.
READ_AT_IMPORT = ("ATEN_", "GOMP_", "KMP_", "LD_", "MKL_", "OMP_", "PYTORCH_", "TORCH")
# Above all descriptors that a process is started with.
HIGH = 1000


# The kind of a request for a process that reads footers, which imports this and nothing of torch's.
FOOTERS = "footers"


def read(environment):
    """The variables of an environment that are read at the import of torch."""
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT)}


def has_other_parity(paths):
    """Whether these paths lead to another copy of the package than this one has imported, as a job's do."""
    found = next((path for path in map(Path, paths) if (path / "parity" / "__init__.py").exists()), ROOT)
    return not found.samefile(ROOT)


def receive(client):
    """A request, or None if the process was killed over it, and the descriptors that came with it."""
    head, descriptors, _, _ = socket.recv_fds(client, 8, 250)
    length, text = int.from_bytes(head, "big"), b""
    while len(text) < length and (part := client.recv(length - len(text))):
        text += part
    return json.loads(text) if head and len(text) == length else None, descriptors


def answer(client, request, own):
    """Tells a process whether this server takes it over; returns the answer, or False if the process is gone."""
    taken = request is not None and (
        request.get("kind") == FOOTERS
        or (read(request["environment"]) == own and not has_other_parity(request["paths"]))
    )
    try:
        client.sendall(b"+" if taken else b"-")
    except OSError:
        return False
    return taken


def become(request, descriptors):
    """Makes this process, a child, what the process was that passed itself on; returns its program."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Out of the way of the numbers that they are to get.
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, HIGH) for each in descriptors]
    os.closerange(0, HIGH)
    for now, number in zip(moved, request["descriptors"], strict=True):
        os.dup2(now, number)
    os.closerange(HIGH, max(moved) + 1)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    tempfile.tempdir = None  # another environment, another folder
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # as in a process of its own; Python's generator does so by itself
    sys.path[:] = request["paths"]
    program, *arguments = request["arguments"]
    sys.argv = ["-c", *(str(os.getppid()) if each == PARENT else each for each in arguments)]
    return program


def serve(listener):
    """Forks a child for each request until the end of this process; returns the program, in a child."""
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler has to be set for the signal to wake anybody
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    ready = selectors.DefaultSelector()
    for each in (listener, woken):
        ready.register(each, selectors.EVENT_READ)
    own, clients = read(os.environ), {}
    while True:
        for key, _ in ready.select():
            if key.fileobj is listener:
                client, _ = listener.accept()
                request, descriptors = receive(client)
                if answer(client, request, own):
                    import_once(request.get("kind"))
                    child = os.fork()
                    if child == 0:
                        ready.close()
                        for each in (listener, woken, wakes, client, *clients.values()):
                            each.detach()  # closed below, by their numbers
                        return become(request, descriptors)
                    ready.register(client, selectors.EVENT_READ)
                    clients[child] = client
                else:
                    client.close()
                for each in descriptors:
                    os.close(each)
            elif key.fileobj is woken:
                woken.recv(4096)
                reap(clients, ready)
            else:  # the process that the child stands for has ended
                child = next(child for child, client in clients.items() if client is key.fileobj)
                ready.unregister(key.fileobj)
                os.kill(child, signal.SIGKILL)


def reap(clients, ready):
    """Reports the children that have ended to the processes that they stood for."""
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not child:
            return
        client = clients.pop(child, None)
        if client is None:  # left behind by a child
            continue
        if client in ready.get_map():
            ready.unregister(client)
        with contextlib.suppress(OSError):  # it has ended as well
            client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        client.close()


def import_once(kind):
    """Imports what a seat's process imports, or one that reads footers."""
    if kind == FOOTERS:
        import pyarrow.parquet  # noqa: F401
    elif "torch" not in sys.modules:
        from parity.train.seat_process import import_training

        import_training()
        # The children share this process's memory until they write to it, and looking for garbage writes.
        gc.collect()
        gc.freeze()


def main(address, parent):
    prctl = ctypes.CDLL(None).prctl
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what a child leaves behind is found among the children of this process
    if os.getppid() != int(parent):
        return None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a Ctrl-C that ends the tests
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        return serve(listener)


if __name__ == "__main__" and (program := main(*sys.argv[1:])):
    # In a module of its own, and from here, so that an error is told as Python tells it.
    sys.modules["__main__"] = types.ModuleType("__main__")
    status = 0
    try:
        exec(compile(program, "<string>", "exec"), vars(sys.modules["__main__"]))
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise
        status = ended.code or 0
    # What Python does at its end, except for freeing all that torch has made: that would copy the memory that is
    # shared, for half a second.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)
