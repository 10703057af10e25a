"""The workers of a run: a trial gets one that another trial has left, or a new one.

A worker keeps its seat's process, which has imported torch, for the next trial that needs what it is bound to. While it
is idle, Ray still counts its resources as taken, and `Placement` does not. So it is kept only for trials that cannot
start yet, and not where a new worker may be waiting for room.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from parity.cluster.binding import Binding, bind
from parity.cluster.nodes import Node, on_nodes
from parity.cluster.placement import Placement
from parity.cluster.seats import Seats
from parity.cluster.waiting import Running, Waiting


class Workforce:
    """Gives trials their workers, keeps those that are idle, and ends them.

    Args:
        ray: The module `ray`, connected to the cluster.
        worker: Class of the workers.
        placement: Where there is room.
        seats: The GPUs that the run holds.
        arguments: What each worker is made with beside its environment.
    """

    def __init__(self, ray: Any, worker: type, placement: Placement, seats: Seats, *arguments: object) -> None:
        self._ray = ray
        self._actors = ray.remote(worker)  # made once, since Ray sends the code of each one along
        self._placement = placement
        self._seats = seats
        self._arguments = arguments
        self._idle: list[tuple[Binding, Any]] = []
        # Keyed by their ids, since entries do not hash.
        self._busy: dict[int, Running] = {}

    def reserve(self, entry: Running) -> bool:
        """Reserves room for the trial's worker; returns whether there is any."""
        device = entry.trial.device
        entry.nodes = self._beside(entry, self._placement.nodes_for(device, hardware=entry.hardware))
        if not entry.nodes:
            return False
        if device.index is not None:
            seat = self._seats.take(device, entry.nodes)
            if seat is None:
                return False
            entry.nodes, entry.index = seat[:1], seat[1]
        elif not self._placement.room(device, entry.nodes):
            return False
        self._placement.take(device, entry.nodes)  # also beside a seat, which holds a GPU but no CPU
        self._busy[id(entry)] = entry
        return True

    def _beside(self, entry: Running, nodes: Collection[Node]) -> tuple[Node, ...]:
        """Those of the nodes on which the trial may run beside the trials that run there now.

        Ray does not see the memory of the trials' processes, which are not its own. So it may end several workers where
        one trial has used up the memory. Which one it was shows when each of them is tried again by itself.
        """
        others, alone = self._busy.values(), entry.alone
        if alone and alone in nodes:
            return () if any(other.may_be_on(alone) for other in others) else (alone,)
        occupied = {other.alone for other in others if other.alone}
        return tuple(node for node in nodes if node not in occupied) if occupied else tuple(nodes)

    def hire(self, entry: Running) -> None:
        """Gives the trial a worker that is idle, or starts one."""
        # Its seat holds the GPU.
        binding = bind(replace(entry.trial.device, index=entry.index), entry.nodes)
        for idle in self._idle:
            if idle[0] == binding:
                self._idle.remove(idle)
                entry.set_worker(idle[1], binding, warm=True)
                return
        # Ray would wait for the resources of those that are idle.
        self._dismiss(on=binding.nodes)
        # No restarts by Ray: it would repeat the trial from its first step, and we continue from the last saved state.
        options: dict[str, Any] = {"num_cpus": binding.cpus, "num_gpus": binding.gpus, "max_restarts": 0}
        if len(self._placement.nodes) > 1:  # on a single node there is nothing to choose
            options["label_selector"] = on_nodes(*binding.nodes)
        entry.set_worker(self._actors.options(**options).remote(dict(binding.environment), *self._arguments), binding)

    def release(self, entry: Running, *, reusable: bool) -> None:
        """Frees the room of the trial's worker, and ends the worker unless another trial may have it."""
        if reusable and entry.binding:
            self._idle.append((entry.binding, entry.actor))
        else:
            self.end(entry.actor)
        self._busy.pop(id(entry), None)
        self._placement.free(entry.trial.device, entry.nodes)
        if entry.index is not None:
            self._seats.free(entry.nodes[0], entry.index)

    def dismiss_unneeded(self, waiting: Waiting, running: Iterable[Running]) -> None:
        """Ends the idle workers that no trial waits for, and those whose room Ray may need for a new worker."""
        if not self._idle:  # nearly always: then the trials, which may be thousands, are not looked at
            return
        # Few, however many trials wait.
        kinds = {(entry.trial.device, entry.hardware) for queue in waiting.queues() for entry in queue}
        wanted = {bind(device, self._placement.nodes_for(device, hardware=hardware)) for device, hardware in kinds}
        starting = [entry for entry in running if entry.where is None and not entry.warm]
        self._dismiss(on={node.id for entry in starting for node in entry.nodes}, wanted=wanted)

    def end_all(self, running: Iterable[Running]) -> None:
        """Ends the workers of these trials, and all that are idle."""
        for entry in running:
            self.end(entry.actor)
        self._dismiss(wanted=())

    def end(self, actor: Any) -> None:
        """Ends a worker."""
        # Killed and not just forgotten: a handle that is left anywhere would keep it, and its resources.
        self._ray.kill(actor)

    def _dismiss(self, *, on: Collection[str] = (), wanted: Collection[Binding] | None = None) -> None:
        """Ends idle workers.

        Args:
            on: Ids of nodes: every idle worker that may be on one of them is ended.
            wanted: If given, every idle worker that is bound to something else is ended, too.
        """
        nodes, before, self._idle = set(on), self._idle, []
        for binding, actor in before:
            if nodes.intersection(binding.nodes) or (wanted is not None and binding not in wanted):
                self.end(actor)
            else:
                self._idle.append((binding, actor))
