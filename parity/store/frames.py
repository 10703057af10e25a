"""Frames: a payload preceded by its length and digests, so that a torn or damaged one is recognised.

The digests are XXH3, which detect damage and not intent: whoever can write the file can write matching digests.
"""

import io
import struct
from typing import BinaryIO

import xxhash

# Length of the payload in bytes, and its digest.
_HEADER = struct.Struct("<QQ")
# The digest of the header itself: a damaged length must not be taken for a torn end.
_CHECK = struct.Struct("<Q")
FRONT_BYTES = _HEADER.size + _CHECK.size


def frame(payload: bytes) -> bytes:
    """The payload, preceded by its length and digests."""
    header = _HEADER.pack(len(payload), xxhash.xxh3_64_intdigest(payload))
    return header + _CHECK.pack(xxhash.xxh3_64_intdigest(header)) + payload


def unframe(file: io.FileIO | BinaryIO) -> bytes | None:
    """The payload of the frame at the file's position; None if the frame is incomplete or damaged."""
    front = file.read(FRONT_BYTES)
    length = payload_length(front)
    # The front has a digest of its own, so that a damaged length is never believed: it could ask for any amount of
    # memory.
    if length is None:
        return None
    # Nor is an undamaged one that somebody else wrote: `read` makes room for as much as it is asked for.
    place = file.tell()
    if length > file.seek(0, io.SEEK_END) - place:
        return None
    file.seek(place)
    payload = file.read(length)
    digest = _HEADER.unpack_from(front)[1]
    return payload if len(payload) == length and xxhash.xxh3_64_intdigest(payload) == digest else None


def payload_length(front: bytes) -> int | None:
    """Length in bytes of the payload that follows a frame's first bytes; None if these are damaged or too few."""
    if len(front) < FRONT_BYTES:
        return None
    header, (check,) = front[: _HEADER.size], _CHECK.unpack_from(front, _HEADER.size)
    return int(_HEADER.unpack(header)[0]) if xxhash.xxh3_64_intdigest(header) == check else None
