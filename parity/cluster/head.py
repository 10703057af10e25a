"""The head of a cluster: whether it answers.

The system accepts a connection for a process that is frozen, and Ray then waits for its answer without a limit. So the
head has to send what every gRPC server sends first, its settings: they need no request and no token.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from parity.ground.errors import Trouble
from parity.ground.limit import limited

# How long a cluster's head may take to answer. Chosen: enough for a tunnel over a slow line.
KNOCK_S = 10.0
# What a client of HTTP/2 says first: the preface, and a frame of settings without any. Source: RFC 9113, 3.4 and 6.5.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


def ask(host: str, port: int, *, limit_s: float) -> None:
    """Asks the head for an answer.

    Args:
        host: Name or address of its machine.
        port: Its port.
        limit_s: How long each of finding the name, connecting and answering may take, in seconds.

    Raises:
        OSError: It does not answer.
    """
    try:
        # A name server that does not answer is asked several times, and the resolver knows no limit in all.
        found = limited(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), limit_s)
    except TimeoutError as error:
        raise TimeoutError(f"no name server has found {host} within {limit_s:g} s") from error
    with _connected(found, limit_s) as connection:
        try:
            connection.sendall(_PREFACE)
            connection.recv(1)
        except ConnectionError:
            pass  # a server that wants TLS may close the connection, which is an answer as well
        except TimeoutError as error:
            raise TimeoutError(f"it accepts connections, and has not answered within {limit_s:g} s") from error


def _connected(found: Sequence[tuple[Any, ...]], limit_s: float) -> socket.socket:
    """A connection to the first of the addresses, as `socket.getaddrinfo` returns them, that accepts one."""
    refused: OSError | None = None
    for *_, address in found:
        try:
            return socket.create_connection(address[:2], timeout=limit_s)
        except OSError as error:
            refused = error
    raise refused or OSError("its name has no address")


def check(address: str) -> None:
    """Checks that a cluster's head answers; Ray itself would try for minutes, and print a lot.

    Raises:
        Trouble: It does not.
    """
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return  # "auto" and others that Ray resolves
    try:
        ask(host.strip("[]"), int(port), limit_s=KNOCK_S)
    except (OSError, OverflowError, UnicodeError) as error:
        raise Trouble(
            f"The Ray cluster at {address} cannot be reached ({error}). "
            "Give the HOST:PORT that ray start printed; to train without Ray, use --inline."
        ) from error
