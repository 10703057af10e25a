"""Frames: a payload behind its length and digests, so that a torn or damaged one is recognised."""

import io
import struct
from typing import BinaryIO

import xxhash

_HEADER = struct.Struct("<QQ")
_CHECK = struct.Struct("<Q")
FRONT_BYTES = _HEADER.size + _CHECK.size


def frame(payload: bytes) -> bytes:
    """The payload behind its length and digests."""
    header = _HEADER.pack(len(payload), xxhash.xxh3_64_intdigest(payload))
    return header + _CHECK.pack(xxhash.xxh3_64_intdigest(header)) + payload


def unframe(file: io.FileIO | BinaryIO) -> bytes | None:
    """The payload of the frame that begins where the file stands, None where it is not whole."""
    front = file.read(FRONT_BYTES)
    length = payload_length(front)
    if length is None:
        return None
    payload = file.read(length)
    digest = _HEADER.unpack_from(front)[1]
    return payload if len(payload) == length and xxhash.xxh3_64_intdigest(payload) == digest else None


def payload_length(front: bytes) -> int | None:
    """Of the payload behind what a frame begins with; None where that is damaged or not all there."""
    if len(front) < FRONT_BYTES:
        return None
    header, (check,) = front[: _HEADER.size], _CHECK.unpack_from(front, _HEADER.size)
    return int(_HEADER.unpack(header)[0]) if xxhash.xxh3_64_intdigest(header) == check else None
