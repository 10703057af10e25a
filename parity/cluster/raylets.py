"""The raylets of this machine: Ray's own processes, one of which connects a driver with its cluster.

Ray finds them in the same way, but searches for a minute before it gives up.
"""

from __future__ import annotations

import contextlib

import psutil

from parity.cluster.head import KNOCK_S
from parity.ground.errors import Trouble

# How long Ray may take to join a cluster whose head answers: it needs less than a second, or several on a busy machine.
JOIN_S = 30.0
# Names of the program; the second on Windows.
_PROGRAMS = ("raylet", "raylet.exe")


def raylets() -> list[tuple[psutil.Process, list[str]]]:
    """The raylets of this machine, each with its command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() in _PROGRAMS:
                found.append((process, process.cmdline()))
    return found


def with_socket(name: str | None) -> psutil.Process | None:
    """The raylet that listens on the socket of that name, or None. Those of other clusters listen on other sockets."""
    return next((process for process, line in raylets() if f"--raylet_socket_name={name}" in line), None)


def check_here(address: str) -> None:
    """Checks that this machine is a node of some cluster.

    Args:
        address: Address of the cluster that is to be joined.

    Raises:
        Trouble: It is not a node of any.
    """
    if not raylets():
        raise Trouble(_no_node(address, "no raylet runs on it"))


def join_limit_s(address: str) -> float:
    """How long joining a cluster may take, in seconds: not long where no raylet of this machine names that cluster.

    The same head may have several addresses, so such a raylet may belong to it all the same.
    """
    return JOIN_S if address in _clusters() or ":" not in address else KNOCK_S


def why_not_joined(address: str) -> str | None:
    """The message about a cluster that could not be joined if, most likely, this machine is not a node of it."""
    if address in _clusters() or ":" not in address:
        return None
    return _no_node(address, f"its raylets belong to {', '.join(sorted(_clusters()))}")


def _clusters() -> set[str]:
    """The addresses of the clusters that the raylets of this machine belong to."""
    flag = "--gcs-address="
    return {each.removeprefix(flag) for _, line in raylets() for each in line if each.startswith(flag)}


def _no_node(address: str, found: str) -> str:
    return (
        f"This machine is not a node of the Ray cluster at {address}: {found}. Run parity on one of its nodes, make "
        f"this machine one of them with ray start --address={address}, or submit the run as a job (parity submit)."
    )
