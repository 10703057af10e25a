"""The journal: the events of all trials in one file that only grows, which a run is restored from until it is complete.

Events are durable before the trials are asked for more. On an object store, where nothing can be appended to, the
journal is a folder of segments, and the driver reads and writes a local copy.

Each event is a frame (see `frames`) whose payload is the encoded event (see `event_codec`).
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from parity.ground.errors import Trouble
from parity.store import segments
from parity.store.event_codec import decode, encode
from parity.store.events import Event
from parity.store.frames import FRONT_BYTES, frame, payload_length, unframe
from parity.store.regular import size_of_regular
from parity.store.storage import StoragePath

# Name in the run directory.
JOURNAL = "journal"


class Journal:
    """The journal of a run, read from its beginning and written at its end.

    Args:
        path: The journal's file, or its folder on an object store; a file that does not exist is created.

    Raises:
        Trouble: It cannot be opened, or a segment of it is missing.
    """

    def __init__(self, path: StoragePath) -> None:
        self._path = path
        self._open = contextlib.ExitStack()
        # `opened` closes the file again if what follows fails.
        with _accessing(path), contextlib.ExitStack() as opened:
            if isinstance(path, Path):
                _check_own(path)
                # Unbuffered, so that closing it writes nothing.
                self._file = opened.enter_context(path.open("r+b" if path.exists() else "x+b", buffering=0))
            else:
                # A file without a name, so that a killed driver leaves nothing behind.
                self._file = opened.enter_context(tempfile.TemporaryFile(buffering=0))
                segments.fetch(path, self._file)
            # How many bytes were added, and how many of these are durable.
            self._end = self._durable = self._file.seek(0, os.SEEK_END)
            self._open = opened.pop_all()
        self.left_out = 0  # bytes of an incomplete end that `replay` has cut off

    def add(self, event: Event) -> int:
        """Appends an event; returns its offset in bytes. It is durable only after `sync`.

        Raises:
            Trouble: It cannot be written.
        """
        began, written = self._end, frame(encode(event))
        with _accessing(self._path):
            self._file.seek(began)
            left = memoryview(written)
            # A file without a buffer may take fewer bytes than it is given.
            while left:
                left = left[self._file.write(left) :]
        # Only after the whole frame: the next event is written over one that failed halfway.
        self._end += len(written)
        return began

    def sync(self) -> None:
        """Makes the added events durable.

        Raises:
            Trouble: They cannot be written, or another driver has written to the journal.
        """
        with _accessing(self._path):
            if isinstance(self._path, Path):
                # Not `fsync`: of what the file system knows of a file, only the length matters here, and that is
                # written too.
                getattr(os, "fdatasync", os.fsync)(self._file.fileno())  # macOS has no fdatasync
            # All events since the last call are one segment. Without any there is none: it would be empty, and take the
            # name of the next.
            elif self._durable < self._end:
                self._file.seek(self._durable)
                segments.append(self._path, self._durable, self._file.read(self._end - self._durable))
        self._durable = self._end

    def read(self, offset: int) -> Event:
        """Reads the event at an offset in bytes, as `add` and `replay` give it.

        Raises:
            Trouble: The event is damaged, or cannot be read.
        """
        with _accessing(self._path):
            self._file.seek(offset)
            payload = unframe(self._file)
        if payload is None:
            raise Trouble(f"{self._path} is damaged at byte {offset}.")
        return self._decoded(payload, offset)

    def replay(self) -> Iterator[tuple[int, Event]]:
        """Yields all events in their order, each with its offset in bytes, and cuts off an incomplete last one.

        Raises:
            Trouble: An event before the last is damaged, or the journal cannot be read.
        """
        size, offset = self._end, 0
        while offset < size:
            with _accessing(self._path):
                self._file.seek(offset)
                payload = unframe(self._file)
                after = self._file.tell()
            if payload is None:
                self._cut(offset, size)
                return
            yield offset, self._decoded(payload, offset)
            offset = after

    def close(self) -> None:
        """Closes the file."""
        self._open.close()

    def _decoded(self, payload: bytes, offset: int) -> Event:
        try:
            return decode(payload)
        except ValueError as error:
            # Its digest is right, so another program has written it.
            raise Trouble(f"{self._path} has no event of parity at byte {offset} ({error}).") from error

    def _cut(self, offset: int, size: int) -> None:
        """Cuts off an incomplete last frame, which was not durable, so nothing was built on it.

        Raises:
            Trouble: The frame is not the last, so the journal is damaged.
        """
        with _accessing(self._path):
            self._file.seek(offset)
            rest = self._file.read()
            length = payload_length(rest[:FRONT_BYTES])
            # The last frame has too few bytes for a front, only zeros (the file was lengthened and not filled), or a
            # sound front whose payload reaches to the end of the file or would reach further. The blocks of a write
            # reach the disk in any order, so even a last frame of full length may be incomplete.
            last = (
                len(rest) < FRONT_BYTES or not any(rest) or (length is not None and FRONT_BYTES + length >= len(rest))
            )
            if not (last and isinstance(self._path, Path)):  # segments are written whole
                raise Trouble(
                    f"{self._path} is damaged at byte {offset}. "
                    "Restore it from a copy, or train again with another --out."
                )
            self._file.truncate(offset)
        self._end, self.left_out = offset, size - offset


def _check_own(path: Path) -> None:
    """Raises OSError if a file is there that is not a journal of this run: it is going to be written to, and cut."""
    if path.is_symlink():
        raise OSError("it is a link, and not a file of this run")
    if path.exists():
        size_of_regular(path)


@contextlib.contextmanager
def _accessing(path: StoragePath) -> Iterator[None]:
    """Turns an OSError of the block into the `Trouble` that the journal cannot be written or read."""
    try:
        yield
    except OSError as error:
        raise Trouble(f"{path} cannot be written or read ({error.strerror or error}).") from error
