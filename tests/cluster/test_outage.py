"""A raylet or head that is gone is reported before Ray ends the driver with a status that means something else."""

import queue
import socket
import subprocess

import psutil
import pytest

from parity.cluster import outage


@pytest.fixture
def reported():
    return queue.Queue()


def test_a_raylet_that_has_ended_is_reported(reported):
    with (
        subprocess.Popen(["sleep", "1000"]) as process,
        outage.raylet_watched(psutil.Process(process.pid), reported.put),
    ):
        assert reported.empty()
        process.kill()  # and nobody has asked for its status yet: a zombie
        reason = reported.get(timeout=30)
    assert reason == "Ray's process on this machine (the raylet) has ended, and the run with it."


def test_a_head_that_does_not_answer_for_long_is_reported(reported, monkeypatch):
    """Frozen: the system accepts connections for it all the same."""
    monkeypatch.setattr(outage, "ASK_EVERY_S", 0.05)
    monkeypatch.setattr(outage, "HEAD_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = server.getsockname()
        with outage.head_watched(head, reported.put):
            for _ in range(2):
                with server.accept()[0] as connection:
                    connection.sendall(b"settings")
            assert reported.empty()
            assert reported.get(timeout=30) == f"The cluster's head at 127.0.0.1:{head[1]} has not answered for 0 s."


def test_a_head_that_is_silent_does_not_hide_a_raylet_that_has_ended(reported, monkeypatch):
    monkeypatch.setattr(outage, "ASK_EVERY_S", 1.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen(["sleep", "1000"]) as process,
        outage.head_watched(server.getsockname(), reported.put),
        outage.raylet_watched(psutil.Process(process.pid), reported.put),
        server.accept()[0],  # it is being asked
    ):
        process.kill()
        assert "(the raylet) has ended" in reported.get(timeout=0.9)


def test_nothing_is_reported_once_the_block_is_left(reported):
    with subprocess.Popen(["sleep", "1000"]) as process:
        with outage.raylet_watched(psutil.Process(process.pid), reported.put):
            pass
        process.kill()
    with pytest.raises(queue.Empty):
        reported.get(timeout=3 * outage.EVERY_S)
