"""The nodes of a cluster: what each has to give out, and what its machine is."""

from __future__ import annotations

import itertools
import re
import socket
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from parity.ground.errors import Trouble
from parity.store.trials import HARDWARE, SOFTWARE
from parity.version import package_sha256

# How long a node may take to report its facts: a new process has to import torch there, which takes seconds when idle
# and ten times as long on a busy machine.
PROBE_S = 60.0
# How long the host of a raylet may take to refuse a connection; one that does not answer may be slow.
REFUSES_S = 1.0
# The label that Ray itself puts on every node.
# Source: docs.ray.io/en/latest/ray-core/scheduling/labels.html.
_NODE_LABEL = "ray.io/node-id"
# The facts that make a class of nodes: another commit of parity need not produce the same bits either.
_CLASS = (*HARDWARE, *SOFTWARE, "parity_sha256")


@dataclass(frozen=True)
class Node:
    """A node of a cluster.

    Attributes:
        id: Ray's id of the node.
        name: Its name in the names of devices; where several nodes share a name, with the start of the id appended.
        cpus: Number of CPUs that Ray may give out; often 0 on a head node.
        gpus: Number of GPUs that Ray may give out.
        facts: Facts of its machine, as `machine.node_facts` returns them; empty if the node was not asked or did not
            answer.
        problem: Why there are no facts, or None.
    """

    id: str
    name: str
    cpus: int
    gpus: int
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)
    problem: str | None = None

    @cached_property
    def hardware(self) -> tuple[object, ...]:
        """Its class: the facts of hardware and software that nodes share which have to produce equal bits."""
        # A node is compared by the models of its GPUs, however many of each it has.
        names = [str(gpu["gpu_name"]) for gpu in self.facts.get("gpus", [])]
        drivers = [str(gpu["gpu_driver"]) for gpu in self.facts.get("gpus", [])]
        shared = {"gpu_name": tuple(sorted(set(names))), "gpu_driver": tuple(sorted(set(drivers)))}
        return tuple({**self.facts, **shared}.get(name) for name in _CLASS)

    @property
    def gpu_indices(self) -> tuple[int, ...]:
        """Numbers of the GPUs that Ray may give out."""
        found = [int(gpu["gpu_index"]) for gpu in self.facts.get("gpus", [])]
        return tuple(found[: self.gpus]) if found else tuple(range(self.gpus))

    def has(self, needs: Mapping[str, int]) -> bool:
        """Whether the node, when idle, has the resources that a trial needs.

        Args:
            needs: Number of "CPU" and of "GPU".
        """
        return self.cpus >= needs["CPU"] and self.gpus >= needs["GPU"]


def alive(raw: Iterable[Mapping[str, Any]]) -> tuple[Node, ...]:
    """The nodes that are alive, each with a name of its own, in the order of their names: h10 comes after h9.

    Args:
        raw: What `ray.nodes()` returns.
    """
    # Sorted, since the order of the nodes is that of the devices, of which the first is the baseline.
    there = _without_predecessors([node for node in raw if node["Alive"]])
    found = sorted(there, key=lambda node: (_by_number(_name(node)), node["NodeID"]))
    names = [_name(node) for node in found]
    count = Counter(names)
    ids = [str(node["NodeID"]) for node in found]
    # As much of the id as tells all nodes apart.
    digits = next(digits for digits in itertools.count(8) if len({each[:digits] for each in ids}) == len(ids))
    return tuple(
        Node(
            id=str(node["NodeID"]),
            name=name if count[name] == 1 else f"{name}-{str(node['NodeID'])[:digits]}",
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node, name in zip(found, names, strict=True)
    )


def _without_predecessors(raw: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leaves out nodes that are gone, and whose host has started another one, but that Ray still lists as alive.

    Ray needs up to a minute to find out that a raylet was killed. Several raylets that run on one host all stay.
    """
    hosts: dict[tuple[str, object], list[Mapping[str, Any]]] = defaultdict(list)
    for node in raw:
        hosts[_name(node), node["NodeManagerAddress"]].append(node)
    return [node for nodes in hosts.values() for node in (_newest(nodes) if len(nodes) > 1 else nodes)]


def _newest(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The nodes of one host whose raylets are running; all of them if none seems to be."""
    # Two cannot listen on one port: the later of them runs. Ray counts the sockets of a session: raylet, raylet.1, ...
    in_order = sorted(nodes, key=lambda node: _count(node["RayletSocketName"]))
    later = list({node["NodeManagerPort"]: node for node in in_order}.values())
    return [node for node in later if not _refuses(node)] or later


def _count(socket_name: str) -> int:
    """The number at the end of the name of a raylet's socket; 0 if there is none."""
    number = socket_name.rpartition(".")[2]
    return int(number) if number.isdigit() else 0


def _refuses(node: Mapping[str, Any]) -> bool:
    """Whether nothing listens at the port of the node's raylet, while its host is there."""
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=REFUSES_S).close()
    except OSError as error:
        return isinstance(error, ConnectionRefusedError)
    return False


def as_stored(nodes: Sequence[Node]) -> dict[str, Any]:
    """The classes of nodes, for run.json: the facts of each class once, and the class of each node by its name."""
    facts = {node.hardware: node.facts for node in reversed(nodes)}
    numbers = {hardware: number for number, hardware in enumerate(facts)}
    kept = (*_CLASS, "gpus")
    return {
        "classes": [{name: each[name] for name in kept if name in each} for each in facts.values()],
        "nodes": {node.name: numbers[node.hardware] for node in nodes},
    }


def from_stored(kept: Mapping[str, Any]) -> tuple[Node, ...]:
    """The nodes of which `as_stored` has kept the classes; what they have to give out is not known any longer."""
    return tuple(
        Node(id="", name=name, cpus=0, gpus=0, facts=_completed(kept["classes"][number]))
        for name, number in kept.get("nodes", {}).items()
    )


def _completed(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The facts; with the digest of this parity if they were stored by a version that had no such fact."""
    return {"parity_sha256": package_sha256(), **facts} if facts.get("parity") else facts


def _name(node: Mapping[str, Any]) -> str:
    """The name that the node was started with, else its host name; Ray gives an unnamed node its address as name."""
    given, address = node.get("NodeName"), node.get("NodeManagerAddress")
    return str(given if given and given != address else node.get("NodeManagerHostname") or address)


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them.

    >>> sorted(["h10", "h9", "h9b", "a"], key=_by_number)
    ['a', 'h9', 'h9b', 'h10']
    """
    # Texts and numbers alternate, so that a text is never compared with a number. The whole name comes last, for names
    # whose numbers are equal, such as h1 and h01.
    parts = re.split("([0-9]+)", name)
    return [(int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)] + [(0, name)]


def on_nodes(*ids: str) -> dict[str, str]:
    """The label selector that keeps an actor or a call on one of these nodes."""
    return {_NODE_LABEL: ids[0] if len(ids) == 1 else f"in({','.join(ids)})"}


def this_node() -> str:
    """Id of the node that this process runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def wait_for_nodes(ray: Any, count: int, *, gpu: bool, limit_s: float) -> None:
    """Waits until that many nodes have a free CPU, or GPU; an autoscaler starts those that are missing.

    Args:
        ray: The module `ray`, connected to the cluster.
        count: Number of nodes to wait for.
        gpu: Whether each of them has to have a free GPU in place of a CPU.
        limit_s: Longest time to wait, in seconds.

    Raises:
        Trouble: They did not come in time.
    """
    kind = "GPU" if gpu else "CPU"
    # Bundles that must not share a node are a request that the autoscaler understands, and they are ready when the
    # nodes are.
    group = ray.util.placement_group([{kind: 1}] * count, strategy="STRICT_SPREAD")
    try:
        came = group.wait(timeout_seconds=limit_s)
    finally:
        # The trials need what the group holds; and one that was never ready would keep the autoscaler at work.
        ray.util.remove_placement_group(group)
    if not came:
        found = [node.name for node in alive(ray.nodes()) if (node.gpus if gpu else node.cpus)]
        raise Trouble(
            f"--wait-for-nodes {count}: after {limit_s:.0f} s fewer nodes have a free {kind}. "
            f"Nodes with {kind}s, busy or not: {', '.join(found) or 'none'}. "
            "Wait longer with --wait-limit, or raise the maximum of the node type."
        )


def probe(ray: Any, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Asks all nodes at once for the facts of their machines.

    Args:
        ray: The module `ray`, connected to the cluster.
        nodes: The nodes to ask.

    Returns:
        The nodes in their order, each with its facts, or with the problem that kept it from answering.
    """
    # The call needs no CPU, so that a node also answers if all its CPUs are busy, or if it has none to give out.
    call = ray.remote(num_cpus=0, max_retries=1)(node_facts)
    asked = {node.id: call.options(label_selector=on_nodes(node.id)).remote() for node in nodes}
    _, late = ray.wait(list(asked.values()), num_returns=len(asked), timeout=PROBE_S)
    for reference in late:
        # Without force, a call that hangs, in an import for example, might not end.
        ray.cancel(reference, force=True)
    silent = f"it did not answer within {PROBE_S:.0f} s"
    return tuple(
        replace(node, problem=silent) if asked[node.id] in late else _answered(ray, asked[node.id], node)
        for node in nodes
    )


def node_facts() -> dict[str, Any]:
    """The facts of the machine that this is called on, as `machine.node_facts` returns them."""
    from parity.train import machine  # imports torch, which the driver does without

    return machine.node_facts()


def _answered(ray: Any, reference: Any, node: Node) -> Node:
    try:
        return replace(node, facts=ray.get(reference))
    except ray.exceptions.RayError as error:
        # Ray's message holds the traceback of the node; what went wrong is in its last line.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return replace(node, problem=lines[-1] if lines else type(error).__name__)
