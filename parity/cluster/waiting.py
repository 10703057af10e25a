"""The trials that have not ended: those that wait for room, and those that run."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.cluster.binding import Binding
from parity.cluster.lost_workers import Attempts
from parity.cluster.nodes import Node
from parity.cluster.placement import Placement
from parity.plan.trial import Trial
from parity.store.events import Advanced, Event

# How long another node may take to look up what ended a worker; without an answer the trial continues all the same.
# Ray needs about a second for a call in a new process, several on a busy machine.
LOOK_UP_S = 10.0
# How long a worker that has begun may be silent while it does something other than training steps: it imports the loss,
# checks its contract and takes the first step, or, after the last one, takes the steps of another device. Chosen: this
# takes a minute on a busy machine, and a trial that hangs there has to be reported in the end.
BESIDE_STEPS_S = 600.0


@dataclass
class Running:
    """A trial, and the worker that it has at the moment.

    Attributes:
        trial: The trial.
        attempts: The workers that it has lost.
        hardware: Class of nodes that it has to stay in, as `Node.hardware`; None while it has lost no worker.
        alone: The node that it has to have for itself, since it was lost there as the memory ran out; else None.
        nodes: Nodes that its worker may be placed on.
        index: Number of the GPU that was taken for it, or None.
        actor: Ray's handle of the worker.
        binding: What the worker is bound to.
        warm: Whether the worker had another trial before.
        lost: Whether the worker must not get another trial after this one.
        where: Id of the worker's node, and the file there in which it notes its end (or None); None before the worker
            has answered.
        home: That node, or None where it is not known.
        began: Whether the worker has reported that the trial began.
        stepping: Whether it has reported its first step, and not yet its last one.
        error: Ray's error, once the worker is lost and while another node looks up what ended it; None otherwise.
        pending: Ray's reference to the answer that is awaited.
        pending_since_s: When that answer was asked for, in seconds on the monotonic clock.
    """

    trial: Trial
    attempts: Attempts = field(default_factory=Attempts)
    hardware: tuple[object, ...] | None = None
    alone: Node | None = None
    nodes: tuple[Node, ...] = ()
    index: int | None = None
    actor: Any = None
    binding: Binding | None = None
    warm: bool = False
    lost: bool = False
    where: tuple[str, str | None] | None = None
    home: Node | None = None
    began: bool = False
    stepping: bool = False
    error: Exception | None = None
    pending: Any = None
    pending_since_s: float = 0.0

    def set_worker(self, actor: Any, binding: Binding | None = None, *, warm: bool = False) -> None:
        """Gives the trial another worker, about which nothing is known yet."""
        # All of it: what was known of the lost worker must not be taken for what is known of the new one.
        self.actor, self.binding, self.warm, self.lost = actor, binding, warm, False
        self.where, self.home, self.began, self.stepping, self.error = None, None, False, False, None

    def ask(self, reference: Any) -> Any:
        """Records which answer is awaited, and since when; returns it."""
        self.pending, self.pending_since_s = reference, time.monotonic()
        return reference

    def advance(self) -> Any:
        """Asks the worker for its next event; returns Ray's reference to it."""
        return self.ask(self.actor.advance.remote())

    def has_reported(self, event: Event) -> None:
        """Records what the worker has reported."""
        self.began = True
        if isinstance(event, Advanced):
            self.stepping = event.end < self.trial.settings.steps

    def may_be_on(self, node: Node) -> bool:
        """Whether its worker is on that node, as far as is known."""
        return node.id in {each.id for each in ((self.home,) if self.home else self.nodes)}

    def limit_s(self, step_timeout_s: float) -> float:
        """How long the worker may be silent, in seconds; inf before the trial has begun.

        Args:
            step_timeout_s: How long it may be silent while it takes step after step.
        """
        # Until then Ray may still be queueing or starting the worker, which is not the trial's fault.
        if not self.began:
            return math.inf
        return step_timeout_s if self.stepping else max(step_timeout_s, BESIDE_STEPS_S)

    def overdue_at_s(self, step_timeout_s: float) -> float:
        """When its answer is overdue, in seconds on the monotonic clock; as `limit_s`."""
        return self.pending_since_s + (LOOK_UP_S if self.error else self.limit_s(step_timeout_s))

    def silence(self, step_timeout_s: float) -> str:
        """What to report of a worker that has been silent for that long."""
        limit_s = self.limit_s(step_timeout_s)
        if self.stepping:
            return f"it finished no step for {limit_s:g} s"
        return f"it reported nothing for {limit_s:g} s, before its first step or after its last one"


class Waiting:
    """The trials that have no worker, in one queue for each place, so that a full node does not hold up the others."""

    def __init__(self, trials: Sequence[Trial] = ()) -> None:
        # Keyed by the id of the entry, since a trial is removed from the middle of its queue and entries do not hash.
        self._queues: dict[str, dict[int, Running]] = {}
        for trial in trials:
            entry = Running(trial)
            self._queues.setdefault(_queue(trial), {})[id(entry)] = entry

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def queues(self) -> list[list[Running]]:
        """The trials of each place, first come first served."""
        return [list(queue.values()) for queue in self._queues.values() if queue]

    def remove_stranded(self, placement: Placement, seated: Collection[str]) -> list[Running]:
        """Removes the trials that no node of their class is left for; returns them.

        Args:
            placement: The nodes of the cluster.
            seated: Ids of the nodes on which a GPU is held.
        """
        # By device, of which thousands of trials may share one, and class. The trials keep their devices alive.
        stranded: dict[tuple[int, tuple[object, ...] | None], bool] = {}
        found = []
        for entry in (entry for queue in self.queues() for entry in queue):
            device, kind = entry.trial.device, (id(entry.trial.device), entry.hardware)
            if kind not in stranded:
                nodes = placement.nodes_for(device, hardware=entry.hardware)
                seats = device.index is None or any(node.id in seated for node in nodes)
                stranded[kind] = not nodes or not seats
            if stranded[kind]:
                self.remove(entry)
                found.append(entry)
        return found

    def remove(self, entry: Running) -> None:
        """Removes a trial."""
        del self._queues[_queue(entry.trial)][id(entry)]

    def put_back(self, entry: Running) -> None:
        """Puts a trial back at the head of its queue, since others may wait for its shared steps."""
        name = _queue(entry.trial)
        self._queues[name] = {id(entry): entry} | self._queues[name]


def _queue(trial: Trial) -> str:
    # Trials on any node wait by device, since another device may fit on another node.
    return trial.device.location or trial.device.name
