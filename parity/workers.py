"""Ray: workers pinned to their devices, the gathering of what they send, and the replacing of those that die.

The only module that imports Ray, and none of the numbers are made here. Ray is imported by `connect`, because what it
reads from the environment at import (authentication, the addresses that it listens on) has to be set before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from parity import authentication, devices
from parity.errors import Trouble
from parity.events import Ended, Event, Restarted
from parity.inline import SharedSteps, perform
from parity.trial import Trial

# A worker that dies may have been killed by the system: its trial is begun once more before it is judged.
ATTEMPTS = 2
# How long a cluster's address may take to answer.
KNOCK_S = 10.0
# Of a local cluster, beside the data. Traces are small enough to travel in Ray's replies.
OBJECT_STORE_BYTES = 128 * 2**20


class Worker:
    """What runs in a worker process: one trial, advanced call by call."""

    def __init__(self, environment: dict[str, str]) -> None:
        if "torch" in sys.modules:
            raise RuntimeError("torch is imported before the environment is set")
        os.environ.update(environment)

    def start(self, trial: Trial, data: dict[str, np.ndarray], shared: SharedSteps | None) -> None:
        """Takes the trial; the arrays are Ray's shared memory, which cannot be written to."""
        self._events = perform(trial, data, shared)

    def advance(self) -> Event:
        """Trains until there is something to tell."""
        return next(self._events)


@dataclass
class _Running:
    trial: Trial
    attempt: int
    actor: Any


class Cluster:
    """A Ray cluster, for as long as `connect` holds it."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._nodes = [node for node in ray.nodes() if node["Alive"]]

    def accelerators(self) -> list[str]:
        """Kinds of accelerator that the cluster has; Ray calls each of them GPU."""
        if not any(node["Resources"].get("GPU") for node in self._nodes):
            return []
        return ["mps" if sys.platform == "darwin" else "cuda"]

    def check(self, trials: Sequence[Trial]) -> None:
        """Raises `Trouble` for a trial that no node could ever take."""
        for trial in trials:
            needs = devices.resources(trial.device)
            if not any(_fits(needs, node["Resources"]) for node in self._nodes):
                raise Trouble(_unplaceable(trial, needs, [node["Resources"] for node in self._nodes]))

    def train(self, trials: Sequence[Trial], data: dict[str, np.ndarray]) -> Generator[Event, None, None]:
        """Trains every trial in a worker of its own, as many at once as the cluster has room for.

        Yields:
            What the trials tell, each trial's events in their order.

        Raises:
            Trouble: A trial could not be begun as it was asked for; the others are ended.
        """
        ray = self._ray
        reference = ray.put(data)
        shared = {trial.name: SharedSteps() for trial in trials if trial.shares}
        unfinished = set(shared)
        waiting = [_Running(trial, attempt=1, actor=None) for trial in trials]
        running: dict[Any, _Running] = {}
        try:
            while waiting or running:
                while entry := self._next(waiting, [other.trial for other in running.values()], unfinished):
                    waiting.remove(entry)
                    steps = ray.put(shared[entry.trial.shared_from]) if entry.trial.shared_from else None
                    self._start(entry, reference, steps)
                    running[entry.actor.advance.remote()] = entry
                (future,), _ = ray.wait(list(running), num_returns=1)
                entry = running.pop(future)
                try:
                    event = ray.get(future)
                except ray.exceptions.RayTaskError as error:  # trying again would bring it again
                    if isinstance(error.cause, Trouble):
                        raise error.cause from None
                    raise
                except ray.exceptions.RayError as error:
                    event = self._died(entry, str(error))
                yield shared[entry.trial.name].keep(event) if entry.trial.shares else event
                if isinstance(event, Restarted):
                    waiting.insert(0, _Running(entry.trial, attempt=entry.attempt + 1, actor=None))
                elif isinstance(event, Ended):
                    unfinished.discard(entry.trial.name)
                    ray.kill(entry.actor)
                else:
                    running[entry.actor.advance.remote()] = entry
        finally:
            for entry in running.values():
                ray.kill(entry.actor)

    def _next(self, waiting: Sequence[_Running], others: Sequence[Trial], unfinished: set[str]) -> _Running | None:
        """The first trial that there is room for, and whose shared steps are all there."""
        ready = (entry for entry in waiting if entry.trial.shared_from not in unfinished)
        entry = next(ready, None)
        return entry if entry and self._has_room(entry.trial, others) else None

    def _start(self, entry: _Running, data: Any, shared: Any) -> None:
        needs = devices.resources(entry.trial.device)
        options = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"], "max_restarts": 0}
        entry.actor = self._ray.remote(Worker).options(**options).remote(devices.environment(entry.trial.device))
        entry.actor.start.remote(entry.trial, data, shared)

    def _has_room(self, trial: Trial, others: Sequence[Trial]) -> bool:
        """Whether the cluster as a whole has room; Ray queues a worker that fits no single node at the moment."""
        needs = [devices.resources(each.device) for each in (trial, *others)]
        total = {kind: sum(node["Resources"].get(kind, 0) for node in self._nodes) for kind in ("CPU", "GPU")}
        return not others or all(sum(need[kind] for need in needs) <= total[kind] for kind in total)

    def _died(self, entry: _Running, error: str) -> Restarted | Ended:
        self._ray.kill(entry.actor)
        detail = re.search(r"Worker exit detail: (.+?)(?:\.\s|\n|$)", error)
        reason = f"its worker process died ({detail[1] if detail else error.splitlines()[0]})"
        if entry.attempt < ATTEMPTS:
            return Restarted(entry.trial.name, reason)
        return Ended(entry.trial.name, status="failed", failure="died", error=f"{reason}, {ATTEMPTS} times in a row")


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
            # Short, since Ray's socket names have to fit into 107 bytes; ours, since Ray never removes its own.
            temporary = tempfile.mkdtemp(prefix="parity-")
            cleanup.callback(shutil.rmtree, temporary, ignore_errors=True)
            cleanup.callback(authentication.forget_token, os.environ, Path(temporary))
            _set_environment(Path(temporary))
            options = {
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES + data_bytes,
                # One deeper, since Ray opens its own folder to everybody (0777); nobody gets there through ours.
                "_temp_dir": str(Path(temporary) / "ray"),
            }
        else:
            authentication.present_token(os.environ)
            os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", str(authentication.CONNECT_ATTEMPTS))
        import ray

        cleanup.callback(ray.shutdown)
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            raise Trouble(_not_joined(address, error)) from error
        if local:
            cleanup.callback(_end_monitor)
        yield Cluster(ray)


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


def _fits(needs: dict[str, int], resources: dict[str, float]) -> bool:
    return all(resources.get(kind, 0) >= amount for kind, amount in needs.items())


def _unplaceable(trial: Trial, needs: dict[str, int], nodes: Sequence[dict[str, float]]) -> str:
    if needs["GPU"] and not any(node.get("GPU") for node in nodes):
        return (
            f"Trial {trial.name} needs 1 GPU, and no node of this cluster has one. "
            "Use --device cpu, or add a GPU node type."
        )
    largest = max((int(node.get("CPU", 0)) for node in nodes), default=0)
    return (
        f"Trial {trial.name} needs {needs['CPU']} CPUs on one node, and the largest of this cluster has {largest}. "
        "Use fewer threads, or add a larger node type."
    )
