"""A head that is frozen, gone or not to be found is reported in time, by a sentence; without Ray."""

import socket
import threading

import pytest

from parity.cluster import head
from parity.ground.errors import Trouble


@pytest.fixture
def frozen():
    """A server whose connections the system accepts, and that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def serve():
    """Starts a server that treats its one client as the function says."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def start(treat):
            threading.Thread(target=lambda: treat(server.accept()[0]), daemon=True).start()
            return f"127.0.0.1:{server.getsockname()[1]}"

        yield start


def settings(connection):
    """What each server of gRPC says first."""
    with connection:
        connection.recv(24)
        connection.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))


def reset(connection):
    """As a server may that wants TLS."""
    with connection:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.mark.parametrize("treat", [settings, reset, socket.socket.close])
def test_a_head_that_answers_is_none_to_report(serve, treat):
    head.check(serve(treat))


def test_a_head_that_is_frozen_is_reported(frozen, monkeypatch):
    monkeypatch.setattr(head, "KNOCK_S", 0.1)
    with pytest.raises(Trouble) as trouble:
        head.check(frozen)
    assert str(trouble.value) == (
        f"The Ray cluster at {frozen} cannot be reached (it accepts connections, and has not answered within 0.1 s). "
        "Give the HOST:PORT that ray start printed; to train without Ray, use --inline."
    )


def test_a_name_server_that_is_dead_is_waited_for_no_longer_than_a_head(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(head, "KNOCK_S", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait())
    try:
        with pytest.raises(Trouble, match=r"\(no name server has found head\.example within 0\.1 s\)"):
            head.check("head.example:6379")
    finally:
        over.set()


def test_a_name_that_cannot_be_one_is_reported():
    with pytest.raises(Trouble, match="cannot be reached"):
        head.check(f"{'x' * 64}.example:6379")


def test_what_ray_resolves_itself_is_left_to_it():
    head.check("auto")
    head.check("local")
