"""The first Ctrl-C or SIGTERM ends a command in order, the second at once; each test starts a process."""

import importlib
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from parity.__main__ import main
from parity.ground import interrupt

from conftest import ROOT

# Prints "ready", and runs the given code; ends as a command does.
COMMAND = """
import hashlib, sys, time
from parity.ground import interrupt
from parity.ground.command import guarded
from parity.ground.temporary import temporary_folder

def ready():
    print("ready", flush=True)

def busy():  # in one call, in which Python runs no handler
    ready()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000_000)

def command():
{code}

sys.exit(guarded(command))
"""
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture
def started(tmp_path):
    """Starts such a command; its temporary folders are in the test's."""
    processes = []

    def start(*code):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND.format(code="\n".join(f"    {line}" for line in code))],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": os.fspath(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in processes:
        with process:
            process.kill()


def wait_until_busy(process):
    """Waits until the long call has begun: a signal between "ready" and the call ends the command in order."""
    times = psutil.Process(process.pid).cpu_times
    begun = times().user
    while times().user < begun + 0.1:
        time.sleep(0.01)


def ended(process, *, limit_s=30):
    out, err = process.communicate(timeout=limit_s)
    return process.returncode, out, err


@pytest.mark.parametrize("sent", SIGNALS)
def test_the_first_ends_in_order(started, sent):
    process = started("interrupt.keep('runs/x')", "try: ready(); time.sleep(60)", "finally: print('in order')")
    process.send_signal(sent)
    message = "parity: interrupted. What was trained is kept: continue it with --resume runs/x.\n"
    assert ended(process) == (2, "in order\n", message)


@pytest.mark.parametrize("sent", SIGNALS)
def test_the_second_ends_at_once_and_leaves_nothing(started, tmp_path, sent):
    """Even in the middle of a long call; the processes that it started end too."""
    process = started(
        "import subprocess",
        "interrupt.keep('runs/x')",
        "with temporary_folder():",
        "    child = subprocess.Popen(['sleep', '1000'])",
        "    try: busy()",
        "    finally: print('never printed')",
    )
    assert list(tmp_path.glob("parity-*"))
    wait_until_busy(process)
    while process.poll() is None:  # a busy machine may deliver two as one
        process.send_signal(sent)
        time.sleep(interrupt.ONCE_S + 0.1)
    message = (
        "parity: interrupted again, and stopped at once. What was trained is kept: continue it with --resume runs/x.\n"
    )
    assert ended(process) == (2, "", message)  # its output is at an end only once the child's is
    assert not list(tmp_path.glob("parity-*"))


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_a_call_that_was_abandoned_keeps_neither_the_status_nor_the_end_back(started, tmp_path, status):
    """What is registered for the end of the process may wait for that call as well; its children end with it."""
    process = started(
        "import atexit, subprocess",
        "atexit.register(time.sleep, 1000)",
        "with temporary_folder():",
        "    child = subprocess.Popen(['sleep', '1000'])",
        "    ready()",
        "    interrupt.abandon()",
        "    time.sleep(0.5); print('reported')",
        f"    return {status}",
    )
    assert ended(process) == (status, "reported\n", "")  # its output is at an end only once the child's is
    assert not list(tmp_path.glob("parity-*"))


def test_one_that_comes_twice_at_the_same_time_is_one(started):
    process = started("try: ready(); time.sleep(60)", "finally: time.sleep(interrupt.ONCE_S); print('in order')")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (2, "in order\n", "parity: interrupted.\n")


def test_what_is_held_is_not_broken_off(started):
    process = started(
        "with interrupt.held():", "    ready(); time.sleep(0.5); print('whole')", "print('and no further')"
    )
    process.send_signal(signal.SIGINT)
    assert ended(process) == (2, "whole\n", "parity: interrupted.\n")


def test_what_is_let_through_while_others_are_held_is_interrupted(started):
    process = started(
        "with interrupt.held():",
        "    with interrupt.let_through():",
        "        ready(); time.sleep(60)",
    )
    process.send_signal(signal.SIGINT)
    assert ended(process) == (2, "", "parity: interrupted.\n")


def test_a_background_job_of_a_shell_keeps_ignoring_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt.interruptible():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def open_files():
    """The file descriptors of this process with what they refer to, since other threads may use a number again."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one of this listing
            found.add((path.name, path.readlink()))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_afterwards_all_is_as_before():
    before = [signal.getsignal(each) for each in SIGNALS]
    files = open_files()
    with interrupt.interruptible():
        opened = open_files() - files
        assert len(opened) >= 2
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert opened & open_files() == set()
    assert signal.set_wakeup_fd(-1) == -1


def test_an_interruption_of_the_import_of_a_command_is_in_order(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["report", "runs/mine"]) == 2
    assert capsys.readouterr().err == "parity: interrupted.\n"
