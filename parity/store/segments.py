"""What only grows, on an object store: a folder of segments, each named by the offset that it begins at.

A segment is written once. So of two drivers that go on from the same end one succeeds, and the other is told.
"""

from typing import BinaryIO

from upath import UPath

from parity.ground.errors import Trouble
from parity.store import storage

DIGITS = 20
# How many are asked for at once.
FETCHED = 64


def fetch(folder: UPath, into: BinaryIO) -> None:
    """Writes all segments one behind the other.

    Raises:
        Trouble: One is missing.
        OSError: They cannot be read.
    """
    names, offset = storage.names(folder), 0
    for start in range(0, len(names), FETCHED):
        contents = storage.read_several([folder / name for name in names[start : start + FETCHED]])
        for name, content in zip(names[start : start + FETCHED], contents, strict=True):
            if name != f"{offset:0{DIGITS}d}":
                raise Trouble(
                    f"{folder} is damaged: its segment {offset:0{DIGITS}d} is missing. Restore it, or train anew."
                )
            into.write(content)
            offset += len(content)


def append(folder: UPath, offset: int, content: bytes) -> None:
    """Writes the segment that begins at the offset.

    Raises:
        Trouble: Another driver has.
        OSError: It cannot be written.
    """
    try:
        storage.write_new(folder / f"{offset:0{DIGITS}d}", content)
    except FileExistsError as error:
        raise Trouble(
            f"{folder} was written by another driver, which goes on with the run. This one has ended."
        ) from error
