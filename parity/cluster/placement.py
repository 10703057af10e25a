"""Where trials may run on a cluster: devices placed on nodes, classes of equal nodes, and the room that is left.

Plain data in, plain data out, without Ray.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from parity.cluster.nodes import Node
from parity.ground.errors import Trouble
from parity.plan.device import EACH, Device, resources
from parity.plan.trial import Trial


def expand(wanted: Sequence[Device], each: str | None, nodes: Sequence[Node]) -> tuple[Device, ...]:
    """Replaces each device without a node by that device on every node, or on every GPU, as `--each` asks for.

    Args:
        wanted: The devices given to `--device`.
        each: Value of `--each`: "node", "gpu" or None.
        nodes: The nodes of the cluster. Those without a CPU for trials, often the head, are left out.

    Returns:
        The placed devices. A device that names its node stays as it is, and replaces the same device without a planted
        fault. So `--each node --device cpu cpu:plant=flip-100@b` is a fire drill: each node, one of them with a fault.

    Raises:
        Trouble: A device names a node or GPU that the cluster does not have, `--each` does not fit the kind of a
            device, or no node has what `--each` asks for.
    """
    _check_locations(wanted, nodes)
    if each is None:
        return tuple(wanted)
    kind = EACH[each]
    wrong = [device.name for device in wanted if device.kind != kind]
    if wrong:
        raise Trouble(f"--each {each} places devices of kind {kind}, not {', '.join(wrong)}. Leave them out.")
    locations = [
        (node.name, index)
        for node in nodes
        if (node.cpus if each == "node" else node.gpus)
        for index in ((None,) if each == "node" else node.gpu_indices)
    ]
    if not locations:
        what = "GPU" if each == "gpu" else "CPU for trials"
        raise Trouble(
            f"--each {each}: no node of this cluster ({_listed(nodes)}) has a {what}. "
            f"{'Use --each node, or add a GPU node type.' if each == 'gpu' else 'Add a node.'}"
        )
    placed = [
        replace(device, node=name, index=index) for name, index in locations for device in wanted if not device.node
    ]
    # Keyed by the same device without its fault, which it takes the place of.
    given = {replace(device, plant=None): device for device in wanted if device.node}
    expanded = [given.pop(device, device) for device in placed]
    # What is left replaces nothing: other settings on a node, or a node that `--each` leaves out.
    return (*expanded, *given.values())


def _check_locations(wanted: Sequence[Device], nodes: Sequence[Node]) -> None:
    """Raises `Trouble` for a device on a node or GPU that the cluster does not have."""
    by_name = {node.name: node for node in nodes}
    for device in wanted:
        if not device.node:
            continue
        if device.node not in by_name:
            raise Trouble(
                f"Device {device.name}: this cluster ({_listed(nodes)}) has no node {device.node!r}. "
                "python -m parity.devices lists its nodes."
            )
        indices = by_name[device.node].gpu_indices
        if device.index is not None and device.index not in indices:
            raise Trouble(
                f"Device {device.name}: node {device.node} has no GPU {device.index}. "
                f"Its GPUs: {', '.join(map(str, indices)) or 'none'}."
            )


def _listed(nodes: Sequence[Node], *, most: int = 8) -> str:
    """The names of the nodes, of a large cluster the first few."""
    names = [node.name for node in nodes]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def check(trials: Sequence[Trial], nodes: Sequence[Node], *, gone: Collection[str] = ()) -> None:
    """Raises `Trouble` for a trial that no node could run even when idle, or not the node that it names.

    Args:
        trials: The trials.
        nodes: The nodes of the cluster.
        gone: Names of nodes that have left: what becomes of their trials is decided as for a node that leaves later.
    """
    checked = {trial.device for trial in trials if trial.device.node in gone}
    for trial in trials:
        # What a trial needs depends on its device alone, and thousands of trials may share one.
        if trial.device in checked:
            continue
        checked.add(trial.device)
        needs = resources(trial.device)
        candidates = [node for node in nodes if trial.device.node in (None, node.name)]
        if not any(node.has(needs) for node in candidates):
            raise Trouble(_unplaceable(trial, needs, candidates))


def lacking(trials: Sequence[Trial], nodes: Sequence[Node]) -> set[tuple[int, int]]:
    """What trials on any node need and no node has, even when idle: numbers of CPUs and of GPUs."""
    needs = [resources(device) for device in {trial.device for trial in trials} if not device.node]
    return {(each["CPU"], each["GPU"]) for each in needs if not any(node.has(each) for node in nodes)}


def _unplaceable(trial: Trial, needs: Mapping[str, int], nodes: Sequence[Node]) -> str:
    """The message about a trial that none of these nodes can run."""
    if needs["GPU"] and not any(node.gpus for node in nodes):
        return (
            f"Trial {trial.name} needs 1 GPU, and no node of this cluster has one. "
            "Use --device cpu, or add a GPU node type."
        )
    largest = max((node.cpus for node in nodes), default=0)
    whose = f"node {trial.device.node}" if trial.device.node else "the largest node of this cluster"
    return (
        f"Trial {trial.name} needs {needs['CPU']} CPUs on one node, and {whose} has {largest}. "
        "Use fewer threads, or add a larger node type."
    )


def equals(device: Device, nodes: Sequence[Node]) -> object:
    """What a device shares with those that have to produce equal bits: its settings, and the class of its node.

    Args:
        device: The device.
        nodes: The nodes of the cluster, with their facts.

    Returns:
        A key to compare and to hash; the device itself if it is on any node.
    """
    node = next((node for node in nodes if node.name == device.node), None)
    return (device.without_location, node.hardware) if node else device


class Placement:
    """Decides which nodes a trial may run on, and whether there is room for it at the moment.

    Attributes:
        nodes: The nodes that are alive.
        by_id: The same nodes by their id.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        # Number of CPUs and GPUs in use, by node or group of nodes (`_key`) and kind.
        self._used: dict[tuple[str, str], int] = defaultdict(int)
        # Every node that was ever seen, by name: a device keeps its class of hardware when its node leaves.
        self._known: dict[str, Node] = {}
        # Classes of nodes that a run was begun on, by name: a machine may come back as another one.
        self._then: dict[str, tuple[object, ...]] = {}
        # The class chosen for a device: its trials must not spread over several, whatever nodes come later.
        self._classes: dict[Device, tuple[object, ...]] = {}
        self.renew(nodes)

    def renew(self, nodes: Sequence[Node]) -> None:
        """Replaces the nodes by those that are alive now, and keeps the facts of those that are known already."""
        before = {node.id: node for node in self._known.values()}
        self.nodes = tuple(before.get(node.id, node) for node in nodes)
        self.by_id = {node.id: node for node in self.nodes}
        # Never removed, see `__init__`.
        self._known |= {node.name: node for node in self.nodes}
        # The nodes chosen for a device, until the nodes change.
        self._homes: dict[Device, tuple[Node, ...]] = {}

    def remember(self, nodes: Sequence[Node]) -> None:
        """Takes in the nodes that the run was begun on, with their facts; some of them may have left."""
        self._then = {node.name: node.hardware for node in nodes}

    def nodes_for(self, device: Device, *, hardware: tuple[object, ...] | None = None) -> tuple[Node, ...]:
        """The nodes on which a device's trials may run; empty if there are none.

        If the device names a node that is alive, only that node. Otherwise the nodes of a single class, so that a
        device is the same hardware in all trials: the class of the node that it names, else the one that is given,
        else the one with the most CPUs or GPUs among those that are known.

        Args:
            device: The device.
            hardware: Class that the trial has to stay in, as `Node.hardware`, or None.
        """
        own, then = self._known.get(device.node or ""), self._then.get(device.node or "")
        if own and own.id in self.by_id and then in (None, own.hardware):
            return (own,)
        # Its node has left, so another node of that class takes its place.
        hardware = then or (own.hardware if own else hardware)
        if hardware is None and device in self._homes:
            return self._homes[device]
        classes: dict[tuple[object, ...], list[Node]] = defaultdict(list)
        for node in self.nodes:
            # A node that is too small even when idle would never run the trial, and Ray would wait silently.
            if node.has(resources(device)):
                classes[node.hardware].append(node)
        if hardware is not None:
            return tuple(classes.get(hardware, ()))
        if chosen := classes.get(self._classes.get(device, ())):
            return self._homes.setdefault(device, tuple(chosen))
        kind = "gpus" if resources(device)["GPU"] else "cpus"
        # The largest class, on which most trials can run at the same time; and nodes that have not answered only where
        # there are no others, since they need not be of one class.
        home = max(
            classes.values(),
            key=lambda members: (bool(members[0].facts), sum(getattr(node, kind) for node in members)),
            default=[],
        )
        if home:
            self._classes[device] = home[0].hardware
        return self._homes.setdefault(device, tuple(home))

    def room(self, device: Device, nodes: Collection[Node]) -> bool:
        """Whether the nodes together have room for one more trial; Ray queues it if none of them has by itself."""
        needs = resources(device)
        for kind in ("CPU", "GPU"):
            total = sum(node.cpus if kind == "CPU" else node.gpus for node in nodes)
            # An estimate: room that other groups with some of these nodes have taken is not seen. Then Ray queues the
            # trial.
            used = sum(self._used[node.id, kind] for node in nodes) + self._used[_group(nodes), kind]
            # Where nothing runs there is nothing to wait for, so the trial starts even on nodes that have shrunk.
            if needs[kind] and used and used + needs[kind] > total:
                return False
        return True

    def take(self, device: Device, nodes: Collection[Node]) -> None:
        """Counts the room of a trial that starts on these nodes as taken."""
        for kind, need in resources(device).items():
            self._used[_key(nodes), kind] += need

    def free(self, device: Device, nodes: Collection[Node]) -> None:
        """Counts the room of a trial that has ended on these nodes as free."""
        for kind, need in resources(device).items():
            self._used[_key(nodes), kind] -= need


def _key(nodes: Collection[Node]) -> str:
    """Under what name the room of a trial is counted: its node, or the group of nodes among which Ray chooses."""
    return next(iter(nodes)).id if len(nodes) == 1 else _group(nodes)


def _group(nodes: Collection[Node]) -> str:
    return f"group of {min((node.id for node in nodes), default='no node')}"
