"""Ray: workers pinned to their devices, the gathering of what they send, and the replacing of those that die.

The only module that imports Ray, and none of the numbers are made here. Ray is imported by `connect`, because what it
reads from the environment at import (authentication, the addresses that it listens on) has to be set before.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from parity import authentication, devices, interrupt, last_words, outage
from parity.errors import Trouble
from parity.events import Began, Captured, Ended, Event, Restarted, Saved
from parity.inline import perform
from parity.past import NoPast, Past, Position, SharedSteps
from parity.placement import Node, Placement, alive, check
from parity.temporary import temporary_folder
from parity.trial import Trial

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
# How long a cluster's address may take to answer.
KNOCK_S = 10.0
# How long another node may take to look up what ended a worker.
LAST_WORDS_S = 10.0
# Of a local cluster, beside the data. Traces are small enough to travel in Ray's replies.
OBJECT_STORE_BYTES = 128 * 2**20


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


@dataclass
class _Running:
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


class Cluster:
    """A Ray cluster, for as long as `connect` holds it."""

    def __init__(self, ray: Any, worker: type = Worker) -> None:
        self._ray = ray
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
        self,
        trials: Sequence[Trial],
        data: dict[str, np.ndarray],
        past: Past | None = None,
        *,
        step_timeout_s: float = math.inf,
    ) -> Generator[list[Event], None, None]:
        """Trains every trial in a worker of its own, as many at once as the cluster has room for.

        Args:
            trials: Those that have not ended.
            data: The task's.
            past: Of these trials, and of those that they have shared steps from.
            step_timeout_s: A worker that has begun its trial and tells nothing for so long counts as dead.

        Yields:
            What some trials tell, each trial's events in their order; it has to be kept before more is asked for.

        Raises:
            Trouble: A trial could not be begun as it was asked for, or the cluster fails; the others are ended.
        """
        try:
            yield from self._train(trials, data, past or NoPast(), step_timeout_s)
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
        waiting = _Waiting(trials)
        running: dict[Any, _Running] = {}
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
                told: list[tuple[_Running, Event]] = []
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

    def _startable(self, waiting: _Waiting, unfinished: set[str]) -> Iterator[_Running]:
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

    def _free_gpu(self, entry: _Running) -> int | None:
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

    def _start(self, entry: _Running, data: Any) -> Any:
        """Gives the trial a worker; returns Ray's reference to the answer of `Worker.start`."""
        device = replace(entry.trial.device, index=entry.index)
        needs = devices.resources(device)
        options: dict[str, Any] = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"], "max_restarts": 0}
        if entry.index is not None:
            options["num_gpus"] = 0  # its seat holds the GPU
        if len(self.nodes) > 1:
            ids = [node.id for node in entry.nodes]
            options["label_selector"] = {NODE_LABEL: ids[0] if len(ids) == 1 else f"in({','.join(ids)})"}
        entry.told, entry.where, entry.home, entry.lost = False, None, None, None
        entry.actor = self._actors.options(**options).remote(devices.environment(device))
        shared = self._past.shared(entry.trial.shared_from) if entry.trial.shared_from else None
        position = self._past.position(entry.trial.name)
        return entry.ask(entry.actor.start.remote(entry.trial, data, shared, position))

    def _leave(self, entry: _Running) -> None:
        """Ends the trial's worker, and frees its room."""
        self._ray.kill(entry.actor)
        self._placement.take(entry.trial.device, entry.nodes, amount=-1)
        if entry.index is not None:
            self._taken.discard((entry.nodes[0].id, entry.index))

    def _event(self, future: Any, entry: _Running) -> Event | None:
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

    def _look_up(self, entry: _Running) -> bool:
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

    def _ended(self, entry: _Running) -> Restarted | Ended:
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

    def _lost(self, entry: _Running, error: Exception, *, noted: str | None = None) -> Restarted | Ended:
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

    def _died(self, entry: _Running, reason: str, failure: str) -> Restarted | Ended:
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


class _Waiting:
    """The trials that have not begun, a queue for each place, so that a full node holds up no other."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._queues: dict[str, dict[int, _Running]] = {}
        for trial in trials:
            entry = _Running(trial)
            self._queues.setdefault(_queue(trial), {})[id(entry)] = entry

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def queues(self) -> list[list[_Running]]:
        """The trials of each place, in their order."""
        return [list(queue.values()) for queue in self._queues.values() if queue]

    def stranded(self, placement: Placement, seats: Mapping[tuple[str, int], Any]) -> list[_Running]:
        """Takes out the trials that no node of their class is left for."""
        found = []
        for entry in (entry for queue in self.queues() for entry in queue):
            nodes = placement.nodes_for(entry.trial.device, hardware=entry.hardware)
            held = {number for number, _ in seats}
            if not nodes or (entry.trial.device.index is not None and not any(node.id in held for node in nodes)):
                self.remove(entry)
                found.append(entry)
        return found

    def remove(self, entry: _Running) -> None:
        """Takes a trial out."""
        del self._queues[_queue(entry.trial)][id(entry)]

    def put_back(self, entry: _Running) -> None:
        """Puts a trial back, before the others."""
        name = _queue(entry.trial)
        self._queues[name] = {id(entry): entry} | self._queues[name]


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


def _queue(trial: Trial) -> str:
    return trial.device.place or trial.device.name


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def node_facts() -> dict[str, Any]:
    """What `machine.node_facts` finds on the node that runs this."""
    from parity import machine  # imports torch, which the driver does without

    return machine.node_facts()


def _answer(ray: Any, future: Any, node: Node) -> Node:
    try:
        return replace(node, facts=ray.get(future))
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return replace(node, problem=lines[-1] if lines else type(error).__name__)


@contextlib.contextmanager
def connect(address: str, *, data_bytes: int) -> Iterator[Cluster]:
    """Connects to a cluster, or starts one on this machine that listens on loopback only, and ends that at the end.

    Args:
        address: Of a running cluster; "local" starts one.
        data_bytes: Size of what will be put into the object store.

    Raises:
        Trouble: The address is one of Ray Client, or the cluster cannot be reached or started.
    """
    if address.startswith("ray://"):
        raise Trouble(
            f"Address {address} is one of Ray Client, which drops a run after 30 s without contact. "
            "Give the cluster's own address (HOST:6379) from one of its machines, or submit a Ray job."
        )
    _knock(address)
    local = address == "local"
    options: dict[str, Any] = {}
    with contextlib.ExitStack() as cleanup:
        if local:
            temporary = cleanup.enter_context(temporary_folder())
            cleanup.callback(authentication.forget_token, os.environ, temporary)
            _set_environment(temporary)
            options = {
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES + data_bytes,
                # One deeper, since Ray opens its own folder to everybody (0777); nobody gets there through ours.
                "_temp_dir": str(temporary / "ray"),
            }
        else:
            authentication.present_token(os.environ)
            os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", str(authentication.CONNECT_ATTEMPTS))
        import ray

        # Neither Ray's start nor its end is broken off in the midst, or processes would be left.
        cleanup.enter_context(interrupt.held())
        if local:
            cleanup.callback(_end_left, temporary)
        cleanup.callback(ray.shutdown)
        try:
            with _own_sigterm():
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            raise Trouble(_not_joined(address, error)) from error
        if local:
            cleanup.callback(_end_monitor)
        cleanup.enter_context(outage.watched(_raylet(ray), _head(ray), interrupt.end_at_once))
        with interrupt.let_through():
            yield Cluster(ray)


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Takes back the handler of SIGTERM that `ray.init` sets: it would end the process with status 1."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:  # Ray's answer to a SIGTERM while it starts
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _raylet(ray: Any) -> psutil.Process | None:
    """The process that Ray has on this machine for all that the driver does."""
    here = _node_id()
    name = next((node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == here), None)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "raylet" and f"--raylet_socket_name={name}" in process.cmdline():
                return process
    return None


def _head(ray: Any) -> tuple[str, int] | None:
    """Where the cluster's head listens."""
    host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None


def _end_left(temporary: Path) -> None:
    """Ends what a start of Ray that was broken off has left, which its own shutdown does not know of."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any(str(temporary) in part for part in child.cmdline()):
                child.kill()


def _knock(address: str) -> None:
    """Raises `Trouble` unless somebody listens at HOST:PORT; Ray itself would knock for minutes, and print a lot."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return  # "auto" and the like, which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise Trouble(
            f"The Ray cluster at {address} cannot be reached ({error}). "
            "Give the HOST:PORT that ray start printed; to do without Ray, use --inline."
        ) from error


def _not_joined(address: str, error: Exception) -> str:
    """What to say about a cluster that Ray did not start or join."""
    if authentication.refused(error):
        return authentication.refusal(address, os.environ)
    told = " ".join(str(error).split())
    if "Version mismatch" in told:
        found = re.search(r"with: Ray: (\S+) Python: (\S+) .*with: Ray: (\S+) Python: (\S+)", told)
        versions = "Ray {} and Python {}, and this is Ray {} and Python {}".format(*found.groups()) if found else told
        return (
            f"The Ray cluster at {address} runs {versions}. "
            "Both have to be equal: run parity in the cluster's image, or submit it as a Ray job."
        )
    where = "Ray cannot be started here" if address == "local" else f"The Ray cluster at {address} cannot be joined"
    return f"{where} ({told}). To do without Ray, use --inline."


def _set_environment(temporary: Path) -> None:
    """Makes a local cluster ask for a token and listen on loopback; to be set before Ray is imported.

    Source:
        The first switch is what makes Ray listen on loopback on macOS and Windows.
    """
    authentication.require_token(os.environ, temporary)
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # the trials are what this machine is there for now


def _end_monitor() -> None:
    """Ends the local cluster's autoscaler: it has nothing to scale, and Ray's shutdown would wait a second for it."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has ended by itself
            if any(part.endswith("autoscaler/_private/monitor.py") for part in child.cmdline()):
                child.kill()
