"""Connects to a Ray cluster, or starts one on this machine for the duration of a run."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from parity.cluster import authentication, head, outage, raylets
from parity.cluster.nodes import this_node
from parity.cluster.workers import Cluster
from parity.ground import interrupt
from parity.ground.errors import Trouble
from parity.ground.limit import limited
from parity.ground.temporary import temporary_folder

# How long Ray may take to shut down; it needs about a second, and waits without a limit for a head that is frozen.
SHUTDOWN_S = 15.0
# Size of a local cluster's object store, in addition to the data. Ray refuses less than 75 MiB; traces need none of it,
# since they are small enough to travel in Ray's replies.
OBJECT_STORE_BYTES = 128 * 2**20


@contextlib.contextmanager
def connect(address: str, *, data_bytes: int, step_timeout_s: float = math.inf) -> Iterator[Cluster]:
    """Connects to a cluster, or starts one that listens on loopback only and ends with the block.

    Args:
        address: Address of a running cluster; "local" starts one on this machine.
        data_bytes: Size of the data that will be put into the object store.
        step_timeout_s: Longest time that a trial may take for a step; see `Cluster`.

    Yields:
        The cluster as an executor, connected until the block ends.

    Raises:
        Trouble: The address is for Ray Client, or the cluster cannot be reached or started.
    """
    if address.startswith("ray://"):
        raise Trouble(
            f"Address {address} is for Ray Client, which drops a run after 30 s without contact. "
            "On a machine of the cluster give its own address (HOST:6379), or submit a Ray job."
        )
    head.check(address)
    local = address == "local"
    options: dict[str, Any] = {}
    with contextlib.ExitStack() as cleanup:
        if local:
            # What is registered from here on is undone in reverse order: the autoscaler is killed, Ray is shut down,
            # what is left of it is killed, the token is forgotten, and the folder is removed.
            temporary = cleanup.enter_context(temporary_folder())
            cleanup.callback(authentication.forget_token, os.environ, temporary)
            _set_environment(temporary)
            options = {
                "include_dashboard": False,  # it would take about a second to start, and 140 MB
                "object_store_memory": OBJECT_STORE_BYTES + data_bytes,
                # One level deeper, since Ray opens its own folder to everybody (0777), and ours is private.
                "_temp_dir": str(temporary / "ray"),
            }
        else:
            if ":" in address:  # not "auto", which Ray looks up on this machine
                raylets.check_here(address)
            authentication.present_token(os.environ)
            # Despite its name, this is how often Ray tries to reach the cluster's head.
            os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", str(authentication.CONNECT_ATTEMPTS))
        # Only here: Ray reads the variables that are set above when it is imported.
        import ray

        _silence(ray)
        # An interruption waits until Ray has started, or ended; otherwise it would leave processes behind.
        cleanup.enter_context(interrupt.held())
        if local:
            cleanup.callback(_end_left, temporary)
        cleanup.callback(_shut_down, ray)
        # The workers' output stays in Ray's logs: what a loss prints must not get into the report.
        start = partial(ray.init, address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
        try:
            with _own_sigterm():
                if local:
                    start()
                else:
                    _join(start, address)
        except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            raise Trouble(_not_joined(address, error)) from error
        if local:
            cleanup.callback(_end_monitor)
        cleanup.enter_context(outage.head_watched(_head(ray), interrupt.end_at_once))
        # The second, since it asks the head which raylet it is.
        cleanup.enter_context(outage.raylet_watched(_raylet(ray), interrupt.end_at_once))
        with interrupt.let_through():
            yield Cluster(ray, step_timeout_s=step_timeout_s, may_grow=not local)


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Restores the handler of SIGTERM that `ray.init` replaces: Ray's ends the process with status 1."""
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


def _silence(ray: Any) -> None:
    """Keeps out of the report what Ray prints about raylets and workers, which we report in our own words.

    Source:
        Ray 2.60, _private/worker.py: the flag of `print_worker_logs`, which util/rpdb.py sets in the same way. Neither
        `log_to_driver` nor `logging_level` keeps these lines back, and most of them go to stdout.
    """
    ray._private.worker._worker_logs_enabled = False


def _join(start: Callable[[], object], address: str) -> None:
    """Joins a cluster, by calling `start` within the time that this may take.

    Raises:
        TimeoutError: Ray is still at it; it is left to its thread.
    """
    limit_s = raylets.join_limit_s(address)
    try:
        limited(start, limit_s)
    except TimeoutError:
        interrupt.abandon()
        raise


def _raylet(ray: Any) -> psutil.Process | None:
    """Ray's process on this machine, through which the driver does everything; None if it is not found."""
    here = this_node()
    return raylets.with_socket(next((node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == here), None))


def _head(ray: Any) -> tuple[str, int] | None:
    """Host and port of the cluster's head (the GCS), or None."""
    host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None


def _shut_down(ray: Any) -> None:
    """Shuts Ray down, or leaves it to the end of this process where it does not come to an end."""
    if interrupt.abandoned():
        return  # it has not joined yet
    try:
        limited(ray.shutdown, SHUTDOWN_S)
    except TimeoutError:
        print(f"parity: Ray did not shut down within {SHUTDOWN_S:.0f} s; the command ends without it.", file=sys.stderr)
        interrupt.abandon()


def _end_left(temporary: Path) -> None:
    """Kills the processes left by an interrupted start of Ray, which its own shutdown does not know of."""
    if interrupt.abandoned():
        return  # they end with this process, which Ray would end before that, with status 1, if its raylet were gone
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            # Ray passes its folder, which is in this one, to the processes that it starts.
            if any(str(temporary) in argument for argument in child.cmdline()):
                child.kill()


def _not_joined(address: str, error: Exception) -> str:
    """The message about a cluster that Ray could not start or join."""
    if authentication.refused(error):
        return authentication.refusal(address, os.environ)
    text = " ".join(str(error).split())
    if "Version mismatch" in text:
        found = re.search(r"with: Ray: (\S+) Python: (\S+) .*with: Ray: (\S+) Python: (\S+)", text)
        versions = "Ray {} and Python {}, this process Ray {} and Python {}".format(*found.groups()) if found else text
        return (
            f"The Ray cluster at {address} runs {versions}. "
            "They have to be the same: run parity in the cluster's image, or submit it as a Ray job."
        )
    if address != "local" and isinstance(error, OSError) and (elsewhere := raylets.why_not_joined(address)):
        return elsewhere
    what = "Ray cannot be started here" if address == "local" else f"The Ray cluster at {address} cannot be joined"
    return f"{what} ({text}). To train without Ray, use --inline."


def _set_environment(temporary: Path) -> None:
    """Makes a local cluster require a token and listen on loopback; has to be called before Ray is imported.

    Source:
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER: "0", the default on macOS and Windows, makes Ray listen on 127.0.0.1 only;
        measured on Linux with Ray 2.60, where the default listens on all interfaces. Ray does not document it.
        RAY_ENABLE_UV_RUN_RUNTIME_ENV: "0" keeps Ray from starting the workers with `uv run` as well if the driver was
        started with it.
        RAY_worker_niceness: Ray starts workers at nice 15; but the trials are what this machine is for now.
    """
    authentication.require_token(os.environ, temporary)
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")


def _end_monitor() -> None:
    """Kills the local cluster's autoscaler: it has nothing to scale, and Ray's shutdown would wait a second for it."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it may end by itself meanwhile
            if any(argument.endswith("autoscaler/_private/monitor.py") for argument in child.cmdline()):
                child.kill()
