"""The trials on their way: those that wait for room, and those that run."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.cluster.nodes import Node
from parity.cluster.placement import Placement
from parity.plan.trial import Trial

# How long another node may take to look up what ended a worker.
LAST_WORDS_S = 10.0


@dataclass
class Running:
    """A trial on its way: how often its process died, and how often it had to leave a node."""

    trial: Trial
    deaths: int = 0
    moves: int = 0
    nodes: tuple[Node, ...] = ()
    node: Node | None = None
    told: bool = False
    hardware: tuple[object, ...] | None = None
    index: int | None = None
    actor: Any = None
    where: tuple[str, str | None] | None = None
    home: Node | None = None
    lost: Exception | None = None
    asked: Any = None
    asked_s: float = 0.0

    def ask(self, reference: Any) -> Any:
        """Takes note of what is waited for; returns it, Ray's reference to an answer."""
        self.asked, self.asked_s = reference, time.monotonic()
        return reference

    def advance(self) -> Any:
        """Asks the worker for what it has to tell next."""
        return self.ask(self.actor.advance.remote())

    def late_at(self, limit_s: float) -> float:
        """When its worker counts as dead, on the monotonic clock; never before it has told that it is there."""
        if self.lost:  # and somebody looks up why
            return self.asked_s + LAST_WORDS_S
        return self.asked_s + limit_s if self.told else math.inf


class Waiting:
    """The trials that have not begun, a queue for each place, so that a full node holds up no other."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._queues: dict[str, dict[int, Running]] = {}
        for trial in trials:
            entry = Running(trial)
            self._queues.setdefault(_queue(trial), {})[id(entry)] = entry

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def queues(self) -> list[list[Running]]:
        """The trials of each place, in their order."""
        return [list(queue.values()) for queue in self._queues.values() if queue]

    def stranded(self, placement: Placement, seats: Mapping[tuple[str, int], Any]) -> list[Running]:
        """Takes out the trials that no node of their class is left for."""
        found = []
        for entry in (entry for queue in self.queues() for entry in queue):
            nodes = placement.nodes_for(entry.trial.device, hardware=entry.hardware)
            held = {number for number, _ in seats}
            if not nodes or (entry.trial.device.index is not None and not any(node.id in held for node in nodes)):
                self.remove(entry)
                found.append(entry)
        return found

    def remove(self, entry: Running) -> None:
        """Takes a trial out."""
        del self._queues[_queue(entry.trial)][id(entry)]

    def put_back(self, entry: Running) -> None:
        """Puts a trial back, before the others."""
        name = _queue(entry.trial)
        self._queues[name] = {id(entry): entry} | self._queues[name]


def _queue(trial: Trial) -> str:
    return trial.device.location or trial.device.name
