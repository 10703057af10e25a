"""Temporary folders of local Ray clusters: a driver that was killed leaves its own, and the next one removes it."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "parity-"
LOCK = "held"
# A folder is made and then held; one as young as this may be between the two.
YOUNG_S = 60.0
# Those that this process holds.
mine: set[Path] = set()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder that only this user can read, held until the block or the process ends, and removed with the block.

    Short, since Ray's socket names have to fit into 107 bytes; ours, since Ray never removes its own.
    """
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
    """Removes the folders that drivers left which were killed; those of others cannot be, and are left alone."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with contextlib.suppress(OSError, Timeout):  # somebody else's, in use, or removed meanwhile
            if time.time() - lock.stat().st_mtime > YOUNG_S:
                with FileLock(lock, timeout=0):
                    shutil.rmtree(lock.parent, ignore_errors=True)
