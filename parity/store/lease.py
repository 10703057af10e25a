"""The lease of a run on an object store, which keeps other drivers off it.

A driver creates a numbered object and renews it; the largest number holds the run. A driver that sees the object being
renewed stays away; one that sees it unchanged for long enough takes the run over with the next number. If two
drivers both believe that they hold the run, no harm is done: only one can append to the journal, see `segments`.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from upath import UPath

from parity.ground.errors import Trouble
from parity.store import storage
from parity.store.storage import StoragePath

# Name in the run directory.
_FOLDER = "lock"
# A lease is renewed once a beat. After four beats without a change its holder is presumed gone: one renewal may fail
# and be repeated for some time.
BEAT_S = 5.0
GONE_S = 4 * BEAT_S
# How often a lease is looked at while its holder may be gone.
LOOK_S = 1.0


@dataclass
class _Held:
    """A lease that this process holds, as far as it knows.

    Attributes:
        number: That of its object.
        own: The content of its object, but for the beat.
        seen_s: When the object was last seen to be its own, by two clocks: the monotonic one stands still while the
            machine sleeps, and the other one can be set.
        lost: Whether another driver has taken over.
    """

    number: int
    own: dict[str, Any]
    seen_s: tuple[float, float]
    lost: bool = False


# By the folder of the objects.
_held: dict[str, _Held] = {}


def check_held(directory: StoragePath, *, certainly: bool = False) -> None:
    """Checks that no other driver has taken over the run, before something is written that could be theirs.

    A process or machine that was frozen does not know for how long: another driver may have completed the run
    meanwhile, and released its lease.

    Args:
        directory: The run directory. One that this process has no lease of, as a local one, is not checked.
        certainly: Whether to ask the store in any case, and not only if the lease was not renewed for `GONE_S`.

    Raises:
        Trouble: Another driver has taken over.
        OSError: The lease cannot be read.
    """
    folder = directory / _FOLDER
    held = _held.get(str(folder))
    if held is None or isinstance(folder, Path):
        return
    silent_s = max(now - seen for now, seen in zip(_clocks(), held.seen_s, strict=True))
    if not held.lost and (certainly or silent_s > GONE_S):
        _see(folder, held)
    if held.lost:
        raise Trouble(
            f"{directory} was taken over by another driver, since this one had not been heard from for {GONE_S:g} s. "
            "This one stops, and leaves the run to it."
        )


def _to_release(folder: UPath, held: _Held) -> list[int]:
    """The numbers of the objects to remove at the end; none that is of a driver that has taken over."""
    numbers = [each for each in _numbers(folder) if each <= held.number]
    if not held.lost:
        return numbers
    own = _look(folder / str(held.number)) or {}
    return [held.number] if own.get("driver") == held.own["driver"] else []


def _see(folder: UPath, held: _Held) -> None:
    """Looks whether the lease is still the own one: no larger number, and not released by another driver."""
    seen_s = _clocks()
    found = _look(folder / str(held.number)) if max(_numbers(folder), default=None) == held.number else None
    if found is None or found.get("driver") != held.own["driver"]:
        held.lost = True
    held.seen_s = seen_s


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.time()


@contextlib.contextmanager
def lease(folder: UPath) -> Iterator[None]:
    """Holds the lease until the block ends; takes it over from a holder that is gone.

    Args:
        folder: The folder of the numbered objects.

    Raises:
        Trouble: Another driver holds the lease.
        OSError: The lease cannot be written.
    """
    own = {"process": _process(), "host": platform.node(), "driver": uuid.uuid4().hex, "beat": 0}
    number = _acquire(folder, own)
    held = _held[str(folder)] = _Held(number, own, _clocks())
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(folder, held, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()  # a renewal that is under way would write the object again
        _held.pop(str(folder), None)
        with contextlib.suppress(OSError):  # an object that stays is not renewed, and can be taken over
            for each in _to_release(folder, held):
                storage.remove(folder / str(each), patience_s=storage.FIRST_PATIENCE_S)


def _acquire(folder: UPath, own: dict[str, Any]) -> int:
    """Creates the next object; returns its number."""
    while True:
        last = max(_numbers(folder), default=None)
        if last is not None and not _gone(folder / str(last)):
            continue  # it was released, and another driver may have taken it since
        number = 0 if last is None else last + 1
        try:
            storage.write_new(folder / str(number), _encode(own), patience_s=storage.FIRST_PATIENCE_S)
        except FileExistsError:
            continue
        # If the object of the previous holder is still there, nobody has released the run since it was looked at.
        if last is None or last in _numbers(folder):
            return number
        storage.remove(folder / str(number))  # the run was taken over and released meanwhile: start again


def _gone(path: UPath) -> bool:
    """Whether the holder is presumed gone; False if it released the lease. May wait for `GONE_S`.

    Raises:
        Trouble: The holder has renewed the lease.
    """
    # Only changes are observed: clocks of two machines cannot be compared.
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
                "Wait until it has ended, or stop it."
            )
    return first is not None


def _renew(folder: UPath, held: _Held, ended: threading.Event) -> None:
    """Renews the lease each beat, until the event is set or another driver has taken over."""
    beat = 0
    while not ended.wait(BEAT_S):
        beat += 1
        # A store that does not answer now may do so at the next beat. If it never does, the journal reports it.
        with contextlib.suppress(OSError):
            _see(folder, held)
            if held.lost:
                return
            storage.write_whole(folder / str(held.number), _encode({**held.own, "beat": beat}))


def _numbers(folder: UPath) -> list[int]:
    """The numbers of the existing objects."""
    return [int(name) for name in storage.names(folder, patience_s=storage.FIRST_PATIENCE_S) if name.isdigit()]


def _process() -> list[Any]:
    """Identifies this process among all processes of all machines; empty where the system gives no such identity."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return []
    # A process number is used again, and means something else in another container or after a restart.
    return [boot, namespace, os.getpid(), psutil.Process().create_time()]


def _ended_here(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended, so that there is nothing to wait for."""
    own, other = _process(), holder.get("process") or []
    if not own or other[:2] != own[:2]:
        return False
    try:
        return bool(psutil.Process(other[2]).create_time() != other[3])
    except psutil.NoSuchProcess:
        return True


def _look(path: UPath) -> dict[str, Any] | None:
    """The content of a lease; None if it does not exist, empty if it is not JSON."""
    try:
        found = json.loads(storage.read(path))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _encode(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()
