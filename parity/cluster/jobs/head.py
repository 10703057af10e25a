"""The head node of a cluster, on which jobs run, and the interpreter that a job gets there."""

import json
import shlex
import socket
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Node:
    """A node of the cluster, as its dashboard describes it.

    Attributes:
        node_id: Ray's id of the node, which it draws when it starts.
        hostname: Name of its machine.
        session_dir: Folder of the cluster's session there.
    """

    node_id: str
    hostname: str
    session_dir: str

    @property
    def is_here(self) -> bool:
        """Whether it is this very machine."""
        # Not by an address: a tunnel ends on this machine as well, and different networks use the same private
        # addresses. A node writes files that end with its id to the folder of the session. The name of the machine
        # tells apart machines, or a machine and its containers, that share the folder.
        return self.hostname == socket.gethostname() and any(Path(self.session_dir).glob(f"*_{self.node_id}"))


@dataclass(frozen=True)
class Interpreter:
    """The interpreter of a job.

    Attributes:
        command: How a shell on the head node starts it.
        reason: Why it is this one.
    """

    command: str
    reason: str


# What a job gets as long as nothing is known of the cluster.
PYTHON = Interpreter("python", "")


def choose_interpreter(given: str | None, head: Node | None) -> Interpreter:
    """The interpreter that a job gets.

    Args:
        given: Value of `--python`, or None.
        head: The head node, or None if the cluster does not describe it.
    """
    if given:
        return Interpreter(given, "as --python says")
    if head and head.is_here:
        # What is called `python` on this machine may lack Ray.
        return Interpreter(shlex.quote(sys.executable), "which runs now, as the head of the cluster is this machine")
    where = f"is another machine, {head.hostname}" if head else "is unknown"
    return Interpreter(PYTHON.command, f"as the head of the cluster {where}; choose another with --python")


def described_heads(text: str) -> list[Node] | None:
    """The head nodes that are alive, from the answer of a dashboard.

    Args:
        text: The answer, in JSON.

    Returns:
        One node, or none before it is registered; None if the answer is not in the form that is known.
    """
    try:
        nodes = [each["raylet"] for each in json.loads(text)["data"]["summary"]]
        heads = [each for each in nodes if each["isHeadNode"] and each["state"] == "ALIVE"]
        return [Node(each["nodeId"], each["nodeManagerHostname"], each["sessionDir"]) for each in heads]
    except (LookupError, TypeError, ValueError):
        return None


def listed_logs(text: str) -> list[str]:
    """The names of the logs of a node, from the answer of a dashboard.

    Args:
        text: The answer, in JSON.

    Returns:
        The names; none if the answer is not in the form that is known.
    """
    try:
        return [name for names in json.loads(text)["data"]["result"].values() for name in names]
    except (AttributeError, LookupError, TypeError, ValueError):
        return []
