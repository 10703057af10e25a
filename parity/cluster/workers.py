"""Ray: workers pinned to their devices, the gathering of what they send, and the replacing of those that die.

The only module that imports Ray, and none of the numbers are made here. Ray is imported by `connect`, because what it
reads from the environment at import (authentication, the addresses that it listens on) has to be set before.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parity.cluster import last_words
from parity.cluster.nodes import Node, alive
from parity.cluster.placement import Placement, check
from parity.cluster.waiting import Running, Waiting
from parity.ground.errors import Trouble
from parity.plan.device import environment, resources
from parity.plan.trial import Trial
from parity.store.events import Began, Captured, Ended, Event, Restarted, Saved
from parity.store.position import NoPast, Past, Position, SharedSteps
from parity.store.statuses import Failure
from parity.train.perform import perform

# A worker that dies may have been killed by the system: its trial is begun once more before it is judged.
ATTEMPTS = 2
# A node that cannot run a trial's worker is left after so many tries.
MOVES = 5
# How Ray tells that a process has ended that should not have; all its other words are of nodes, calls and objects.
WORKER_DIED = "worker process has died"
PLANNED_END = "INTENDED_"
NOWHERE = "its node left the cluster before it began, and its class has no other node"
# The label that Ray gives every node.
NODE_LABEL = "ray.io/node-id"
# How long a node may take to say what it is, and somebody to free a GPU.
PROBE_S = 60.0
SEAT_S = 30.0


class Worker:
    """What runs in a worker process: one trial, advanced call by call."""

    def __init__(self, environment: dict[str, str]) -> None:
        if "torch" in sys.modules:
            raise RuntimeError("torch is imported before the environment is set")
        os.environ.update(environment)

    def start(
        self, trial: Trial, data: dict[str, np.ndarray], shared: SharedSteps | None, position: Position | None
    ) -> tuple[str, str | None]:
        """Takes the trial; the arrays are Ray's shared memory, which cannot be written to.

        Returns:
            The node that it is on, and the file there that will have what ended this process, or None.
        """
        self._events = perform(trial, data, shared, position)
        return _node_id(), last_words.note()

    def advance(self) -> Event:
        """Trains until there is something to tell."""
        event = next(self._events)
        return replace(event, facts=event.facts | {"node_id": _node_id()}) if isinstance(event, Began) else event


class Seat:
    """Holds a GPU for a run, so that trials can be given that one GPU, and nobody else gets it between them."""

    def index(self) -> int:
        """Number of the GPU on its node."""
        import ray

        return int(ray.get_gpu_ids()[0])


class Cluster:
    """A Ray cluster as an `Executor`, for as long as `connect` holds it.

    Args:
        ray: The module, which `connect` has imported.
        worker: What each worker process runs.
        step_timeout_s: A worker that has begun its trial and reports nothing for so long counts as dead.
    """

    def __init__(self, ray: Any, worker: type = Worker, *, step_timeout_s: float = math.inf) -> None:
        self._ray = ray
        self._step_timeout_s = step_timeout_s
        self._worker = worker
        self._placement = Placement(alive(ray.nodes()))
        self._seats: dict[tuple[str, int], Any] = {}
        self._taken: set[tuple[str, int]] = set()
        self._actors: Any = None
        self._past: Past = NoPast()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Those that are alive, with what `probe` found of them."""
        return self._placement.nodes

    def accelerators(self) -> list[str]:
        """Kinds of accelerator that the cluster has; Ray calls each of them GPU."""
        if not any(node.gpus for node in self.nodes):
            return []
        return ["mps" if sys.platform == "darwin" else "cuda"]

    def check(self, trials: Sequence[Trial]) -> None:
        """Raises `Trouble` for a trial that no node could ever take."""
        check(trials, self.nodes)

    def wait_for_nodes(self, count: int, *, gpu: bool, limit_s: float) -> None:
        """Waits until there are so many nodes with a CPU (or GPU) to give out; an autoscaler is made to bring them.

        Raises:
            Trouble: They did not come.
        """
        bundles = [{"GPU": 1} if gpu else {"CPU": 1}] * count
        # Bundles that may not share a node: what an autoscaler understands, and what is ready once the nodes are there.
        group = self._ray.util.placement_group(bundles, strategy="STRICT_SPREAD")
        try:
            came = group.wait(timeout_seconds=limit_s)
        finally:
            self._ray.util.remove_placement_group(group)
        self._placement = Placement(alive(self._ray.nodes()))
        if not came:
            kind = "gpus" if gpu else "cpus"
            found = [node.name for node in self.nodes if getattr(node, kind)]
            raise Trouble(
                f"--wait-for-nodes {count}: after {limit_s:.0f} s the cluster has {len(found)} nodes with "
                f"{'a GPU' if gpu else 'CPUs to give out'} ({', '.join(found) or 'none'}) that are free. "
                "Wait longer with --wait-limit, or raise the maximum of the node type."
            )

    def probe(self) -> None:
        """Asks every node what it is, all at once; one that does not answer keeps the reason."""
        ray = self._ray
        probe = ray.remote(num_cpus=0, max_retries=1)(node_facts)
        asked = {probe.options(label_selector={NODE_LABEL: node.id}).remote(): node for node in self.nodes}
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_S)
        answers = [_answer(ray, future, asked[future]) for future in done]
        answers += [replace(asked[future], problem=f"it did not answer within {PROBE_S:.0f} s") for future in late]
        for future in late:
            ray.cancel(future, force=True)
        order = {node.id: number for number, node in enumerate(self.nodes)}
        self._placement = Placement(sorted(answers, key=lambda node: order[node.id]))

    def train(
        self, trials: Sequence[Trial], data: dict[str, np.ndarray], past: Past | None = None
    ) -> Generator[list[Event], None, None]:
        """Trains every trial in a worker of its own, as many at once as there is room for; as `Executor.train`."""
        try:
            yield from self._train(trials, data, past or NoPast(), self._step_timeout_s)
        except self._ray.exceptions.RayTaskError:
            raise  # a bug of parity
        except self._ray.exceptions.RayError as error:
            raise Trouble(f"The Ray cluster fails ({' '.join(str(error).split())}).") from error

    def _train(
        self, trials: Sequence[Trial], data: dict[str, np.ndarray], past: Past, step_timeout_s: float
    ) -> Generator[list[Event], None, None]:
        ray = self._ray
        self._past = past
        reference = ray.put(data)
        self._actors = ray.remote(self._worker)  # once: Ray sends its code along each time
        unfinished = {trial.name for trial in trials if trial.shares}
        waiting = Waiting(trials)
        running: dict[Any, Running] = {}
        try:
            self._take_seats(trials)
            changed = True
            while waiting or running:
                if changed:
                    for entry in waiting.stranded(self._placement, self._seats):
                        unfinished.discard(entry.trial.name)
                        yield [Ended(entry.trial.name, status="failed", failure="node", error=NOWHERE)]
                    for entry in self._startable(waiting, unfinished):
                        running[self._start(entry, reference)] = entry
                    changed = False
                    continue  # a trial may have been stranded, and others wait for it no longer
                next_late = min(entry.late_at(step_timeout_s) for entry in running.values()) - time.monotonic()
                ray.wait(list(running), num_returns=1, timeout=max(0.0, next_late) if next_late < math.inf else None)
                ready, silent = ray.wait(list(running), num_returns=len(running), timeout=0)
                told: list[tuple[Running, Event]] = []
                for future in ready:
                    entry = running.pop(future)
                    if event := self._event(future, entry):
                        told.append((entry, event))
                    else:
                        running[entry.asked] = entry
                now = time.monotonic()
                for future in [future for future in silent if running[future].late_at(step_timeout_s) <= now]:
                    entry = running.pop(future)
                    hung = f"it finished no step for {step_timeout_s:g} s"
                    told.append((entry, self._ended(entry) if entry.lost else self._died(entry, hung, "hung")))
                yield [event for _, event in told]
                for entry, event in told:
                    again = self._past.void(entry.trial.name) or isinstance(event, Restarted)
                    if again or isinstance(event, Ended | Captured):
                        changed = True
                        self._leave(entry)
                    if isinstance(event, Saved):
                        entry.moves = 0
                    if again:
                        waiting.put_back(entry)
                    elif isinstance(event, Ended):
                        unfinished.discard(entry.trial.name)
                    elif not isinstance(event, Captured):
                        running[entry.advance()] = entry
        finally:
            for entry in running.values():
                ray.kill(entry.actor)
            for seat in self._seats.values():
                ray.kill(seat)
            self._seats.clear()
            self._taken.clear()

    def _startable(self, waiting: Waiting, unfinished: set[str]) -> Iterator[Running]:
        """Takes out the trials that there is room for, and whose shared steps are all there."""
        for queue in waiting.queues():
            for entry in [entry for entry in queue if entry.trial.shared_from not in unfinished]:
                device = entry.trial.device
                entry.nodes = self._placement.nodes_for(device, hardware=entry.hardware)
                if device.index is not None:
                    entry.index = self._free_gpu(entry)
                    if entry.index is None:
                        break
                elif not self._placement.room(device, entry.nodes):
                    break
                waiting.remove(entry)
                self._placement.take(device, entry.nodes)
                yield entry

    def _free_gpu(self, entry: Running) -> int | None:
        """A GPU that is held and idle: the trial's own, or another's where its node has left."""
        for node in entry.nodes:
            own = [entry.trial.device.index] if node.name == entry.trial.device.node else range(node.gpus)
            for index in own:
                key = (node.id, index)
                if key in self._seats and key not in self._taken:
                    entry.nodes = (node,)
                    self._taken.add(key)
                    return index
        return None

    def _start(self, entry: Running, data: Any) -> Any:
        """Gives the trial a worker; returns Ray's reference to the answer of `Worker.start`."""
        device = replace(entry.trial.device, index=entry.index)
        needs = resources(device)
        options: dict[str, Any] = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"], "max_restarts": 0}
        if entry.index is not None:
            options["num_gpus"] = 0  # its seat holds the GPU
        if len(self.nodes) > 1:
            ids = [node.id for node in entry.nodes]
            options["label_selector"] = {NODE_LABEL: ids[0] if len(ids) == 1 else f"in({','.join(ids)})"}
        entry.told, entry.where, entry.home, entry.lost = False, None, None, None
        entry.actor = self._actors.options(**options).remote(environment(device))
        shared = self._past.shared(entry.trial.shared_from) if entry.trial.shared_from else None
        position = self._past.position(entry.trial.name)
        return entry.ask(entry.actor.start.remote(entry.trial, data, shared, position))

    def _leave(self, entry: Running) -> None:
        """Ends the trial's worker, and frees its room."""
        self._ray.kill(entry.actor)
        self._placement.take(entry.trial.device, entry.nodes, amount=-1)
        if entry.index is not None:
            self._taken.discard((entry.nodes[0].id, entry.index))

    def _event(self, future: Any, entry: Running) -> Event | None:
        """What the trial told, or what became of its worker; None if there is something else to be asked first.

        Raises:
            Trouble: The trial could not be begun as it was asked for, on any node.
        """
        ray = self._ray
        if entry.lost:
            return self._ended(entry)
        try:
            answer = ray.get(future)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ray.exceptions.RayError):  # what it was called with was lost on the way
                return self._lost(entry, error.cause)
            if not isinstance(error.cause, Trouble):
                raise
            if not entry.trial.device.node:  # trying again would bring it again
                raise error.cause from None
            return Ended(entry.trial.name, status="failed", failure="node", error=str(error.cause).rstrip("."))
        except ray.exceptions.RayError as error:
            entry.lost = error
            return None if self._look_up(entry) else self._ended(entry)
        if entry.where is None:
            entry.where, entry.home = answer, self._node(answer[0])
            entry.advance()
            return None
        event: Event = answer
        entry.told = True
        if isinstance(event, Began):
            entry.node = self._node(event.facts.get("node_id", ""))
            name = entry.node.name if entry.node and len(self.nodes) > 1 else None
            return replace(event, facts=event.facts | {"node": name})
        return event

    def _look_up(self, entry: Running) -> bool:
        """Asks another node what ended the trial's worker; returns whether it did: this node knows, or nobody."""
        node, path = entry.where or (None, None)
        died = isinstance(entry.lost, self._ray.exceptions.ActorDiedError)
        if not died or not path or node == _node_id() or node not in self._placement.by_id:
            return False
        look_up = self._ray.remote(num_cpus=0)(last_words.look_up)
        entry.ask(look_up.options(label_selector={NODE_LABEL: node}).remote(path))
        return True

    def _node(self, number: str) -> Node | None:
        """The node of that number, which may have come since the others were looked at."""
        if number not in self._placement.by_id:
            self._placement.renew(alive(self._ray.nodes()))
        return self._placement.by_id.get(number)

    def _ended(self, entry: Running) -> Restarted | Ended:
        """What becomes of a trial whose worker is gone, after the look for what ended it."""
        error, entry.lost = entry.lost, None
        assert error is not None
        noted: str | None = None
        node, path = entry.where or (None, None)
        with contextlib.suppress(OSError, self._ray.exceptions.RayError):  # then nobody knows
            if path and node == _node_id():
                noted = last_words.look_up(path) or last_words.WITHOUT_A_WORD
            elif path:
                noted = self._ray.get(entry.asked, timeout=0) or last_words.WITHOUT_A_WORD
        return self._lost(entry, error, noted=noted)

    def _lost(self, entry: Running, error: Exception, *, noted: str | None = None) -> Restarted | Ended:
        """What becomes of a trial whose worker is gone: it begins again, in its class of hardware, or fails.

        Args:
            entry: The trial.
            error: Ray's.
            noted: What ended the worker, as `last_words.look_up` tells it, or None where nobody could look.
        """
        name = entry.trial.name
        kinds = self._ray.exceptions
        self._placement.renew(alive(self._ray.nodes()))
        home = entry.node or entry.home or entry.nodes[0]
        text = str(error)
        if isinstance(error, kinds.OutOfMemoryError):
            return self._died(entry, f"node {home.name} ran out of memory, and its worker was ended for it", "memory")
        gone = home.id not in self._placement.by_id
        died = isinstance(error, kinds.ActorDiedError) and WORKER_DIED in text and PLANNED_END not in text
        told = _ending(text, noted) if died else _last_line(text)
        if died and entry.node and not gone:
            return self._died(entry, f"its worker process {told}", "died")
        entry.moves += 1
        entry.hardware, entry.node = home.hardware, None
        if gone:
            reason = f"node {home.name} left the cluster"
        elif isinstance(error, kinds.ActorUnavailableError):
            reason = f"node {home.name} did not answer for its worker ({told.rpartition('unavailable: ')[2]})"
        else:
            reason = f"node {home.name} could not run its worker ({f'the process {told}' if died else told})"
        if gone and not self._placement.nodes_for(entry.trial.device, hardware=entry.hardware):
            reason += " while it trained, and its class has no other node"
            return Ended(name, status="failed", failure="node", error=reason)
        if re.search(r"\b(ModuleNotFound|Import)Error\b", text):  # trying again would bring it again
            return Ended(name, status="failed", failure="node", error=reason)
        if entry.moves >= MOVES:
            return Ended(name, status="failed", failure="node", error=f"{reason}, {MOVES} times in a row")
        return Restarted(name, reason)

    def _died(self, entry: Running, reason: str, failure: Failure) -> Restarted | Ended:
        """What becomes of a trial whose worker is lost by what may be the trial's own doing: it goes on once."""
        name = entry.trial.name
        entry.deaths += 1
        if entry.deaths < ATTEMPTS:
            return Restarted(name, reason)
        return Ended(name, status="failed", failure=failure, error=f"{reason}; a worker of it was lost before")

    def _take_seats(self, trials: Sequence[Trial]) -> None:
        """Holds each GPU that a trial names.

        Raises:
            Trouble: Somebody else has it.
        """
        ray = self._ray
        by_name = {node.name: node for node in self.nodes}
        wanted = {(trial.device.node, trial.device.index) for trial in trials if trial.device.index is not None}
        missing = {(by_name[node].id, index) for node, index in wanted if node and index is not None}
        asked = {}
        for number in {number for number, _ in missing}:
            for _ in range(self._placement.by_id[number].gpus):  # Ray gives out whichever is free: ask for all
                options = {"num_cpus": 0, "num_gpus": 1, "label_selector": {NODE_LABEL: number}}
                seat = ray.remote(Seat).options(**options).remote()
                asked[seat.index.remote()] = (number, seat)
        end = time.monotonic() + SEAT_S
        while asked and missing:
            done, _ = ray.wait(list(asked), num_returns=1, timeout=max(0.0, end - time.monotonic()))
            if not done:
                break
            number, seat = asked.pop(done[0])
            key = (number, ray.get(done[0]))
            if key in missing:
                missing.discard(key)
                self._seats[key] = seat
            else:
                ray.kill(seat)
        for _, seat in asked.values():
            ray.kill(seat)
        if missing:
            names = [f"cuda@{self._placement.by_id[number].name}#{index}" for number, index in sorted(missing)]
            raise Trouble(
                f"{', '.join(names)}: somebody else has the GPU, or it does not answer within {SEAT_S:.0f} s. "
                "Wait until it is free, or leave it out."
            )


def _ending(text: str, noted: str | None) -> str:
    """How a worker process ended, from Ray's words and its own."""
    if code := re.search(r"exits with an exit code (\d+)", text):
        return f"ended with exit code {code[1]}"
    if noted is None:
        detail = re.search(r"Worker exit detail: (.+?)(?:\.\s|\n|$)", text)
        return f"died, and by what cannot be looked up ({detail[1] if detail else _last_line(text)})"
    if noted.startswith("SIG"):
        return f"died of {noted}"
    return f"ended {noted}" if noted == last_words.WITHOUT_A_WORD else f"ended with {noted}"


def _last_line(text: str) -> str:
    """What an error comes to: its last line that names an exception, or its last line."""
    named = [line for line in text.splitlines() if re.match(r"\s*(\w+\.)*\w*(Error|Exception)\b", line)]
    return (named or text.splitlines() or [""])[-1].strip()


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def node_facts() -> dict[str, Any]:
    """What `machine.node_facts` finds on the node that runs this."""
    from parity.train import machine  # imports torch, which the driver does without

    return machine.node_facts()


def _answer(ray: Any, future: Any, node: Node) -> Node:
    try:
        return replace(node, facts=ray.get(future))
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return replace(node, problem=lines[-1] if lines else type(error).__name__)
