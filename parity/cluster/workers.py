"""The executor on Ray: gives each trial a worker, asks it for events, and collects them.

What becomes of a trial whose worker is lost is decided in `lost_workers`, where a trial may run in `placement`, and
which worker it gets in `workforce`. None of the numbers are made here. `connect` imports Ray and passes it in, because
the environment that Ray reads at its import (authentication, addresses to listen on) has to be set before.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parity.cluster import growing, last_words, nodes
from parity.cluster.lacking import blame_node
from parity.cluster.lost_workers import Kind, LostWorker, classify, nowhere_to_run
from parity.cluster.nodes import Node, alive, on_nodes, this_node
from parity.cluster.placement import Placement, check, lacking
from parity.cluster.seats import Seats
from parity.cluster.waiting import Running, Waiting
from parity.cluster.worker import Worker
from parity.cluster.workforce import Workforce
from parity.ground.errors import Trouble
from parity.plan.device import resources
from parity.plan.trial import Trial
from parity.store.events import Began, Captured, Ended, Event, Restarted, Saved
from parity.store.position import NoPast, Past
from parity.train.warm import Warm


class Cluster:
    """A Ray cluster as an `Executor`, for as long as `connect` holds the connection.

    Args:
        ray: The module `ray`, connected to the cluster.
        worker: Class of the workers.
        step_timeout_s: Longest time from one event of a trial to the next, from its first step to its last one; a
            worker that exceeds it counts as hung.
        may_grow: Whether to ask an autoscaler, if the cluster has one, for nodes that trials wait for.
        warm: Processes of this machine that have imported torch already; see `Seat`.
    """

    def __init__(
        self,
        ray: Any,
        worker: type = Worker,
        *,
        step_timeout_s: float = math.inf,
        may_grow: bool = False,
        warm: Sequence[Warm] = (),
    ) -> None:
        self._ray = ray
        self._may_grow = may_grow
        self._worker = worker
        self._arguments = (warm,) if warm else ()
        self._step_timeout_s = step_timeout_s
        self._placement = Placement(alive(ray.nodes()))
        self._seats = Seats(ray)
        # State of the call of `train` that is under way.
        self._past: Past = NoPast()
        self._data: Any = None
        self._workforce: Workforce
        self._waiting = Waiting()
        self._running: dict[Any, Running] = {}
        self._sharing: set[str] = set()
        self._demand: growing.Demand | None = None
        self._then: tuple[Node, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that are alive, with the facts that `probe` found."""
        return self._placement.nodes

    def accelerators(self) -> list[str]:
        """Kinds of accelerator that the cluster has; Ray calls each of them GPU."""
        if not any(node.gpus for node in self.nodes):
            if self._may_grow and growing.grows(self._ray):
                # Which node types it has, an autoscaler does not say.
                print(
                    "parity: no node has a GPU at the moment, so --device auto is the CPU; "
                    "--device cpu cuda asks the cluster's autoscaler for one",
                    file=sys.stderr,
                )
            return []
        return ["mps" if sys.platform == "darwin" else "cuda"]

    def check(self, trials: Sequence[Trial]) -> None:
        """Raises `Trouble` for a trial that no node could ever run."""
        here = {node.name for node in self.nodes}
        check(trials, self.nodes, gone={node.name for node in self._then} - here)

    def wait_for_nodes(self, count: int, *, gpu: bool, limit_s: float) -> None:
        """Waits until that many nodes have a free CPU, or GPU; an autoscaler starts those that are missing.

        Raises:
            Trouble: They did not come in time.
        """
        nodes.wait_for_nodes(self._ray, count, gpu=gpu, limit_s=limit_s)
        self._placement = Placement(alive(self._ray.nodes()))

    def remember(self, nodes: Sequence[Node]) -> None:
        """Takes in the nodes that the run was begun on: the trials of those that have left go on in their class.

        Args:
            nodes: Those nodes, with the facts of their machines.
        """
        self._then = tuple(nodes)
        self._placement.remember(self._then)

    def grow(self, trials: Sequence[Trial], *, limit_s: float) -> None:
        """Waits for nodes that can run these trials where there are none and an autoscaler starts them.

        Args:
            trials: The trials of the run.
            limit_s: Longest time to wait, in seconds.

        Raises:
            Trouble: They did not come in time.
        """
        if not self._may_grow or not lacking(trials, self.nodes):
            return
        growing.wait_for(self._ray, lambda: lacking(trials, alive(self._ray.nodes())), limit_s=limit_s)
        self._placement.renew(alive(self._ray.nodes()))
        self.probe()
        self._placement.remember(self._then)

    def probe(self, *, idle: bool = False) -> None:
        """Asks the nodes for the facts of their machines; a node that does not answer gets the reason instead.

        A node that has answered is not asked again, since it takes seconds of a core to import torch there.

        Args:
            idle: Whether to ask the nodes that have nothing for trials as well, often the head.
        """
        asked = [node for node in self.nodes if not node.facts and (idle or node.cpus or node.gpus)]
        self._placement = Placement(self._with_facts(self.nodes, asked))

    def _with_facts(self, known: Sequence[Node], asked: Sequence[Node]) -> list[Node]:
        """The nodes that are still there, with the answers of those that are asked."""
        probed = {node.id: node for node in nodes.probe(self._ray, asked)}
        # Of one that has left meanwhile the class is not known, and no trial is to begin there.
        there = {node.id for node in alive(self._ray.nodes())}
        return [probed.get(node.id, node) for node in known if node.id in there]

    def train(
        self, trials: Sequence[Trial], data: dict[str, np.ndarray], past: Past | None = None
    ) -> Generator[list[Event], None, None]:
        """Trains each trial in a process of its own, as many at once as there is room for; see `Executor.train`."""
        self._past = past or NoPast()
        try:
            yield from self._train(trials, data)
        except self._ray.exceptions.RayTaskError:
            raise  # a bug of parity
        except self._ray.exceptions.RayError as error:
            raise Trouble(f"The Ray cluster failed ({' '.join(str(error).split())}).") from error

    def _train(self, trials: Sequence[Trial], data: dict[str, np.ndarray]) -> Generator[list[Event], None, None]:
        self._data = self._ray.put(data)
        self._workforce = Workforce(self._ray, self._worker, self._placement, self._seats, *self._arguments)
        self._sharing = {trial.name for trial in trials if trial.shares}
        self._waiting, self._running = Waiting(trials), {}
        self._demand = growing.Demand(self._ray) if self._may_grow and growing.grows(self._ray) else None
        try:
            self._seats.hold(trials, self.nodes)
            changed = True  # whether room may have become free, or nodes have left
            while self._waiting or self._running:
                if changed:
                    for entry in self._waiting.remove_stranded(self._placement, self._seats.nodes):
                        self._sharing.discard(entry.trial.name)  # others do not wait for its steps any longer
                        yield [nowhere_to_run(entry.trial.name)]
                    for entry in self._startable():
                        self._running[self._start(entry)] = entry
                    self._workforce.dismiss_unneeded(self._waiting, self._running.values())
                    if self._demand is not None:
                        self._demand.keep(self._unplaced())
                    changed = False
                    continue  # the last trials may have been stranded
                reports = self._collect()
                yield [event for _, event in reports]  # they are stored before anything else is asked for
                for entry, event in reports:
                    changed |= self._follow_up(entry, event)
                changed |= self._newcomers()
        finally:  # also when the caller ends the generator early
            self._workforce.end_all(self._running.values())
            self._seats.give_back()
            self._data = None  # gives the object store its room back
            if self._demand is not None:
                self._demand.end()

    def _startable(self) -> Iterator[Running]:
        """Removes from the queues the trials that have room and whose shared steps are complete."""
        for queue in self._waiting.queues():
            for entry in queue:
                if entry.trial.shared_from in self._sharing:
                    continue
                if not self._workforce.reserve(entry):
                    break  # the others of this queue need the same place
                self._waiting.remove(entry)
                yield entry

    def _unplaced(self) -> Counter[growing.Needs]:
        """What the trials need that wait for room on whatever node, each of them once."""
        needs = (
            resources(entry.trial.device)
            for queue in self._waiting.queues()
            for entry in queue
            if not entry.trial.device.node and entry.trial.shared_from not in self._sharing
        )
        return Counter((each["CPU"], each["GPU"]) for each in needs)

    def _newcomers(self) -> bool:
        """Takes in the nodes that have come since the trials began to wait for room; returns whether there are any."""
        if not self._demand:
            return False
        self._demand.give_back()
        now = alive(self._ray.nodes())
        new = [node for node in now if node.id not in self._placement.by_id]
        if not new:
            return False
        self._placement.renew(self._with_facts(now, new))
        return True

    def _start(self, entry: Running) -> Any:
        """Gives the trial a worker; returns Ray's reference to the answer of `Worker.start`."""
        self._workforce.hire(entry)
        shared = self._past.shared(entry.trial.shared_from) if entry.trial.shared_from else None
        position = self._past.position(entry.trial.name)
        return entry.ask(entry.actor.start.remote(entry.trial, self._data, shared, position))

    def _collect(self) -> list[tuple[Running, Event]]:
        """Waits for an answer, and takes all that have come and all that are overdue.

        Returns:
            Trials and their events; empty if the answers only call for other questions. These trials are no longer
            among those that run, until `_follow_up` asks for more.
        """
        ray = self._ray
        overdue_at_s = min(entry.overdue_at_s(self._step_timeout_s) for entry in self._running.values())
        timeout = None if overdue_at_s == math.inf else max(0.0, overdue_at_s - time.monotonic())
        if self._demand:
            # A node may come, and it takes no trial to say so.
            timeout = growing.LOOK_EVERY_S if timeout is None else min(timeout, growing.LOOK_EVERY_S)
        asked = list(self._running)
        # All that have come are taken in one batch for the store. Under load some have come meanwhile, and nothing has
        # to be waited for.
        ready, silent = ray.wait(asked, num_returns=len(asked), timeout=0)
        if not ready:
            ray.wait(asked, num_returns=1, timeout=timeout)
            ready, silent = ray.wait(asked, num_returns=len(asked), timeout=0)
        reports: list[tuple[Running, Event]] = []
        for reference in ready:
            entry = self._running[reference]
            event = self._event(reference, entry)  # if this raises, `_train` still knows the worker, and ends it
            del self._running[reference]
            if event:
                reports.append((entry, event))
            else:
                self._running[entry.pending] = entry
        now = time.monotonic()
        for reference in silent:
            entry = self._running[reference]
            if entry.overdue_at_s(self._step_timeout_s) <= now:
                del self._running[reference]
                hung = entry.silence(self._step_timeout_s)
                reports.append((entry, self._lost(entry) if entry.error else self._decide(entry, "hung", hung)))
        return reports

    def _event(self, reference: Any, entry: Running) -> Event | None:
        """The event that an answer brings, or None if something else was asked for first.

        Raises:
            Trouble: The trial could not be started as it was asked for, on any node.
        """
        ray = self._ray
        if entry.error:
            return self._lost(entry)
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ray.exceptions.RayError):  # an argument of the call was lost on the way
                entry.error = error.cause
                return self._lost(entry)
            if not isinstance(error.cause, Trouble):
                raise
            entry.lost = True
            if not entry.trial.device.node:  # it would be the same on every node
                raise error.cause from None  # without the traceback of Ray, which does not help the user
            return Ended(entry.trial.name, status="failed", failure="node", error=str(error.cause).rstrip("."))
        except ray.exceptions.RayError as error:
            if entry.warm and entry.where is None:  # it was lost while it was idle, which is not this trial's doing
                self._workforce.end(entry.actor)
                self._start(entry)
                return None
            entry.error = error
            return None if self._ask_for_last_words(entry) else self._lost(entry)
        if entry.where is None:  # the answer of `Worker.start`
            entry.where, entry.home = answer, self._node(answer[0])
            entry.advance()
            return None
        event: Event = answer
        entry.has_reported(event)
        if isinstance(event, Began):
            # Of several nodes one may be left; a device that names its node was one of several.
            named = len(self.nodes) > 1 or entry.trial.device.node
            name = entry.home.name if entry.home and named else None
            return replace(event, facts=event.facts | {"node": name})
        # Where the driver is, what is lacking is lacking everywhere.
        if isinstance(event, Ended) and entry.home and entry.home.id != this_node():
            return blame_node(event, entry.trial, entry.home.name)
        return event

    def _follow_up(self, entry: Running, event: Event) -> bool:
        """Asks the worker for its next event, or ends it; returns whether its room has become free."""
        # The store may find that a continued trial does not repeat its steps; then it has to begin again.
        again = self._past.void(entry.trial.name) or isinstance(event, Restarted)
        if isinstance(event, Saved):
            entry.attempts.saved()
        if not again and not isinstance(event, Ended | Captured):
            self._running[entry.advance()] = entry
            return False
        self._workforce.release(entry, reusable=not again and not entry.lost)
        if again:
            self._waiting.put_back(entry)
        elif isinstance(event, Ended):
            self._sharing.discard(entry.trial.name)
        return True

    def _node(self, number: str) -> Node | None:
        """The node with that id, which may have joined since the cluster was last looked at."""
        if number not in self._placement.by_id:
            self._placement.renew(alive(self._ray.nodes()))
        return self._placement.by_id.get(number)

    def _ask_for_last_words(self, entry: Running) -> bool:
        """Asks the node of a lost worker what ended it; returns False where that is this node, or cannot be asked."""
        node, path = entry.where or (None, None)
        died = isinstance(entry.error, self._ray.exceptions.ActorDiedError)
        if not died or not path or node == this_node() or node not in self._placement.by_id:
            return False
        look_up = self._ray.remote(num_cpus=0)(last_words.look_up)
        entry.ask(look_up.options(label_selector=on_nodes(node)).remote(path))
        return True

    def _lost(self, entry: Running) -> Restarted | Ended:
        """What becomes of a trial whose worker is lost with `entry.error`, once nothing more can be learnt about it."""
        assert entry.error is not None
        return self._decide(entry, classify(entry.error, self._ray.exceptions), str(entry.error), self._noted(entry))

    def _noted(self, entry: Running) -> str | None:
        """What the process of a lost worker noted as it ended; None if that could not be looked up."""
        node, path = entry.where or (None, None)
        if path is None:
            return None
        with contextlib.suppress(OSError, self._ray.exceptions.RayError):
            here = node == this_node()
            found = last_words.look_up(path) if here else self._ray.get(entry.pending, timeout=0)
            return found or last_words.NOTHING_NOTED  # the log was read, and has no note
        return None

    def _decide(self, entry: Running, kind: Kind, text: str, noted: str | None = None) -> Restarted | Ended:
        """What the retry policy makes of a lost worker, described as `LostWorker` says.

        The trial stays in the class of hardware that it ran on, since another class need not produce the same bits. One
        that never began may go to any.
        """
        self._placement.renew(alive(self._ray.nodes()))
        entry.lost = True
        home = entry.home or entry.nodes[0]  # a worker that was lost before it answered has no home
        if entry.began:
            entry.hardware = home.hardware
        if kind == "memory":
            entry.alone = home
        lost = LostWorker(
            kind,
            text,
            home.name,
            began=entry.began,
            noted=noted,
            node_left=home.id not in self._placement.by_id,
            replaceable=bool(self._placement.nodes_for(entry.trial.device, hardware=entry.hardware)),
        )
        return entry.attempts.after(entry.trial.name, lost)
