"""Seats: the GPUs that a run holds, so that each trial runs on the GPU that its name says.

Ray chooses the GPU for an actor and does not let the caller choose. So a run that names GPUs holds each of them with a
small actor, and its trials, which then ask Ray for no GPU, are given the number of one that is held and idle.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from parity.cluster.nodes import Node, on_nodes
from parity.ground.errors import Trouble
from parity.plan.device import Device
from parity.plan.trial import Trial

# How long to wait for GPUs that another run is about to release. Chosen, not measured.
HOLD_S = 30.0


class Seat:
    """Holds one GPU, from its start until it is killed."""

    def index(self) -> int:
        """Number of the GPU on its node."""
        import ray

        return int(ray.get_gpu_ids()[0])


class Seats:
    """The GPUs that are held for the trials of a run."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._held: dict[tuple[str, int], Any] = {}
        self._taken: set[tuple[str, int]] = set()

    @property
    def nodes(self) -> set[str]:
        """Ids of the nodes on which a GPU is held."""
        return {node for node, _ in self._held}

    def hold(self, trials: Sequence[Trial], nodes: Sequence[Node]) -> None:
        """Holds each GPU that a trial names.

        Args:
            trials: All trials of the run.
            nodes: Nodes of the cluster.

        Raises:
            Trouble: One of the GPUs is not free, or does not answer.
        """
        ray = self._ray
        by_name = {node.name: node for node in nodes}
        wanted = {(trial.device.node, trial.device.index) for trial in trials if trial.device.index is not None}
        # A node that the run was begun on may have left since.
        missing = {(by_name[node].id, index) for node, index in wanted if node in by_name and index is not None}
        # The seats answer in any order, and all that are needed have to do so within `HOLD_S`.
        asked = self._ask_for_all([node for node in nodes if node.id in {number for number, _ in missing}])
        end = time.monotonic() + HOLD_S
        while asked and missing:
            done, _ = ray.wait(list(asked), num_returns=1, timeout=max(0.0, end - time.monotonic()))
            if not done:  # the time is up
                break
            number, seat = asked.pop(done[0])
            key = (number, ray.get(done[0]))
            # GPUs that no trial names go back at once: others may wait for them.
            if key in missing:
                missing.discard(key)
                self._held[key] = seat
            else:
                ray.kill(seat)
        # Requests that Ray has not met would take a GPU as soon as one is released.
        for _, seat in asked.values():
            ray.kill(seat)
        if missing:
            names = {node.id: node.name for node in nodes}
            devices = ", ".join(f"cuda@{names[number]}#{index}" for number, index in sorted(missing))
            raise Trouble(
                f"{devices}: in use by another program on the cluster, or not answering within {HOLD_S:.0f} s. "
                "Wait until it is free, or leave it out."
            )

    def _ask_for_all(self, nodes: Sequence[Node]) -> dict[Any, tuple[str, Any]]:
        """Asks for every GPU of the nodes, since Ray gives out whichever is free.

        Returns:
            By Ray's reference to the number of the GPU: the id of the node, and the seat.
        """
        asked = {}
        for node in nodes:
            for _ in range(node.gpus):
                # A seat needs no CPU, since it only waits; the trial asks for the CPU.
                seat = self._ray.remote(Seat).options(num_cpus=0, num_gpus=1, label_selector=on_nodes(node.id)).remote()
                asked[seat.index.remote()] = (node.id, seat)
        return asked

    def take(self, device: Device, nodes: Sequence[Node]) -> tuple[Node, int] | None:
        """Takes a GPU that is held and idle: the device's own, or any other where its own node has left.

        Args:
            device: Names a GPU.
            nodes: Nodes that its trial may run on.

        Returns:
            The node and the number of the GPU there, or None if all of them are taken.
        """
        for node in nodes:
            # Equal GPUs have to produce equal bits, so on another node of its class any of them will do.
            for index in [device.index] if node.name == device.node else range(node.gpus):
                if index is not None and (node.id, index) in self._held.keys() - self._taken:
                    self._taken.add((node.id, index))
                    return node, index
        return None

    def free(self, node: Node, index: int) -> None:
        """Makes a GPU available to the next trial."""
        self._taken.discard((node.id, index))

    def give_back(self) -> None:
        """Returns all GPUs to the cluster."""
        for seat in self._held.values():
            # Killed and not just forgotten: a handle that is left anywhere keeps the actor, and with it the GPU.
            self._ray.kill(seat)
        self._held.clear()
        self._taken.clear()
