"""Ends the command when what it stands on is gone: Ray would end it too, but with status 1, which says `diverged`."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import psutil

EVERY_S = 0.1
# Ray ends a driver that has not reached its cluster's head (the GCS) for 60 s; a head may be replaced meanwhile.
KNOCK_EVERY_S = 5.0
HEAD_S = 40.0


@contextlib.contextmanager
def watched(
    raylet: psutil.Process | None, head: tuple[str, int] | None, end: Callable[[str], object]
) -> Iterator[None]:
    """Calls `end` with the reason, from a thread of its own, when one of them is gone while the block runs.

    Args:
        raylet: Ray's process on this machine, through which the driver does everything.
        head: Host and port of the cluster's head.
        end: Ends the process.
    """
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(raylet, head, end, over), name="parity-outage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(
    raylet: psutil.Process | None, head: tuple[str, int] | None, end: Callable[[str], object], over: threading.Event
) -> None:
    reached = knocked = time.monotonic()
    while not over.wait(EVERY_S):
        if raylet and not _lives(raylet):
            end("Ray's process on this machine (the raylet) has ended, and the run with it.")
            return
        if head and time.monotonic() - knocked > KNOCK_EVERY_S:
            knocked = time.monotonic()
            with contextlib.suppress(OSError):
                socket.create_connection(head, timeout=KNOCK_EVERY_S).close()
                reached = time.monotonic()
            if time.monotonic() - reached > HEAD_S:
                end(f"The cluster's head at {head[0]}:{head[1]} has not answered for {HEAD_S:.0f} s.")
                return


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
