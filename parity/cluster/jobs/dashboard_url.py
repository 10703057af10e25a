"""The URL of a dashboard: whether anything listens there, and whether the token travels to it in clear."""

import ipaddress
import socket
import sys
from urllib.parse import urlsplit

from parity.ground.errors import Trouble

# How long the cluster may take to accept a connection. Chosen: enough for a tunnel over a slow line.
KNOCK_S = 10.0


def is_loopback(address: str) -> bool:
    """Whether a URL names this machine."""
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def warn_of_plain_http(address: str) -> None:
    """Warns on stderr if the token leaves this machine unencrypted."""
    parts = urlsplit(address)
    if parts.scheme == "http" and not is_loopback(address):
        print(
            f"parity: the token and the files travel to {parts.hostname} unencrypted. On a network that others use, "
            f"open a tunnel (ssh -L 8265:localhost:8265 {parts.hostname}) and give --address http://127.0.0.1:8265.",
            file=sys.stderr,
        )


def knock(address: str, host: str, port: int) -> None:
    """Raises `Trouble` if nothing listens at the address."""
    try:
        socket.create_connection((host, port), timeout=KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise Trouble(
            f"No Ray cluster answers at {address} ({error}). Give the address of its dashboard; "
            "if that listens only on the loopback interface of the head node, open a tunnel: "
            "ssh -L 8265:localhost:8265 HEAD."
        ) from error
