"""A warm process: it has imported torch before there is a seat on this machine, and forks the process of one seat.

The driver of a local run starts some of them first of all, so that torch is imported while Ray starts. A seat whose
environment is another one, or that finds none left, starts a process of its own as on any other node.

One seat each, since forks of one process hash texts alike: what a loss does in the order of a set of texts would be the
same at every seat, and replicas that disagree would not be seen to do so.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# The import path comes first, as in `seat`.
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[3:]; from parity.train.warm_process import serve; "
    "serve(*map(int, sys.argv[1:3]))"
)
# What Ray sets in the environment of a worker, and the size of the terminal: no import comes out differently with them.
_IGNORED = ("PYTHONBREAKPOINT", "SPT_NOENV", "LINES", "COLUMNS")
# How the end of a seat's process is reported: its exit status, negative for a signal.
STATUS = struct.Struct("!i")
# How long a request is.
LENGTH = struct.Struct("!I")
# Source: man 5 proc_pid_oom_score_adj. Ray raises it for its workers, so that the system ends them before the driver.
OOM_SCORE = Path("/proc/self/oom_score_adj")


@dataclass(frozen=True)
class Warm:
    """Where a seat of this machine finds the process, and what it must have in common with it.

    Attributes:
        path: Path of the socket at which it takes a request.
        environment: A digest of the environment variables that it has imported torch with.
        pid: Its id.
    """

    path: str
    environment: str
    pid: int

    def fits(self) -> bool:
        """Whether this process has the same environment, so that its imports would have come out the same."""
        return _imported_with(os.environ) == self.environment

    def fork(self, control: int, data: int) -> "Forked | None":
        """Forks a seat's process, with this process's environment, import path, folder and output.

        Args:
            control: Descriptor of the connection that `seat_process.serve` takes.
            data: Descriptor of the file with the task's data.

        Returns:
            The process; None if the warm process is gone, or another seat has it.
        """
        connection = socket.socket(socket.AF_UNIX)
        try:
            own = {"environment": dict(os.environ), "path": sys.path, "folder": str(Path.cwd())}
            request = json.dumps({**own, "oom_score": OOM_SCORE.read_text()}).encode()
            # Of several seats that ask at once, one can rename it.
            taken = f"{self.path}-taken"
            Path(self.path).rename(taken)
            connection.connect(taken)
            socket.send_fds(connection, [LENGTH.pack(len(request))], [control, data, 1, 2])
            connection.sendall(request)
        except OSError:
            connection.close()
            return None
        return Forked(connection)


class Forked:
    """A seat's process that the warm process has forked.

    Args:
        connection: The connection at which the warm process reports its end.
    """

    # `multiprocessing` asks for the id of the process to send a descriptor to, and needs it on Windows only.
    pid = 0

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def wait(self) -> int:
        """Waits for its end; returns its exit status, negative for a signal."""
        with self._connection:
            answer = b""
            with contextlib.suppress(OSError):
                answer = self._connection.recv(STATUS.size, socket.MSG_WAITALL)
        # Without the process that it comes from, the system kills it, too.
        return int(STATUS.unpack(answer)[0]) if len(answer) == STATUS.size else -signal.SIGKILL


@contextlib.contextmanager
def warm_process(path: Path, variables: Mapping[str, str]) -> Iterator[Warm]:
    """Starts the process, which ends with the block, and at once if this process is killed.

    Args:
        path: Where its socket is made, in a folder that only this user can enter.
        variables: Environment variables that it needs beside this process's own.

    Raises:
        OSError: The path is longer than the system allows for a socket.
    """
    environment = {**os.environ, **variables}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        arguments = [sys.executable, "-u", "-c", _PROGRAM, str(listening.fileno()), str(os.getpid()), *sys.path]
        process = subprocess.Popen(
            arguments,
            env=environment,
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            # What the imports print is discarded; the seat has its worker's output.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A Ctrl-C of the terminal is for the driver alone, as with Ray's workers.
            start_new_session=True,
        )
    try:
        yield Warm(str(path), _imported_with(environment), process.pid)
    finally:
        process.kill()
        process.wait()


def _imported_with(environment: Mapping[str, str]) -> str:
    """A digest of the variables that may change what an import does; their values, among them secrets, stay here."""
    kept = sorted((name, value) for name, value in environment.items() if not name.startswith("RAY_"))
    return hashlib.sha256(json.dumps([each for each in kept if each[0] not in _IGNORED]).encode()).hexdigest()
