"""A raylet or head that is gone is told, before Ray ends the driver with a status that is taken."""

import queue
import socket
import subprocess

import psutil
import pytest

from parity.cluster import outage


@pytest.fixture
def told():
    return queue.Queue()


def test_a_raylet_that_has_ended_is_told(told):
    with (
        subprocess.Popen(["sleep", "1000"]) as process,
        outage.watched(psutil.Process(process.pid), None, told.put),
    ):
        assert told.empty()
        process.kill()  # and nobody has asked for its status yet: a zombie
        reason = told.get(timeout=30)
    assert reason == "Ray's process on this machine (the raylet) has ended, and the run with it."


def test_a_head_that_does_not_answer_for_long_is_told(told, monkeypatch):
    monkeypatch.setattr(outage, "KNOCK_EVERY_S", 0.05)
    monkeypatch.setattr(outage, "HEAD_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = server.getsockname()
        with outage.watched(None, head, told.put):
            server.accept()[0].close()
            server.accept()[0].close()
            assert told.empty()
            server.close()
            assert told.get(timeout=30) == f"The cluster's head at 127.0.0.1:{head[1]} has not answered for 0 s."


def test_nothing_is_told_once_the_block_is_left(told):
    with subprocess.Popen(["sleep", "1000"]) as process:
        with outage.watched(psutil.Process(process.pid), None, told.put):
            pass
        process.kill()
    with pytest.raises(queue.Empty):
        told.get(timeout=3 * outage.EVERY_S)
