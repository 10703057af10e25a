"""The nodes of a cluster, and what each has to give out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.store.trials import HARDWARE, SOFTWARE


@dataclass(frozen=True)
class Node:
    """A node of a cluster.

    Attributes:
        id: Ray's number.
        name: What devices on it are named by; of equal names each has its number added.
        cpus: That Ray may give out; a head node often has none.
        gpus: Likewise.
        facts: Of its machine, as `machine.node_facts` gives them; empty where nobody looked or it did not answer.
        problem: Why there are no facts, or None.
    """

    id: str
    name: str
    cpus: int
    gpus: int
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)
    problem: str | None = None

    @property
    def hardware(self) -> tuple[object, ...]:
        """What it has in common with the nodes that owe it equal bits."""
        names = [str(gpu["gpu_name"]) for gpu in self.facts.get("gpus", [])]
        drivers = [str(gpu["gpu_driver"]) for gpu in self.facts.get("gpus", [])]
        shared = {"gpu_name": tuple(sorted(set(names))), "gpu_driver": tuple(sorted(set(drivers)))}
        return tuple({**self.facts, **shared}.get(name) for name in (*HARDWARE, *SOFTWARE))

    @property
    def gpu_indices(self) -> tuple[int, ...]:
        """Of the GPUs that Ray may give out."""
        found = [int(gpu["gpu_index"]) for gpu in self.facts.get("gpus", [])]
        return tuple(found[: self.gpus]) if found else tuple(range(self.gpus))

    def has(self, needs: Mapping[str, int]) -> bool:
        """Whether it could take a trial with these needs, if it had nothing else to do."""
        return self.cpus >= needs["CPU"] and self.gpus >= needs["GPU"]


def alive(raw: Iterable[Mapping[str, Any]]) -> tuple[Node, ...]:
    """The nodes that are alive by name, each with one of its own, from what `ray.nodes()` returns."""
    found = sorted((node for node in raw if node["Alive"]), key=lambda node: (_name(node), node["NodeID"]))
    names = [_name(node) for node in found]
    count = Counter(names)
    return tuple(
        Node(
            id=str(node["NodeID"]),
            name=name if count[name] == 1 else f"{name}-{str(node['NodeID'])[:8]}",
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node, name in zip(found, names, strict=True)
    )


def _name(node: Mapping[str, Any]) -> str:
    """What its starter called it, else its host."""
    given, address = node.get("NodeName"), node.get("NodeManagerAddress")
    return str(given if given and given != address else node.get("NodeManagerHostname") or address)
