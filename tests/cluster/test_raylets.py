"""A driver on a machine that is not a node of the cluster gets a message that says so, and what to do; without Ray."""

from types import SimpleNamespace

import psutil
import pytest

from parity.cluster import connection, head, raylets
from parity.cluster.connection import connect
from parity.ground.errors import Trouble

CHOICES = (
    "Run parity on one of its nodes, make this machine one of them with ray start --address=10.0.0.1:6379, or submit "
    "the run as a job (parity submit)."
)


@pytest.fixture
def raylets_are(monkeypatch):
    """Makes these command lines those of this machine's raylets."""

    def run(*lines):
        processes = [
            SimpleNamespace(name=lambda: "python", cmdline=lambda: ["x", "--gcs-address=10.0.0.1:6379"]),
            *(SimpleNamespace(name=lambda: "raylet", cmdline=lambda line=line: line.split()) for line in lines),
        ]
        monkeypatch.setattr(psutil, "process_iter", lambda: iter(processes))
        return processes

    return run


def test_a_machine_without_a_raylet_is_not_a_node(raylets_are, monkeypatch):
    raylets_are()
    monkeypatch.setattr(head, "check", lambda address: None)
    with pytest.raises(Trouble) as trouble, connect("10.0.0.1:6379", data_bytes=0):
        pass
    assert str(trouble.value) == (
        f"This machine is not a node of the Ray cluster at 10.0.0.1:6379: no raylet runs on it. {CHOICES}"
    )


def test_a_machine_with_the_raylet_of_another_cluster_is_tried_for_a_short_time(raylets_are):
    raylets_are("raylet --gcs-address=10.0.0.2:6379")
    raylets.check_here("10.0.0.1:6379")
    # The same head may have two addresses.
    assert raylets.join_limit_s("10.0.0.1:6379") == head.KNOCK_S
    error = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")
    assert connection._not_joined("10.0.0.1:6379", error) == (
        "This machine is not a node of the Ray cluster at 10.0.0.1:6379: its raylets belong to 10.0.0.2:6379. "
        + CHOICES
    )
    # What says by itself what is wrong is passed on.
    assert "cannot be joined (x)" in connection._not_joined("10.0.0.1:6379", RuntimeError("x"))


def test_a_node_has_more_time(raylets_are):
    raylets_are("raylet --gcs-address=10.0.0.1:6379")
    raylets.check_here("10.0.0.1:6379")
    assert raylets.join_limit_s("10.0.0.1:6379") == raylets.JOIN_S
    assert raylets.why_not_joined("10.0.0.1:6379") is None


def test_a_raylet_is_known_on_windows(monkeypatch):
    line = [r"C:\ray\core\src\ray\raylet\raylet.exe", "--gcs-address=10.0.0.1:6379"]
    process = SimpleNamespace(name=lambda: "raylet.exe", cmdline=lambda: line)
    monkeypatch.setattr(psutil, "process_iter", lambda: iter([process]))
    assert raylets.raylets() == [(process, line)]
    raylets.check_here("10.0.0.1:6379")


def test_a_raylet_is_found_by_its_socket(raylets_are):
    processes = raylets_are("raylet --raylet_socket_name=/a/raylet", "raylet --raylet_socket_name=/b/raylet")
    assert raylets.with_socket("/b/raylet") is processes[2]
    assert raylets.with_socket("/c/raylet") is None
