"""Temporary folders: a process that is killed leaves its folder behind, and the next one removes it."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "parity-"
LOCK = "held"
# A folder is made first and locked then. One younger than this may be between the two, and is left alone.
YOUNG_S = 60.0
# The folders that this process holds.
mine: set[Path] = set()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder that only this user can read; locked until the block or the process ends, removed after the block.

    Its path is short, since the names of Ray's sockets in it have to fit into 107 bytes. It is used in place of Ray's
    own folder, which Ray never removes.
    """
    from filelock import FileLock  # here, as most commands need no such folder, and it takes long to import

    remove_left()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    mine.add(folder)
    try:
        with FileLock(folder / LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        mine.discard(folder)


def remove_left() -> None:
    """Removes the folders that killed processes left; folders of other users cannot be removed, and are left alone."""
    from filelock import FileLock, Timeout

    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with contextlib.suppress(OSError, Timeout):  # of another user, in use, or removed meanwhile
            if time.time() - lock.stat().st_mtime > YOUNG_S:
                # If this gets the lock, the process that held it has ended: the system released it.
                with FileLock(lock, timeout=0):
                    shutil.rmtree(lock.parent, ignore_errors=True)
