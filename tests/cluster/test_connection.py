"""What connects to a cluster and lets go of it; without Ray."""

import ctypes
import os
import signal
import threading
from types import SimpleNamespace

import pytest

from parity.cluster import connection, lean_ray, starting
from parity.ground import interrupt


@pytest.fixture
def hanging(monkeypatch):
    """A call that does not return before the test is over."""
    over = threading.Event()
    monkeypatch.setattr(interrupt, "_state", interrupt._State())
    yield lambda *_, **__: over.wait(20)  # so that a test that waits for it fails
    over.set()


def test_a_shutdown_that_does_not_end_is_left(hanging, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(connection, "SHUTDOWN_S", 0.01)
    monkeypatch.setattr(starting, "SHUTDOWN_S", 0.01)
    connection._shut_down(SimpleNamespace(shutdown=hanging))
    assert capsys.readouterr().err == "parity: Ray did not shut down within 0 s; the command ends without it.\n"
    assert interrupt.abandoned()
    # Ray would end this process with status 1 at once if its raylet were killed before.
    monkeypatch.setattr(starting.psutil, "Process", None)
    starting.end_left(tmp_path)


def test_a_shutdown_that_ends_leaves_nothing_to_do(monkeypatch, capsys):
    monkeypatch.setattr(interrupt, "_state", interrupt._State())
    connection._shut_down(SimpleNamespace(shutdown=lambda: None))
    assert capsys.readouterr().err == "" and not interrupt.abandoned()


def test_what_ray_prints_about_its_processes_does_not_get_through(monkeypatch, capsys):
    ray = pytest.importorskip("ray")
    worker = ray._private.worker
    monkeypatch.setattr(worker, "_worker_logs_enabled", True)
    line = {"lines": ["Raylet is terminated."], "pid": "raylet", "is_err": False}
    worker.print_to_stdstream(line, ignore_prefix=False)
    assert "Raylet is terminated." in capsys.readouterr().out
    lean_ray.silence(ray)
    worker.print_to_stdstream({**line, "lines": ["Another one."]}, ignore_prefix=False)
    assert capsys.readouterr() == ("", "")


def test_sigterm_stays_ours_while_ray_joins_in_another_thread():
    """Ray's library installs a handler of its own, below Python."""
    received = []
    libc = ctypes.CDLL(None)
    before = signal.signal(signal.SIGTERM, lambda *_: received.append("ours"))
    try:
        with connection._own_sigterm():
            connection._join(lambda: libc.signal(int(signal.SIGTERM), 1), "auto")  # SIG_IGN
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == ["ours"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_cluster_that_does_not_let_us_in_is_left(hanging, monkeypatch):
    monkeypatch.setattr(connection.raylets, "join_limit_s", lambda address: 0.01)
    with pytest.raises(TimeoutError):
        connection._join(hanging, "10.0.0.1:6379")
    assert interrupt.abandoned()
    # It cannot be shut down either while it is being joined.
    connection._shut_down(SimpleNamespace(shutdown=None))
