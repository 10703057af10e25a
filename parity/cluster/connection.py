"""Connects to a Ray cluster, or starts one on this machine for the duration of a run."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import psutil

from parity.cluster import authentication, head, outage, raylets
from parity.cluster.lean_ray import silence
from parity.cluster.nodes import this_node
from parity.cluster.starting import SHUTDOWN_S, LocalRay, not_shut_down, not_started, starting
from parity.cluster.workers import Cluster
from parity.ground import interrupt
from parity.ground.errors import Trouble
from parity.ground.limit import limited
from parity.ground.temporary import temporary_folder
from parity.train.warm import Warm


@contextlib.contextmanager
def connect(
    address: str,
    *,
    data_bytes: int,
    step_timeout_s: float = math.inf,
    local: LocalRay | None = None,
    warm: Sequence[Warm] = (),
) -> Iterator[Cluster]:
    """Connects to a cluster, or starts one that listens on loopback only and ends with the block.

    Args:
        address: Address of a running cluster; "local" starts one on this machine.
        data_bytes: Size of the data that will be put into the object store.
        step_timeout_s: Longest time that a trial may take for a step; see `Cluster`.
        local: The Ray on this machine, if it is being started already; it ends with its own block.
        warm: Processes of this machine that have imported torch already.

    Yields:
        The cluster as an executor, connected until the block ends.

    Raises:
        Trouble: The address is for Ray Client, or the cluster cannot be reached or started.
    """
    with contextlib.ExitStack() as cleanup:
        if address == "local":
            if local is None:
                local = cleanup.enter_context(starting(cleanup.enter_context(temporary_folder()), data_bytes))
            ray = _started(local)
            # An interruption waits until nobody watches Ray any more.
            cleanup.enter_context(interrupt.held())
        else:
            check(address)
            # Only here: Ray reads the variables that `check` sets when it is imported.
            import ray

            silence(ray)
            # An interruption waits until Ray has joined; otherwise it could leave it half joined.
            cleanup.enter_context(interrupt.held())
            cleanup.callback(_shut_down, ray)
            start = partial(ray.init, address, log_to_driver=False, logging_level=logging.CRITICAL)
            try:
                with _own_sigterm():
                    _join(start, address)
            except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
                raise Trouble(_not_joined(address, error)) from error
        cleanup.enter_context(outage.head_watched(_head(ray), interrupt.end_at_once))
        # The second, since it asks the head which raylet it is.
        cleanup.enter_context(outage.raylet_watched(_raylet(ray), interrupt.end_at_once))
        with interrupt.let_through():
            yield Cluster(ray, step_timeout_s=step_timeout_s, may_grow=address != "local", warm=warm)


def check(address: str) -> None:
    """Checks that a cluster can be joined, and sets the environment variables that Ray needs for that.

    Raises:
        Trouble: The address is for Ray Client, no head answers there, or the token is missing.
    """
    if address.startswith("ray://"):
        raise Trouble(
            f"Address {address} is for Ray Client, which drops a run after 30 s without contact. "
            "On a machine of the cluster give its own address (HOST:6379), or submit a Ray job."
        )
    head.check(address)
    if ":" in address:  # not "auto", which Ray looks up on this machine
        raylets.check_here(address)
    authentication.present_token(os.environ)
    # Despite its name, this is how often Ray tries to reach the cluster's head.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", str(authentication.CONNECT_ATTEMPTS))


def _started(local: LocalRay) -> Any:
    """Waits for a Ray on this machine; returns the module `ray`.

    Raises:
        Trouble: It could not be started.
        ModuleNotFoundError: It is not installed.
    """
    try:
        with _own_sigterm():
            return local.wait()
    except ModuleNotFoundError:
        raise
    except Exception as error:  # Ray has no class for what may go wrong with its processes
        raise not_started(error) from error


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
        not_shut_down()


def _not_joined(address: str, error: Exception) -> str:
    """The message about a cluster that Ray could not join."""
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
    if isinstance(error, OSError) and (elsewhere := raylets.why_not_joined(address)):
        return elsewhere
    return f"The Ray cluster at {address} cannot be joined ({text}). To train without Ray, use --inline."
