"""Runs the processes of seats for the tests: forks each of them from this process, which has imported torch.

The suite starts many seats to train a few steps on each, and a seat begins by importing torch for 3 to 5 seconds of a
core. So does what finds the facts of a node. This process does so once, on the first request. It computes nothing, as
the process of a seat: so a child is what a process of its own would be. It has the descriptors, environment, folder and
arguments of the process that passed them on (`sitecustomize`), and ends with it.

Another such process does so for Ray's workers, and commands of parity, each of which imports for more than half a
second of a core. It has imported neither torch nor Ray itself, which reads its settings from the environment when it is
imported. What either has imported of parity is forgotten by a process of another copy of the package, as that of a job
is, and by a worker, which learns later whose parity it has to import.

    python -u tests/warm/server.py ADDRESS PARENT [hosts]

ADDRESS is the path of the socket to listen at, which says for whom; PARENT is the id of the process whose end is that
of this one, or `parent` where this process is itself a fork of another server: each of the suite's processes has
servers of its own, so that it sees what it has left behind, and what they import is imported once. With `hosts`, those
that ask are in namespaces of their own (benchmarks/hosts.py), which their children enter: this process then sees the
files of one of the hosts.
"""

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import resource
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
import types
from functools import partial
from pathlib import Path

from sitecustomize import OF_RAY, PARENT, be_told_the_facts, is_worker

ROOT = Path(__file__).parents[2]
OWN = ROOT.stat()
# Begin the names of variables that libraries read when torch is imported: they have to be as they were for this one.
READ_AT_IMPORT = ("ATEN_", "GOMP_", "KMP_", "LD_", "MKL_", "OMP_", "PYTORCH_", "TORCH")
# But for this one, which torch itself sets in a process that has trained, and reads when it compiles.
READ_LATER = "TORCHINDUCTOR_CACHE_DIR"
# And of those that Python reads when it starts.
READ_AT_START = ("LANG", "LC_", "PYTHON")
# What Ray's workers and commands of parity import that is neither Ray's nor of this project, and takes over 3 ms.
OF_WORKERS = """
    asyncio colorama ctypes filelock google.protobuf.internal.builder google.protobuf.json_format jsonschema
    fsspec jinja2 logging.handlers msgpack multiprocessing.connection numpy packaging.version pandas pdb platform psutil
    pyarrow.compute pyarrow.parquet pydantic.deprecated.class_validators pydantic.fields requests rich.console
    rich.table tarfile tempfile tenacity tqdm.auto upath uuid wcwidth xxhash yaml
"""
# And what the commands import of this project.
OF_COMMANDS = "parity.cluster.jobs.preparing parity.cluster.workers parity.measuring"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# Mounts, host name, IPC, processes and network. Source: man 2 setns, linux/sched.h.
NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
# Above all descriptors that a process is started with.
HIGH = 1000


# The kind of a request for a process that reads footers, which imports this and nothing of torch's.
FOOTERS = "footers"


def read(environment, names=READ_AT_IMPORT):
    """The variables of an environment that are read at the import of torch."""
    others = ("PYTHONPATH", READ_LATER)
    return {name: value for name, value in environment.items() if name.startswith(names) and name not in others}


def has_other_parity(paths):
    """Whether these paths lead to another copy of the package than this one has imported, as a job's do."""
    found = next((path for path in map(Path, paths) if (path / "parity" / "__init__.py").exists()), ROOT)
    return not os.path.samestat(found.stat(), OWN)


def receive(client):
    """A request, or None if the process was killed over it, and the descriptors that came with it."""
    head, descriptors, _, _ = socket.recv_fds(client, 8, 250)
    length, text = int.from_bytes(head, "big"), b""
    while len(text) < length and (part := client.recv(length - len(text))):
        text += part
    return json.loads(text) if head and len(text) == length else None, descriptors


def fits(request, own, of_ray):
    """Whether this server, which was started with an environment, can be what a process would have been."""
    # Not compared for Ray's workers, and what they start: Ray sets one of them for its own purposes.
    is_command = of_ray and not is_worker(request["arguments"][0])
    names = READ_AT_IMPORT + (READ_AT_START if is_command else ())
    same = read(request["environment"], names) == read(own, names)
    return request.get("kind") == FOOTERS or same


def answer(client, taken):
    """Tells a process whether this server takes it over; returns the answer, or False if the process is gone."""
    try:
        client.sendall(b"+" if taken else b"-")
    except OSError:
        return False
    return taken


def become(request, descriptors, of_ray):
    """Makes this process, a child, what the process was that passed itself on; returns what it has to run."""
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
    if has_other_parity(request["paths"]) or (of_ray and is_worker(program)):
        forget_parity()
    # Under both names the module is this one, which no process that it stands for has imported.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = types.ModuleType("__main__")
    if of_ray:
        if is_worker(program):
            os.setsid()  # as Ray has it, and so that a Ctrl-C of the tests is not for it
            be_told_the_facts()
        if program == "-m":
            sys.argv = arguments
            return partial(runpy.run_module, arguments[0], run_name="__main__", alter_sys=True)
        sys.argv = [program, *arguments]
        return partial(runpy.run_path, program, run_name="__main__")
    sys.argv = ["-c", *(str(os.getppid()) if each == PARENT else each for each in arguments)]
    return partial(exec, compile(program, "<string>", "exec"), vars(sys.modules["__main__"]))


def forget_parity():
    """Has this process import the package anew, from where its own path leads."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "parity"]:
        del sys.modules[name]


def enter_host_of(client):
    """Moves this process, a child, to the host of the process that asks; goes on in a child of its own there.

    What is asked of a system is that of the host from here on: files, network, and the ids of processes.
    """
    peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    there = os.pidfd_open(int.from_bytes(peer[:4], sys.byteorder))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(there, NAMESPACES) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(there)
    inside = os.fork()
    if inside == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    _, status = os.waitpid(inside, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def serve(listener, of_ray, on_hosts):
    """Forks a child for each request until the end of this process; returns what it has to run, in a child."""
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler has to be set for the signal to wake anybody
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    ready = selectors.DefaultSelector()
    for each in (listener, woken):
        ready.register(each, selectors.EVENT_READ)
    own, clients = dict(os.environ), {}
    while True:
        for key, _ in ready.select():
            if key.fileobj is listener:
                client, _ = listener.accept()
                request, descriptors = receive(client)
                if request is not None and (on_hosts or answer(client, fits(request, own, of_ray))):
                    import_once(of_ray, request.get("kind"))
                    child = os.fork()
                    if child == 0:
                        if on_hosts:
                            enter_host_of(client)
                            if not answer(client, fits(request, own, of_ray)):
                                os._exit(0)
                        ready.close()
                        for each in (listener, woken, wakes, client, *clients.values()):
                            each.detach()  # closed below, by their numbers
                        return become(request, descriptors, of_ray)
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


def import_once(of_ray, kind):
    """Imports what a seat's process imports, one of Ray's workers, or one that reads footers."""
    if kind == FOOTERS:
        import pyarrow.parquet  # noqa: F401
    elif ("numpy" if of_ray else "torch") not in sys.modules:
        if of_ray:
            for name in f"{OF_WORKERS} {OF_COMMANDS}".split():
                with contextlib.suppress(ImportError):  # it is another version of Ray's, or Ray brings it along
                    importlib.import_module(name)
        else:
            from parity.train.seat_process import import_training

            import_training()
        # The children share this process's memory until they write to it, and looking for garbage writes.
        gc.collect()
        gc.freeze()


def main(address, parent, *on_hosts):
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a child leaves behind is found among the children of this process
    if parent not in (PARENT, str(os.getppid())):
        return None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a Ctrl-C that ends the tests
    with socket.socket(socket.AF_UNIX) as listener:
        # Under its own name once it listens: who sees it there connects to it.
        listener.bind(f"{address}~")
        listener.listen(64)
        Path(f"{address}~").rename(address)
        return serve(listener, address.endswith(OF_RAY), bool(on_hosts))


if __name__ == "__main__" and (child := main(*sys.argv[1:])):
    status = 0
    try:
        child()  # from here, so that an error is told as Python tells it
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
