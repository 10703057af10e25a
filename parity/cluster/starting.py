"""Ray on this machine: started in a thread of its own, so that the driver can import and plan meanwhile.

The thread lives as long as Ray, since the system ends Ray's processes with the thread that has started them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from parity.cluster import authentication
from parity.cluster.lean_ray import only_what_a_run_uses, silence
from parity.ground import interrupt, phases
from parity.ground.errors import Trouble
from parity.ground.temporary import temporary_folder
from parity.plan.device import environment, parse_devices
from parity.plan.request import Request
from parity.plan.task_spec import DATA_BYTES
from parity.train.seat import FORKS
from parity.train.warm import Warm, warm_process

# How long Ray may take to shut down; it needs about a second, and waits without a limit for a head that is frozen.
SHUTDOWN_S = 15.0
# Size of a local cluster's object store, in addition to the data. Ray refuses less than 75 MiB; traces need none of it,
# since they are small enough to travel in Ray's replies.
OBJECT_STORE_BYTES = 128 * 2**20
# Most processes that import torch while Ray starts, which takes a core itself; the seats beyond them import it later.
MOST_WARM = 4
# Interval between messages that Ray is still starting.
SAY_EVERY_S = 10.0


class LocalRay:
    """A Ray that this process starts, and ends.

    Args:
        temporary: The folder for its files.
        data_bytes: Size of the data that will be put into its object store; None if it is not known yet.
    """

    def __init__(self, temporary: Path, data_bytes: int | None) -> None:
        self._temporary = temporary
        # Without a size it takes a share of the memory, of which it uses what it needs.
        self._store_bytes = None if data_bytes is None else OBJECT_STORE_BYTES + data_bytes
        # The module `ray`, or what its start has raised, once `_answered` is set.
        self._ray: Any = None
        self._error: BaseException | None = None
        self._answered, self._over, self._ended = threading.Event(), threading.Event(), threading.Event()
        threading.Thread(target=self._live, name="parity-ray", daemon=True).start()

    def wait(self) -> Any:
        """Waits until Ray has started; returns the module `ray`.

        Raises:
            Exception: What `ray.init` raised.
        """
        while not self._answered.wait(SAY_EVERY_S):
            phases.announce("still waiting for Ray to start")
        if self._error is not None:
            raise self._error
        return self._ray

    def end(self) -> None:
        """Shuts Ray down; if that takes longer than `SHUTDOWN_S`, Ray is left to end with this process.

        Blocks the caller, as `_live` requires: call it when the report has been printed.
        """
        self._over.set()
        with contextlib.suppress(Exception):  # `wait` has reported it, or the run ended before it needed Ray
            self.wait()
        phases.enter("end of Ray")
        if not self._ended.wait(SHUTDOWN_S):
            not_shut_down()

    def _live(self) -> None:
        """Starts Ray, waits, and shuts it down; the body of the thread."""
        try:
            with phases.span("Ray"):
                ray = self._start()
        except BaseException as error:  # noqa: BLE001 - raised again by `wait`
            self._ended.set()
            self._error = error
            self._answered.set()
            return
        self._ray = ray
        self._answered.set()
        self._over.wait()
        # Nobody else runs meanwhile, and nothing of Ray's may be freed: Ray ends the process, with status 1, if one of
        # its references goes while it shuts down.
        gc.collect()
        collects = gc.isenabled()
        gc.disable()
        try:
            with phases.span("end of Ray"):
                ray.shutdown()
        finally:
            if collects:
                gc.enable()
            self._ended.set()

    def _start(self) -> Any:
        # Only here: Ray reads the variables that `_set_environment` sets when it is imported.
        import ray

        silence(ray)
        try:
            self._initialize(ray)
        except Exception as error:
            # An exception of no class of its own says that one of its processes was not there in time.
            if "timed out" not in str(error) or self._over.is_set():
                raise
            phases.announce("Ray did not start in time; trying once more")
            ray.shutdown()
            end_left(self._temporary)
            self._initialize(ray)
        return ray

    def _initialize(self, ray: Any) -> None:
        with only_what_a_run_uses(ray):
            ray.init(
                "local",
                include_dashboard=False,
                object_store_memory=self._store_bytes,
                # The workers' output stays in Ray's logs: what a loss prints must not get into the report.
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                # One level deeper, since Ray opens its own folder to everybody (0777), and ours is private.
                _temp_dir=str(self._temporary / "ray"),
            )


@dataclass(frozen=True)
class Early:
    """What a run on this machine starts before anything else; nothing where it does not run there.

    Attributes:
        folder: A folder that only this user can enter, or None.
        warm: The processes that import torch.
        local: Ray, or None.
    """

    folder: Path | None = None
    warm: tuple[Warm, ...] = ()
    local: LocalRay | None = None


def begin_imports(options: argparse.Namespace, request: Request, held: contextlib.ExitStack) -> Early:
    """Starts processes that import torch for the first trials on this machine's CPU.

    Args:
        options: The parsed options.
        request: What is to be compared.
        held: Receives what ends them.

    Raises:
        ModuleNotFoundError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ModuleNotFoundError("No module named 'ray'", name="ray")
    folder = held.enter_context(temporary_folder())
    devices = request.named if "auto" not in request.devices else parse_devices(["cpu"])
    cpu = next((device for device in devices if device.kind == "cpu"), None)
    if cpu is None or not FORKS:
        return Early(folder)
    # A process with other variables, as for a GPU or other threads, is started by its seat.
    trials = len(request.losses) * options.replicas * len(options.seed or [0]) + options.noise
    count = min(trials, os.cpu_count() or 1, MOST_WARM)
    warm = []
    for number in range(count):
        # The path may be too long for a socket, which Ray says of its longer ones, or the system may have no room for
        # another process: a seat then starts one of its own.
        with contextlib.suppress(OSError):
            warm.append(held.enter_context(warm_process(folder / f"warm-{number}", environment(cpu))))
    return Early(folder, tuple(warm))


def begin_ray(early: Early, options: argparse.Namespace, request: Request, held: contextlib.ExitStack) -> Early:
    """Begins to start Ray where `begin_imports` has made its folder.

    Args:
        early: What `begin_imports` has started.
        options: The parsed options.
        request: What is to be compared.
        held: Receives what ends it.
    """
    if early.folder is None:
        return early
    known = request.task.shipped and not options.data
    return replace(early, local=held.enter_context(starting(early.folder, DATA_BYTES if known else None)))


@contextlib.contextmanager
def starting(temporary: Path, data_bytes: int | None) -> Iterator[LocalRay]:
    """Begins to start a Ray that listens on loopback only and ends with the block.

    Args:
        temporary: A folder that only this user can enter.
        data_bytes: Size of the data that will be put into its object store; None if it is not known yet.
    """
    with contextlib.ExitStack() as cleanup:
        # What is registered from here on is undone in reverse order: Ray is shut down, what is left of it is killed,
        # and the token is forgotten.
        cleanup.callback(authentication.forget_token, os.environ, temporary)
        _set_environment(temporary)
        # An interruption waits until Ray has started, or ended; otherwise it would leave processes behind.
        cleanup.enter_context(interrupt.held())
        cleanup.callback(end_left, temporary)
        local = LocalRay(temporary, data_bytes)
        cleanup.callback(local.end)
        with interrupt.let_through():
            yield local


def not_started(error: Exception) -> Trouble:
    """The error to report when Ray could not be started."""
    text = " ".join(str(error).split())
    return Trouble(f"Ray cannot be started here ({text}). To train without Ray, use --inline.")


def not_shut_down() -> None:
    """Says that Ray did not shut down in time, and leaves it to the end of this process."""
    print(f"parity: Ray did not shut down within {SHUTDOWN_S:.0f} s; the command ends without it.", file=sys.stderr)
    interrupt.abandon()


def end_left(temporary: Path) -> None:
    """Kills the processes left by an interrupted start of Ray, which its own shutdown does not know of."""
    if interrupt.abandoned():
        return  # they end with this process, which Ray would end before that, with status 1, if its raylet were gone
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            # Ray passes its folder, which is in this one, to the processes that it starts.
            if any(str(temporary) in argument for argument in child.cmdline()):
                child.kill()


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
