"""Keeps other drivers off a run on an object store: a holder renews its object, and who sees it renewed stays away.

The objects are numbered, and each is made by one driver alone; who holds the largest number holds the run. Two drivers
that both believe so do no harm even then: one of them cannot write on in the journal, see `segments`.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from upath import UPath

from parity.ground.errors import Trouble
from parity.store import storage

# How often it is renewed, and how long not before its holder counts as gone.
BEAT_S = 5.0
GONE_S = 4 * BEAT_S
LOOK_S = 1.0


@contextlib.contextmanager
def lease(folder: UPath) -> Iterator[None]:
    """Holds a folder of such objects until the block ends; of a holder that is gone it is taken over.

    Raises:
        Trouble: Another driver holds it.
        OSError: It cannot be written.
    """
    own = {"process": _process(), "host": platform.node(), "driver": uuid.uuid4().hex, "beat": 0}
    number = _acquire(folder, own)
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(folder, number, own, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):  # what cannot be removed is renewed no more, and taken over
            for each in [each for each in _numbers(folder) if each <= number]:
                storage.remove(folder / str(each), patience_s=0)


def _acquire(folder: UPath, own: dict[str, Any]) -> int:
    """Makes the next object; returns its number."""
    while True:
        last = max(_numbers(folder), default=None)
        if last is not None and not _gone(folder / str(last)):
            continue  # it was let go of, and somebody may have taken it since
        number = 0 if last is None else last + 1
        try:
            storage.write_new(folder / str(number), _encode(own), patience_s=storage.FIRST_PATIENCE_S)
        except FileExistsError:
            continue
        if last is None or last in _numbers(folder):
            return number
        storage.remove(folder / str(number))  # the run was taken over, and let go of, while this driver looked away


def _gone(path: UPath) -> bool:
    """Whether the holder counts as gone; False if it let go.

    Raises:
        Trouble: It is there.
    """
    first = _look(path)
    end = time.monotonic() + GONE_S
    while first is not None and not _ended_here(first) and time.monotonic() < end:
        time.sleep(LOOK_S)
        now = _look(path)
        if now is None:
            return False
        if now != first:
            raise Trouble(
                f"{path.parent.parent} is in use by another driver, on {now.get('host', 'an unknown host')}. "
                "Wait until that has ended, or end it."
            )
    return first is not None


def _renew(folder: UPath, number: int, own: dict[str, Any], ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(BEAT_S):
        beat += 1
        # A store that does not answer now may do so at the next beat; if it does not, the journal tells.
        with contextlib.suppress(OSError):
            if max(_numbers(folder), default=number) != number:
                return  # taken over: the journal will refuse what this driver writes
            storage.write_whole(folder / str(number), _encode({**own, "beat": beat}))


def _numbers(folder: UPath) -> list[int]:
    return [int(name) for name in storage.names(folder, patience_s=storage.FIRST_PATIENCE_S) if name.isdigit()]


def _process() -> list[Any]:
    """This process, told from every other of any machine; empty where that cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return []
    return [boot, namespace, os.getpid(), psutil.Process().create_time()]


def _ended_here(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is there no more: then there is nothing to wait for."""
    own, other = _process(), holder.get("process") or []
    if not own or other[:2] != own[:2]:
        return False
    try:
        return bool(psutil.Process(other[2]).create_time() != other[3])
    except psutil.NoSuchProcess:
        return True


def _look(path: UPath) -> dict[str, Any] | None:
    try:
        found = json.loads(storage.read(path))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _encode(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()
