"""The scalars in the records of a TensorBoard event file.

A file is a sequence of TFRecords, each an `Event` message. protobuf decodes them; tensorboard itself, which would bring
its messages, takes seconds to import and keeps 10,000 steps of a scalar unless told otherwise.

Source:
    tensorflow/core/lib/io/record_writer.h for the records and their checksums;
    tensorboard/compat/proto/event.proto, summary.proto and tensor.proto for the messages.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import xxhash

from parity.judge.ulp import of_bfloat16

# Length and its checksum before the data, another checksum behind them.
_HEADER, _FOOTER = 12, 4
# Records up to here are verified together. A longer one is an image or a graph, and verified if it has a scalar.
_SHORT = 4096
# Records that are verified at a time: their indices take 8 bytes for each byte of them.
_TOGETHER = 8192
# (field, name, type or message, repeated); of each message only what scalars need. Other fields are skipped.
_DOUBLE, _FLOAT, _INT64, _INT32, _STRING, _BYTES = 1, 2, 3, 5, 9, 12
_MESSAGES: dict[str, tuple[tuple[int, str, int | str, bool], ...]] = {
    "Tensor": (
        (1, "dtype", _INT32, False),
        (4, "content", _BYTES, False),
        (5, "floats", _FLOAT, True),
        (6, "doubles", _DOUBLE, True),
        (13, "halves", _INT32, True),
    ),
    "PluginData": ((1, "name", _STRING, False),),
    "Metadata": ((1, "plugin", "PluginData", False),),
    "Value": (
        (1, "tag", _STRING, False),
        (2, "simple", _FLOAT, False),
        (8, "tensor", "Tensor", False),
        (9, "metadata", "Metadata", False),
    ),
    "Summary": ((1, "value", "Value", True),),
    "Event": ((2, "step", _INT64, False), (5, "summary", "Summary", False)),
}
# By number of the type: the name of its dtype, and the dtype of its bytes.
_TENSOR_DTYPES = {1: ("float32", "<f4"), 2: ("float64", "<f8"), 14: ("bfloat16", "<u2"), 19: ("float16", "<f2")}
# Whole numbers and truth values, which are not read.
_WHOLE = (3, 4, 5, 6, 9, 10, 17, 22, 23)


class DamagedError(ValueError):
    """A record is not an event, or does not have the checksum that is stored with it."""


@cache
def event_message() -> Any:
    """The class of the messages; made when it is first needed, since only event files need protobuf."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="parity/event.proto", package="parity", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field_name, kind, repeated in fields:
            field = message.field.add(name=field_name, number=number, label=3 if repeated else 1)
            field.type = kind if isinstance(kind, int) else 11
            if isinstance(kind, str):
                field.type_name = f".parity.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("parity.Event"))


@dataclass(frozen=True)
class Scalars:
    """The scalars of an event file.

    Attributes:
        rows: Name, step, dtype and number of each, in the order of the file.
        cut_off: Whether the file ends within a record, as it does while it is written.
        skipped: Names whose numbers are of a dtype that is not read.
        others: By name, what is not a scalar, such as histograms and texts: step and digest of each.
    """

    rows: list[tuple[str, int, str, float]]
    cut_off: bool
    skipped: tuple[str, ...] = ()
    others: Mapping[str, Sequence[tuple[int, str]]] = field(default_factory=dict)


def read_scalars(data: bytes) -> Scalars:
    """Reads the scalars of a file; the checksum of every record is verified.

    Raises:
        DamagedError: A checksum is wrong, or a record cannot be decoded.
    """
    spans, cut_off = _spans(data)
    _verify(data, [span for span in spans if span[1] <= _SHORT])
    rows, skipped = [], []
    others: dict[str, list[tuple[int, str]]] = {}
    for name, step, found in _values(data, spans):
        if isinstance(found, str):
            others.setdefault(name, []).append((step, found))
        elif found:
            rows.append((name, step, *found))
        else:
            skipped.append(name)
    return Scalars(rows, cut_off, (*dict.fromkeys(skipped),), others)


def _values(data: bytes, spans: list[tuple[int, int]]) -> Iterator[tuple[str, int, tuple[str, float] | str | None]]:
    """Name and step of each value, and its dtype and number.

    None for a number of a dtype that is not read; a digest for what is not a scalar.
    """
    from google.protobuf.message import DecodeError

    parse = event_message().FromString
    for begin, length in spans:
        try:
            event = parse(data[begin : begin + length])
        except DecodeError as error:
            raise DamagedError(f"the record at byte {begin - _HEADER:,} is not an event") from error
        step = event.step
        numbers: list[tuple[str, int, tuple[str, float] | None]] = []
        for value in event.summary.value:
            if value.HasField("simple"):
                numbers.append((value.tag, step, ("float32", value.simple)))
                continue
            plugin, number = value.metadata.plugin.name, _number(value.tensor)
            if plugin == "scalars" or (not plugin and (number or value.tensor.dtype in _WHOLE)):
                numbers.append((value.tag, step, number))
            else:
                yield value.tag, step, xxhash.xxh3_128_hexdigest(value.SerializeToString(deterministic=True))
        if length > _SHORT and numbers:
            _verify(data, [(begin, length)])
        yield from numbers


def _number(tensor: Any) -> tuple[str, float] | None:
    """Dtype and number of a tensor with one element; None for any other."""
    if tensor.dtype not in _TENSOR_DTYPES:
        return None
    name, layout = _TENSOR_DTYPES[tensor.dtype]
    if tensor.content:
        elements = np.frombuffer(tensor.content, layout)
    elif tensor.halves:
        elements = np.array([*tensor.halves], "<u2").view(layout)
    else:
        elements = np.array([*tensor.doubles] if name == "float64" else [*tensor.floats], layout)
    if len(elements) != 1:
        return None
    return name, float(of_bfloat16(elements)[0] if name == "bfloat16" else elements[0])


def _spans(data: bytes) -> tuple[list[tuple[int, int]], bool]:
    """Begin and length of the data of each record, and whether the file ends within one."""
    spans = []
    position, length_at = 0, struct.Struct("<Q").unpack_from
    while position + _HEADER + _FOOTER <= len(data):
        (length,) = length_at(data, position)
        spans.append((position + _HEADER, length))
        position += _HEADER + length + _FOOTER
    _verify_lengths(data, [begin for begin, _ in spans])
    if position > len(data):
        return spans[:-1], True
    return spans, position < len(data)


def _verify_lengths(data: bytes, begins: list[int]) -> None:
    """Compares the checksum of each length with the stored one.

    Raises:
        DamagedError: One differs.
    """
    octets, starts = np.frombuffer(data, np.uint8), np.array(begins, np.int64)
    rows = octets[starts[:, None] + np.arange(-_HEADER, 0)]
    wrong = np.flatnonzero(_masked_crc(rows[:, :8]) != rows[:, 8:].copy().view("<u4").reshape(-1))
    if len(wrong):
        raise DamagedError(f"the checksum of the length of the record at byte {begins[wrong[0]] - _HEADER:,} is wrong")


def _verify(data: bytes, spans: list[tuple[int, int]]) -> None:
    """Compares the checksum of each record with the stored one; records of equal length together, a byte at a time.

    Raises:
        DamagedError: One differs.
    """
    octets = np.frombuffer(data, np.uint8)
    begins, lengths = np.array(spans, np.int64).reshape(-1, 2).T
    for length in np.unique(lengths):
        _verify_rows(octets, begins[lengths == length], int(length))


def _verify_rows(octets: np.ndarray, every: np.ndarray, length: int) -> None:
    for first in range(0, len(every), _TOGETHER):
        starts = every[first : first + _TOGETHER]
        rows = octets[starts[:, None] + np.arange(-_HEADER, length + _FOOTER)]
        stored = rows[:, _HEADER + length :].copy().view("<u4").reshape(-1)
        wrong = np.flatnonzero(_masked_crc(rows[:, _HEADER : _HEADER + length]) != stored)
        if len(wrong):
            raise DamagedError(f"the checksum of the record at byte {starts[wrong[0]] - _HEADER:,} is wrong")


def _masked_crc(rows: np.ndarray) -> np.ndarray:
    """The masked CRC-32C of each row; uint8[N, L] -> uint32[N]."""
    table = _crc_table()
    crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(rows.T):
        crc = table[(crc ^ column) & 0xFF] ^ (crc >> np.uint32(8))
    crc = ~crc
    found: np.ndarray = np.add((crc >> np.uint32(15)) | (crc << np.uint32(17)), np.uint32(0xA282EAD8))
    return found


@cache
def _crc_table() -> np.ndarray:
    """CRC-32C of each byte; uint32[256]. The polynomial is Castagnoli's, bits reversed."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> np.uint32(1)) ^ np.uint32(0x82F63B78), table >> np.uint32(1))
    return table
