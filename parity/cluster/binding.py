"""What a worker is bound to from its start to its end, and what a trial needs its worker to be bound to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from parity.cluster.nodes import Node
from parity.plan.device import Device, environment, resources


@dataclass(frozen=True)
class Binding:
    """What a worker is bound to.

    Attributes:
        nodes: Ids of the nodes that it may be on.
        environment: Its environment variables, which name the GPU where the run chose one.
        cpus: Number of CPUs that Ray has given it.
        gpus: Number of GPUs that Ray has given it; 0 where the run holds the GPU (see `seats`).
    """

    nodes: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    cpus: int
    gpus: int


def bind(device: Device, nodes: Collection[Node]) -> Binding:
    """What the worker of a trial on this device has to be bound to.

    Args:
        device: The device; its index, if it has one, is that of a GPU which the run holds on the node.
        nodes: The nodes that the worker may be on.
    """
    needs = resources(device)
    return Binding(
        nodes=tuple(node.id for node in nodes),
        environment=tuple(sorted(environment(device).items())),
        cpus=needs["CPU"],
        gpus=needs["GPU"] if device.index is None else 0,
    )
