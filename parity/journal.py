"""What the trials tell, in one file that only grows: durable before more is asked for, the truth until a run is whole.

On an object store, which appends to nothing, it is a folder of segments; the driver writes and reads a local copy.

A frame is the length of its payload, the payload's XXH3 and that of these two (little-endian uint64), then the payload:
an event as JSON, behind it the event's table as an Arrow stream and its other bytes. Nothing is pickled.
"""

import contextlib
import io
import json
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import xxhash

from parity import segments
from parity.errors import Trouble
from parity.events import Advanced, Began, Ended, Event, Found, Restarted, Saved
from parity.storage import StoragePath

# Its name in the run directory.
JOURNAL = "journal"

_HEADER = struct.Struct("<QQ")
_CHECK = struct.Struct("<Q")
_FRONT = _HEADER.size + _CHECK.size
_LENGTH = struct.Struct("<Q")
_KINDS = {kind.__name__: kind for kind in (Began, Advanced, Restarted, Saved, Found, Ended)}


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
            length = _length(rest[:_FRONT])
            last = len(rest) < _FRONT or not any(rest) or (length is not None and _FRONT + length >= len(rest))
            if not (last and isinstance(self._path, Path)):  # no segment is ever torn
                raise Trouble(
                    f"{self._path} is damaged at byte {offset}. Restore it, or train anew with another --out."
                )
            self._file.truncate(offset)
        self._end, self.left_out = offset, size - offset


def frame(payload: bytes) -> bytes:
    """The payload behind its length and digests."""
    header = _HEADER.pack(len(payload), xxhash.xxh3_64_intdigest(payload))
    return header + _CHECK.pack(xxhash.xxh3_64_intdigest(header)) + payload


def unframe(file: io.FileIO | BinaryIO) -> bytes | None:
    """The payload of the frame that begins where the file stands, None where it is not whole."""
    front = file.read(_FRONT)
    length = _length(front)
    if length is None:
        return None
    payload = file.read(length)
    digest = _HEADER.unpack_from(front)[1]
    return payload if len(payload) == length and xxhash.xxh3_64_intdigest(payload) == digest else None


def _length(front: bytes) -> int | None:
    """Of the payload behind what a frame begins with; None where that is damaged or not all there."""
    if len(front) < _FRONT:
        return None
    header, (check,) = front[: _HEADER.size], _CHECK.unpack_from(front, _HEADER.size)
    return int(_HEADER.unpack(header)[0]) if xxhash.xxh3_64_intdigest(header) == check else None


def encode(event: Event) -> bytes:
    """The event in bytes."""
    values: dict[str, Any] = {field.name: getattr(event, field.name) for field in fields(event)}
    blobs: list[bytes] = []
    if isinstance(event, Advanced):
        blobs = [_stream(values.pop("table")), *values.pop("shared")]
    head = json.dumps({"kind": type(event).__name__, "values": values, "blobs": [len(blob) for blob in blobs]}).encode()
    return b"".join([_LENGTH.pack(len(head)), head, *blobs])


def decode(payload: bytes) -> Event:
    """The event of these bytes."""
    start = _LENGTH.size + _LENGTH.unpack_from(payload)[0]
    head = json.loads(payload[_LENGTH.size : start])
    blobs = []
    for length in head["blobs"]:
        blobs.append(payload[start : start + length])
        start += length
    values = head["values"]
    if blobs:
        values |= {"table": pa.ipc.open_stream(blobs[0]).read_all(), "shared": tuple(blobs[1:])}
    if "rows" in values:
        values["rows"] = tuple(values["rows"])
    event: Event = _KINDS[head["kind"]](**values)
    return event


def _stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


@contextlib.contextmanager
def _told(path: StoragePath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Trouble(f"{path} cannot be written or read ({error.strerror or error}).") from error
