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

# Length of the head in bytes: uint64, little-endian on every machine, since a run may be continued on another one.
_LENGTH = struct.Struct("<Q")
# By name, as the head stores it. `Captured` is missing: repeats of odd trials are not written to the journal.
_KINDS = {kind.__name__: kind for kind in (Began, Advanced, Restarted, Saved, Found, Ended)}


def encode(event: Event) -> bytes:
    """Encodes an event as bytes, from which `decode` makes an equal one."""
    # Not `asdict`, which would copy tables and states.
    values: dict[str, Any] = {field.name: getattr(event, field.name) for field in fields(event)}
    blobs: list[bytes] = []
    if isinstance(event, Advanced):
        # No other event has bytes of its own: the state of a `Saved` is in a file by now, and None here.
        blobs = [_stream(values.pop("table")), *values.pop("shared")]
    # Floats survive to the bit: `json` writes the shortest digits that are read back as the same number.
    head = json.dumps({"kind": type(event).__name__, "values": values, "blobs": [len(blob) for blob in blobs]}).encode()
    return b"".join([_LENGTH.pack(len(head)), head, *blobs])


def decode(payload: bytes) -> Event:
    """Decodes the event that `encode` made these bytes from."""
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
