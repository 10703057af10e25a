"""Encodes events as bytes: a head in JSON, then the event's table as an Arrow stream, then its other bytes.

Nothing is pickled: a journal from elsewhere must not be able to run code when it is read.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pyarrow as pa

from parity.store.events import Advanced, Began, Ended, Event, Found, Restarted, Saved, from_stream
from parity.store.json_text import parse_json
from parity.store.trials import TrialRecord

# Length of the head in bytes: uint64, little-endian on every machine, since a run may be continued on another one.
_LENGTH = struct.Struct("<Q")
_FACTS = {field.name for field in fields(TrialRecord)}
# By name, as the head stores it. `Captured` is missing: repeats of odd trials are not written to the journal.
_KINDS: dict[str, Callable[..., Event]] = {kind.__name__: kind for kind in (Began, Restarted, Saved, Found, Ended)}
_KINDS[Advanced.__name__] = Advanced.of


def encode(event: Event) -> bytes:
    """Encodes an event as bytes, from which `decode` makes an equal one."""
    # Not `asdict`, which would copy tables and states.
    values: dict[str, Any] = {field.name: getattr(event, field.name) for field in fields(event)}
    blobs: list[bytes] = []
    if isinstance(event, Advanced):
        # No other event has bytes of its own: the state of a `Saved` is in a file by now, and None here.
        blobs = [event.stream, *event.shared]
        values = {"trial": event.trial, "facts": event.facts}
    # Floats survive to the bit: `json` writes the shortest digits that are read back as the same number.
    head = json.dumps({"kind": type(event).__name__, "values": values, "blobs": [len(blob) for blob in blobs]}).encode()
    return b"".join([_LENGTH.pack(len(head)), head, *blobs])


def decode(payload: bytes) -> Event:
    """Decodes the event that `encode` made these bytes from.

    Raises:
        ValueError: It has not made them.
    """
    try:
        event = _decode(payload)
    except (struct.error, LookupError, TypeError, AttributeError, pa.ArrowException, EOFError) as error:
        raise ValueError(f"it cannot be decoded: {type(error).__name__}") from error
    # What a name of a file or of a column is made of.
    step = getattr(event, "step", 0)
    if not isinstance(event.trial, str) or type(step) is not int or step < 0:
        raise ValueError("it names no trial or step")
    if isinstance(event, Began | Advanced) and (unknown := {*event.facts} - _FACTS):
        raise ValueError(f"it has the unknown fact {min(map(str, unknown))!r}")
    return event


def _decode(payload: bytes) -> Event:
    start = _LENGTH.size + _LENGTH.unpack_from(payload)[0]
    # However long: what a trial has found of a model with many parameters is one event.
    head = parse_json(payload[_LENGTH.size : start], most_bytes=len(payload))
    blobs = []
    for length in head["blobs"]:
        blobs.append(payload[start : start + length])
        start += length
    values = head["values"]
    if blobs:
        stream, *shared = blobs
        values |= {"table": from_stream(stream), "shared": tuple(shared), "stream": stream}
    if "rows" in values:  # JSON has no tuples
        values["rows"] = tuple(values["rows"])
    event: Event = _KINDS[head["kind"]](**values)
    return event
