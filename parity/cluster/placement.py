"""Where trials may run on a cluster: its nodes, devices placed on each of them, and what there is room for.

Plain data in, plain data out: knows nothing of Ray but the form of `ray.nodes()`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from parity.cluster.nodes import Node
from parity.ground.errors import Trouble
from parity.plan.device import Device, resources
from parity.plan.trial import Trial


def expand(wanted: Sequence[Device], each: str | None, nodes: Sequence[Node]) -> tuple[Device, ...]:
    """Puts the devices of `--each` in the place of those that name no node.

    Args:
        wanted: As `--device` gave them.
        each: "node", "gpu" or None.
        nodes: Of the cluster.

    Returns:
        Each device on every node (with CPUs to give out), or on every GPU; those that name a node as they are, in the
        place of an equal one. So `--each node --device cpu cpu:plant=flip-100@b` is a fire drill.

    Raises:
        Trouble: A device cannot be placed so, there is no such node, or no GPU.
    """
    _check_places(wanted, nodes)
    if each is None:
        return tuple(wanted)
    kind = {"node": "cpu", "gpu": "cuda"}[each]
    wrong = [device.name for device in wanted if device.kind != kind]
    if wrong:
        raise Trouble(f"--each {each} places devices of kind {kind}, not {', '.join(wrong)}. Leave them out.")
    spots = [
        (node.name, index)
        for node in nodes
        if (node.cpus if each == "node" else node.gpus)
        for index in ((None,) if each == "node" else node.gpu_indices)
    ]
    if not spots:
        what = "GPU" if each == "gpu" else "CPU to give out"
        raise Trouble(
            f"--each {each}: no node of this cluster has a {what}; it has {_listed(nodes)}. "
            f"{'Use --each node, or add a GPU node type.' if each == 'gpu' else 'Add a node.'}"
        )
    placed = [replace(device, node=name, index=index) for name, index in spots for device in wanted if not device.node]
    given = {replace(device, plant=None): device for device in wanted if device.node}
    expanded = [given.pop(device, device) for device in placed]
    return (*expanded, *given.values())


def _check_places(wanted: Sequence[Device], nodes: Sequence[Node]) -> None:
    by_name = {node.name: node for node in nodes}
    for device in wanted:
        if not device.node:
            continue
        if device.node not in by_name:
            raise Trouble(
                f"Device {device.name}: this cluster has no node {device.node!r}; it has {_listed(nodes)}. "
                "python -m parity.devices lists them."
            )
        indices = by_name[device.node].gpu_indices
        if device.index is not None and device.index not in indices:
            raise Trouble(
                f"Device {device.name}: node {device.node} has "
                f"{'the GPUs ' + ', '.join(map(str, indices)) if indices else 'no GPU'}, not {device.index}."
            )


def _listed(nodes: Sequence[Node], *, most: int = 8) -> str:
    names = [node.name for node in nodes]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def check(trials: Sequence[Trial], nodes: Sequence[Node]) -> None:
    """Raises `Trouble` for a trial that no node could ever take, or not the one that it names."""
    checked = set()
    for trial in trials:
        if trial.device in checked:
            continue
        checked.add(trial.device)
        needs = resources(trial.device)
        candidates = [node for node in nodes if trial.device.node in (None, node.name)]
        if not any(node.has(needs) for node in candidates):
            raise Trouble(_unplaceable(trial, needs, candidates))


def _unplaceable(trial: Trial, needs: Mapping[str, int], nodes: Sequence[Node]) -> str:
    if needs["GPU"] and not any(node.gpus for node in nodes):
        return (
            f"Trial {trial.name} needs 1 GPU, and no node of this cluster has one. "
            "Use --device cpu, or add a GPU node type."
        )
    largest = max((node.cpus for node in nodes), default=0)
    whose = f"node {trial.device.node}" if trial.device.node else "the largest of this cluster"
    return (
        f"Trial {trial.name} needs {needs['CPU']} CPUs on one node, and {whose} has {largest}. "
        "Use fewer threads, or add a larger node type."
    )


def equals(device: Device, nodes: Sequence[Node]) -> object:
    """What a device has in common with those that owe it equal bits: its settings, and the hardware of its node."""
    node = next((node for node in nodes if node.name == device.node), None)
    return (device.without_location, node.hardware) if node else device


class Placement:
    """Which nodes a trial may run on, and whether there is room for it now."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._used: dict[tuple[str, str], int] = defaultdict(int)
        self._known: dict[str, Node] = {}
        self.renew(nodes)

    def renew(self, nodes: Sequence[Node]) -> None:
        """Takes note of the nodes that are there now; keeps what is known of those that were there before."""
        before = {node.id: node for node in self._known.values()}
        self.nodes = tuple(before.get(node.id, node) for node in nodes)
        self.by_id = {node.id: node for node in self.nodes}
        self._known |= {node.name: node for node in self.nodes}
        self._homes: dict[Device, tuple[Node, ...]] = {}

    def nodes_for(self, device: Device, *, hardware: tuple[object, ...] | None = None) -> tuple[Node, ...]:
        """The nodes on which the device's trials may run; empty where there is none.

        Its own, if it names one that is there. Else those of one class of hardware: its own's or the given one, or the
        one with the most room, so that a device is the same hardware in all trials.
        """
        own = self._known.get(device.node or "")
        if own and own.id in self.by_id:
            return (own,)
        hardware = own.hardware if own else hardware
        if hardware is None and device in self._homes:
            return self._homes[device]
        classes: dict[tuple[object, ...], list[Node]] = defaultdict(list)
        for node in self.nodes:
            if node.has(resources(device)):
                classes[node.hardware].append(node)
        if hardware is not None:
            return tuple(classes.get(hardware, ()))
        kind = "gpus" if resources(device)["GPU"] else "cpus"
        home = max(classes.values(), key=lambda members: sum(getattr(node, kind) for node in members), default=[])
        return self._homes.setdefault(device, tuple(home))

    def room(self, device: Device, nodes: Collection[Node]) -> bool:
        """Whether the nodes together have room; Ray queues what fits none of them at the moment."""
        needs = resources(device)
        for kind in ("CPU", "GPU"):
            total = sum(node.cpus if kind == "CPU" else node.gpus for node in nodes)
            used = sum(self._used[node.id, kind] for node in nodes) + self._used[_pool(nodes), kind]
            if needs[kind] and used and used + needs[kind] > total:
                return False
        return True

    def take(self, device: Device, nodes: Collection[Node], *, amount: int = 1) -> None:
        """Takes note of a trial that runs there; of its end with amount -1."""
        key = next(iter(nodes)).id if len(nodes) == 1 else _pool(nodes)
        for kind, need in resources(device).items():
            self._used[key, kind] += amount * need


def _pool(nodes: Collection[Node]) -> str:
    return f"pool of {min((node.id for node in nodes), default='nobody')}"
