"""Ends the command when Ray's processes are gone: Ray would end it too, but with status 1, which means `diverged`."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import psutil

from parity.cluster.head import ask

# Time between two looks at the raylet. Ray itself notices within a second, and we have to be first.
EVERY_S = 0.1
# Time between two questions to the head, and how long each may take.
ASK_EVERY_S = 5.0
# How long the head may be out of reach: it may be replaced meanwhile, but after 60 s Ray ends the driver.
# Source: RAY_gcs_rpc_server_reconnect_timeout_s of ray, src/ray/common/ray_config_def.h.
HEAD_S = 40.0


def raylet_watched(raylet: psutil.Process | None, end: Callable[[str], object]) -> AbstractContextManager[None]:
    """Calls `end` from a thread of its own if the raylet is gone while the block runs.

    Args:
        raylet: Ray's process on this machine, through which the driver does everything; None is not watched.
        end: Ends the process; is called with the reason.
    """
    return _watched(lambda over: _watch_raylet(raylet, end, over)) if raylet else contextlib.nullcontext()


def head_watched(head: tuple[str, int] | None, end: Callable[[str], object]) -> AbstractContextManager[None]:
    """The same for the head of the cluster, which may be gone, frozen or cut off.

    Args:
        head: Its host and port; None is not watched.
        end: As above.
    """
    return _watched(lambda over: _watch_head(head, end, over)) if head else contextlib.nullcontext()


@contextlib.contextmanager
def _watched(watch: Callable[[threading.Event], None]) -> Iterator[None]:
    """Calls a function in a thread of its own, with an event that is set when the block ends."""
    over = threading.Event()
    thread = threading.Thread(target=watch, args=(over,), name="parity-outage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch_raylet(raylet: psutil.Process, end: Callable[[str], object], over: threading.Event) -> None:
    while not over.wait(EVERY_S):
        if not _lives(raylet):
            end("Ray's process on this machine (the raylet) has ended, and the run with it.")
            return


def _watch_head(head: tuple[str, int], end: Callable[[str], object], over: threading.Event) -> None:
    answered = time.monotonic()
    while not over.wait(ASK_EVERY_S):
        with contextlib.suppress(OSError):
            ask(*head, limit_s=ASK_EVERY_S)
            answered = time.monotonic()
        if time.monotonic() - answered > HEAD_S and not over.is_set():
            end(f"The cluster's head at {head[0]}:{head[1]} has not answered for {HEAD_S:.0f} s.")
            return


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
