"""A file that only grows, on an object store: a folder of segments, each named by the offset at which it begins.

A segment is written once. Of two drivers that append at the same offset one succeeds, and the other gets an error.
"""

from typing import BinaryIO

from upath import UPath

from parity.ground.errors import Trouble
from parity.store import storage
from parity.store.lease import check_held

# Enough for any 64-bit offset; with leading zeros the names sort by offset.
DIGITS = 20
# Segments requested at once: enough to hide the time of a request, few enough to hold in memory.
FETCHED = 64


def fetch(folder: UPath, into: BinaryIO) -> None:
    """Writes the content of all segments to a file, in their order.

    Raises:
        Trouble: A segment is missing.
        OSError: The segments cannot be read.
    """
    names, offset = storage.names(folder), 0
    for start in range(0, len(names), FETCHED):
        contents = storage.read_several([folder / name for name in names[start : start + FETCHED]])
        for name, content in zip(names[start : start + FETCHED], contents, strict=True):
            # Each segment has to begin where the one before it ends, so a missing one shows in the name of the next.
            if name != f"{offset:0{DIGITS}d}":
                raise Trouble(
                    f"{folder} is damaged: its segment {offset:0{DIGITS}d} is missing. Restore it, or train again."
                )
            into.write(content)
            offset += len(content)


def append(folder: UPath, offset: int, content: bytes) -> None:
    """Writes the segment that begins at an offset in bytes.

    Args:
        folder: The folder of the segments.
        offset: The total length of all segments before it, in bytes.
        content: Its bytes; at least one.

    Raises:
        Trouble: Another driver has written one there, or has taken over the run, and may have completed it since.
        OSError: It cannot be written.
    """
    check_held(folder.parent)
    try:
        storage.write_new(folder / f"{offset:0{DIGITS}d}", content)
    except FileExistsError as error:
        raise Trouble(f"{folder} was written by another driver, which continues the run. This one stops.") from error
