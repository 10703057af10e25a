"""What ends a process is found in the file that its stderr goes to, and nothing is made up."""

import os
import subprocess
import sys

import pytest

from parity.cluster import last_words
from parity.cluster.last_words import look_up

from conftest import ROOT

NOTED = """
import ctypes, os, signal, sys, time
from parity.cluster import last_words
print(last_words.note())
sys.stdout.flush()
"""
MYSELF = "os.kill(os.getpid(), signal.{}); time.sleep(60)"


def end(folder, code):
    """Runs the code in a process that notes what ends it; returns its exit status and the file."""
    path = folder / "stderr"
    with path.open("wb") as stderr:
        ended = subprocess.run(
            [sys.executable, "-c", f"{NOTED}\n{code}"], cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, timeout=60
        )
    assert ended.stdout.decode().strip() == str(path)
    return ended.returncode, str(path)


@pytest.mark.parametrize(
    ("code", "status", "noted"),
    [
        ("ctypes.string_at(0)", -11, "SIGSEGV"),
        ("os.abort()", -6, "SIGABRT"),
        (MYSELF.format("SIGFPE"), -8, "SIGFPE"),
        (MYSELF.format("SIGBUS"), -7, "SIGBUS"),
        (MYSELF.format("SIGILL"), -4, "SIGILL"),
        (MYSELF.format("SIGTERM"), -15, "SIGTERM"),
        (MYSELF.format("SIGXCPU"), -24, "SIGXCPU"),
        ("print('x' * 100_000, file=sys.stderr); os._exit(3)", 3, "exit code 3"),
        (MYSELF.format("SIGKILL"), -9, None),
        ("", 0, None),
        # The end of a process that the loss has forked is not the end of the worker.
        ("os.fork() or os._exit(3); os.wait()", 0, None),
        ("os.fork() or ctypes.string_at(0); os.wait()", 0, None),
        ("os.fork() or os.kill(os.getpid(), signal.SIGTERM); os.wait()", 0, None),
        # Nor is a signal that the loss handles.
        ("signal.signal(signal.SIGUSR1, lambda *_: None); os.kill(os.getpid(), signal.SIGUSR1)", 0, None),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the numbers of signals are Linux's")
def test_what_ended_a_process_is_found(tmp_path, code, status, noted):
    found, path = end(tmp_path, code)
    assert (found, look_up(path)) == (status, noted)


def test_where_stderr_is_not_a_file_nothing_can_be_noted():
    code = "from parity.cluster import last_words; print(last_words.note())"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.stdout == "None\n"


def test_a_log_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        look_up(str(tmp_path / "gone"))


def test_importing_changes_nothing():
    assert os._exit is last_words._exit
