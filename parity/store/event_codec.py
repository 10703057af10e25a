"""Encodes events as bytes: a head in JSON, then the event's table as an Arrow stream, then its other bytes.

Nothing is pickled: a journal from elsewhere must not be able to run code when it is read.
"""

import io
import json
import struct
from dataclasses import fields
from typing import Any

import pyarrow as pa

from parity.store.events import Advanced, Began, Ended, Event, Found, Restarted, Saved

# Length of the head in bytes.
_LENGTH = struct.Struct("<Q")
_KINDS = {kind.__name__: kind for kind in (Began, Advanced, Restarted, Saved, Found, Ended)}


def encode(event: Event) -> bytes:
    """The event as bytes."""
    # Not `asdict`, which would copy tables and states.
    values: dict[str, Any] = {field.name: getattr(event, field.name) for field in fields(event)}
    blobs: list[bytes] = []
    if isinstance(event, Advanced):
        blobs = [_stream(values.pop("table")), *values.pop("shared")]
    head = json.dumps({"kind": type(event).__name__, "values": values, "blobs": [len(blob) for blob in blobs]}).encode()
    return b"".join([_LENGTH.pack(len(head)), head, *blobs])


def decode(payload: bytes) -> Event:
    """The event that `encode` made these bytes from."""
    start = _LENGTH.size + _LENGTH.unpack_from(payload)[0]
    head = json.loads(payload[_LENGTH.size : start])
    blobs = []
    for length in head["blobs"]:
        blobs.append(payload[start : start + length])
        start += length
    values = head["values"]
    if blobs:
        values |= {"table": pa.ipc.open_stream(blobs[0]).read_all(), "shared": tuple(blobs[1:])}
    if "rows" in values:  # JSON has no tuples
        values["rows"] = tuple(values["rows"])
    event: Event = _KINDS[head["kind"]](**values)
    return event


def _stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
