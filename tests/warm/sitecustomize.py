"""Lets processes that would import torch be run by a server that has imported it: see server.py.

Python imports this module as it starts, in each process whose PYTHONPATH has this folder. The process of a seat passes
all that it was started with on to the server, waits, and ends as the process there has ended. So do a warm process, as
a driver starts them, a program that a test has marked (MARKED), and one of Ray's workers, at a server that has imported
what Ray needs and not torch; to find the facts of its node, for which it would import torch, it starts such a process
to be told them. All others, and those that the server does not take, go on as ever; so do the commands of parity,
unless a test says otherwise (COMMAND).
"""

import os
import sys

# Variable with the address of the server; where it is empty or unset, nothing is passed on.
ADDRESS = "PARITY_WARM"
# What follows the address at the server of Ray's workers.
OF_RAY = ".ray"
# Variable that has a command of parity passed on to that server, too: to be set only where nobody sends it a signal.
COMMAND = "PARITY_WARM_COMMAND"
# Marks a process, of any program that is given with -c or -m, as one to be passed on; not the processes it starts.
MARKED = "PARITY_WARM_PROGRAM"
# In place of the id of the parent process in the arguments: the server is to be the parent.
PARENT = "parent"
# Prints the facts of this machine.
FACTS = "import json; from parity.train.machine import node_facts; print(json.dumps(node_facts()))"


def _to_pass_on():
    """What follows `-c`, with PARENT in place of the parent's id, and where modules are looked for; None if not to be.

    These are the kinds of processes that the server may run.
    """
    marked = os.environ.pop(MARKED, "")
    match sys.orig_argv[1:]:
        # As train/seat.py starts it.
        case ["-u", "-c", program, control, data, parent, *paths] if "parity.train.seat_process" in program:
            # Else its parent is gone already, and it will end by itself.
            return ([program, control, data, PARENT, *paths], paths) if parent == str(os.getppid()) else None
        # As train/warm.py starts it.
        case ["-u", "-c", program, listening, parent, *paths] if "parity.train.warm_process" in program:
            return ([program, listening, PARENT, *paths], paths) if parent == str(os.getppid()) else None
        case ["-c", program] if program == FACTS:
            return [program], sys.path
        case ["-c", program, *arguments] if marked:
            return [program, *arguments], ["", *sys.path]
        case [server, *arguments] if marked and server.endswith("/warm/server.py"):
            return [f"import runpy; runpy.run_path({server!r}, run_name='__main__')", *arguments], sys.path
        case ["-m", module, *arguments] if marked:
            program = f"import runpy; runpy._run_module_as_main({module!r})"
            return [program, *arguments], [os.getcwd(), *sys.path]  # noqa: PTH109 - as below
    return None


def is_worker(program):
    """Whether a process is one of Ray's workers, or becomes one in an environment that is set up for it."""
    return program.endswith(("/_private/workers/default_worker.py", "/_private/workers/setup_worker.py"))


def _is_worker():
    return len(sys.orig_argv) > 1 and is_worker(sys.orig_argv[1])


def _pass_on(address, arguments, paths):
    """Has the server run this process; returns if it does not."""
    # Here, since most processes get no further.
    import ctypes
    import json
    import resource
    import signal
    import socket

    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(address)
    except OSError:  # a host that is really apart sees other files
        server.close()
        return
    with os.scandir("/proc/self/fd") as entries:
        numbers = {int(entry.name) for entry in entries} - {server.fileno()}
    numbers = [number for number in sorted(numbers) if os.path.exists(f"/proc/self/fd/{number}")]  # noqa: PTH110
    request = {
        "arguments": arguments,
        "paths": paths,
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109 - pathlib would be imported for it
        "descriptors": numbers,
    }
    encoded = json.dumps(request).encode()
    socket.send_fds(server, [len(encoded).to_bytes(8, "big")], numbers)
    server.sendall(encoded)
    if server.recv(1) != b"+":
        server.close()
        return
    if not _is_worker():
        # As the process of a seat asks for itself. The server ends its child when this process ends.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    # Others may wait for the end of these connections, which has to be that of the process at the server.
    os.closerange(0, server.fileno())
    os.closerange(server.fileno() + 1, numbers[-1] + 1)
    # Nothing comes from a server that was killed.
    status = int(server.recv(16) or -signal.SIGKILL)
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


class _OfAnotherProcess:
    """Finds and loads `parity.train.machine` for a worker of Ray's: with the facts that another process has found."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "parity.train.machine":
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, cls)
        return None

    @staticmethod
    def create_module(spec):
        return None

    @classmethod
    def exec_module(cls, module):
        module.node_facts = cls.node_facts

    @staticmethod
    def node_facts():
        import json
        import subprocess

        # The threads are those of the process of a seat; no fact depends on them.
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", FACTS]
        return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def be_told_the_facts():
    """Makes one of Ray's workers, which this process is, ask another process for the facts of its node."""
    sys.meta_path.insert(0, _OfAnotherProcess)


_command = os.environ.pop(COMMAND, None)
if _address := os.environ.get(ADDRESS):
    if (_command and (sys.orig_argv[1] == "-m" or sys.orig_argv[1].endswith(".py"))) or _is_worker():
        # As Python itself adds it, later than here.
        _first = os.getcwd() if sys.orig_argv[1] == "-m" else os.path.dirname(sys.orig_argv[1])  # noqa: PTH109, PTH120
        _pass_on(_address + OF_RAY, sys.orig_argv[1:], [_first, *sys.path])
        if _is_worker():
            be_told_the_facts()
    elif _given := _to_pass_on():
        _pass_on(_address, *_given)
