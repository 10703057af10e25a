"""The run directory, local or on an object store: making it, locking it, and marking it complete.

run.json  trials.parquet  traces/*.parquet  shared_steps.parquet  step_errors.parquet  contract.parquet
findings.parquet  replays.parquet  differences.parquet  summary.json  report.html
"""

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from parity.ground.errors import Trouble
from parity.store import storage
from parity.store.files import write_json
from parity.store.lease import check_held, lease
from parity.store.seal import seal
from parity.store.statuses import RunState
from parity.store.storage import StoragePath, name_beside

# While a driver uses the run: a file on a local disk, a folder of leases on an object store.
LOCK = "lock"


def create(out: StoragePath, *, option: str = "--out", resumable: bool = True) -> None:
    """Makes the run directory.

    Args:
        out: A new directory. One in which a driver was killed before it wrote run.json counts as new.
        option: What the user gives it by, for messages.
        resumable: Whether it is for a run of the command, which can be continued.

    Raises:
        Trouble: It exists already, or cannot be made.
    """
    try:
        if storage.exists(out / "run.json", patience_s=storage.FIRST_PATIENCE_S):
            then = f", or continue it with --resume {shlex.quote(str(out))}" if resumable else ""
            raise Trouble(f"{out} already holds a run. Choose another {option}{then}.")
        if isinstance(out, Path):
            # `mkdir` refuses a folder that exists, so a folder that holds something else is never filled.
            out.mkdir(parents=True)
            (out / "traces").mkdir()
        # An object store has no folders to make. The lock may be left by a driver that was killed before it wrote more.
        elif set(storage.names(out, patience_s=storage.FIRST_PATIENCE_S)) - {LOCK}:
            raise FileExistsError
    except FileExistsError as error:
        # Such a folder holds nothing yet, and the same command, started again, must not be refused.
        if isinstance(out, Path) and out.is_dir() and _left_before_planned(out):
            return
        raise Trouble(f"{out} already exists. Choose another {option}, a new directory.") from error
    except OSError as error:
        raise Trouble(
            f"{option} {out} cannot be made ({error.strerror or error}). Choose a folder that you can write to."
        ) from error
    except ValueError as error:  # from the store's library: its endpoint is not an address
        raise Trouble(f"{option} {out} cannot be made ({error}). Check the settings of the store.") from error


def _left_before_planned(out: Path) -> bool:
    """Whether a driver was killed in this directory before it had written run.json."""
    names = {path.name for path in out.iterdir()}
    planned = {"traces", LOCK, name_beside(out / "run.json").name}
    # Without traces/ the folder is one of the user's rather than one that `create` made.
    return "traces" in names and names <= planned and not any((out / "traces").iterdir())


@contextlib.contextmanager
def hold(directory: StoragePath) -> Iterator[None]:
    """Keeps other drivers off a run directory until the block or the process ends, even if it is killed.

    Raises:
        Trouble: Another driver holds it, or it cannot be written to.
    """
    path = directory / LOCK
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_lock(path) if isinstance(path, Path) else lease(path))
        except Timeout as error:
            raise Trouble(f"{directory} is in use by another driver. Wait until it has ended, or stop it.") from error
        except OSError as error:
            raise Trouble(f"{path} cannot be written ({error.strerror or error}).") from error
        yield


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    # The system releases the lock however the process ends. Only the file may stay, which `create` allows for.
    lock = FileLock(path)
    lock.acquire(timeout=0)
    try:
        yield
    finally:
        # Before the release: after it the file may already be the lock of another driver.
        path.unlink(missing_ok=True)
        lock.release()


def discard(out: StoragePath) -> None:
    """Removes a run directory in which nothing was stored."""
    storage.remove(out / LOCK)
    if isinstance(out, Path):
        name_beside(out / "run.json").unlink(missing_ok=True)
        (out / "traces").rmdir()
        # Not the whole tree: `rmdir` refuses a folder in which there is more than `create` made.
        out.rmdir()


def complete(directory: StoragePath, info: Mapping[str, Any]) -> None:
    """Marks the run complete in run.json, with the digest of each file.

    Args:
        directory: The run directory.
        info: The content of run.json so far.

    Raises:
        OSError: A table cannot be read.
        Trouble: run.json cannot be written, or another driver has taken over the run.
    """
    check_held(directory, certainly=True)
    state: RunState = "complete"
    # Written after all tables of the training: where run.json says "complete", the journal is no longer needed.
    write_json(directory / "run.json", seal({**info, "state": state}, directory))


@contextlib.contextmanager
def begun(out: StoragePath, *, option: str = "--out", resumable: bool = True) -> Iterator[None]:
    """Makes a run directory and locks it until the block ends, so that no other process uses it.

    Args:
        out: The directory to make.
        option: What the user gives it by, for messages.
        resumable: Whether it is for a run of the command, which can be continued.

    Raises:
        Trouble: The directory exists already, or cannot be made.
    """
    # Fails for an existing directory, so a run never writes over another.
    create(out, option=option, resumable=resumable)
    # The lock ends with the process, even if it is killed, so no lock outlives its driver.
    with hold(out):
        yield
