"""What the trials tell, in one file that only grows: durable before more is asked for, the truth until a run is whole.

On an object store, which appends to nothing, it is a folder of segments; the driver writes and reads a local copy.

A frame is the length of its payload, the payload's XXH3 and that of these two (little-endian uint64), then the payload:
an event as JSON, behind it the event's table as an Arrow stream and its other bytes. Nothing is pickled.
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
from parity.store.storage import StoragePath

# Its name in the run directory.
JOURNAL = "journal"


class Journal:
    """The journal of a run, read from its beginning and written at its end."""

    def __init__(self, path: StoragePath) -> None:
        self._path = path
        self._open = contextlib.ExitStack()
        with _told(path), contextlib.ExitStack() as opened:
            if isinstance(path, Path):
                # Unbuffered, so that nothing is left to be written when it is closed.
                self._file = opened.enter_context(path.open("r+b" if path.exists() else "x+b", buffering=0))
            else:
                # Without a name, so that a driver that is killed leaves nothing.
                self._file = opened.enter_context(tempfile.TemporaryFile(buffering=0))
                segments.fetch(path, self._file)
            self._end = self._durable = self._file.seek(0, os.SEEK_END)
            self._open = opened.pop_all()
        self.left_out = 0  # bytes of an unfinished end, as `replay` finds them

    def add(self, event: Event) -> int:
        """Writes an event behind the others, and returns where it begins.

        Raises:
            Trouble: It cannot be written.
        """
        began, written = self._end, frame(encode(event))
        with _told(self._path):
            self._file.seek(began)
            left = memoryview(written)
            while left:
                left = left[self._file.write(left) :]
        self._end += len(written)
        return began

    def sync(self) -> None:
        """Makes what was added durable.

        Raises:
            Trouble: It cannot be written.
        """
        with _told(self._path):
            if isinstance(self._path, Path):
                os.fdatasync(self._file.fileno())
            elif self._durable < self._end:
                self._file.seek(self._durable)
                segments.append(self._path, self._durable, self._file.read(self._end - self._durable))
        self._durable = self._end

    def read(self, offset: int) -> Event:
        """The event that begins there.

        Raises:
            Trouble: It is damaged.
        """
        with _told(self._path):
            self._file.seek(offset)
            payload = unframe(self._file)
        if payload is None:
            raise Trouble(f"{self._path} is damaged at byte {offset}.")
        return decode(payload)

    def replay(self) -> Iterator[tuple[int, Event]]:
        """The events from the first on, each with where it begins; an unfinished last one is cut off.

        Raises:
            Trouble: One before the last is damaged.
        """
        size, offset = self._end, 0
        while offset < size:
            with _told(self._path):
                self._file.seek(offset)
                payload = unframe(self._file)
                after = self._file.tell()
            if payload is None:
                self._cut(offset, size)
                return
            yield offset, decode(payload)
            offset = after

    def close(self) -> None:
        """Closes the file."""
        self._open.close()

    def _cut(self, offset: int, size: int) -> None:
        """Cuts off what a driver that was killed left unfinished: the last frame, which nothing was built upon.

        Raises:
            Trouble: It is not the last.
        """
        with _told(self._path):
            self._file.seek(offset)
            rest = self._file.read()
            length = payload_length(rest[:FRONT_BYTES])
            last = (
                len(rest) < FRONT_BYTES or not any(rest) or (length is not None and FRONT_BYTES + length >= len(rest))
            )
            if not (last and isinstance(self._path, Path)):  # no segment is ever torn
                raise Trouble(
                    f"{self._path} is damaged at byte {offset}. Restore it, or train anew with another --out."
                )
            self._file.truncate(offset)
        self._end, self.left_out = offset, size - offset


@contextlib.contextmanager
def _told(path: StoragePath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Trouble(f"{path} cannot be written or read ({error.strerror or error}).") from error
