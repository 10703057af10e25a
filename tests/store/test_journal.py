"""The journal: what was added is read back to the bit; a torn end is cut off, and damage before it is named."""

import contextlib
import io
import json
import math
import os
import pickle
import struct

import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from parity.ground.errors import Trouble
from parity.store.event_codec import decode, encode
from parity.store.events import Advanced, Began, Ended, Found, Restarted, Saved
from parity.store.frames import frame
from parity.store.journal import Journal

TABLE = pa.table({"step": [0, 1], "loss": [0.1, math.inf], "digest": pa.array([2**64 - 1, 0], pa.uint64())})
EVENTS = [
    Began("[a] 'b'\n", {"host": "höst", "cores": 8, "gpu_name": None}),
    Found("a", "findings", ({"step": 3, "kind": "scaled", "value": 0.1 + 0.2, "detail": ""},), "because"),
    Advanced.of("a", TABLE, {"loss_dtype": "float32", "param_names": ["w"]}, (b"\0\1\2", b"")),
    Saved("a", 2, 1.25, None),
    Restarted("a", "its worker died", 2, 1234.5),
    Ended("a", "failed", failed_step=3, failure="raised", error="no", traceback="x", wall_s=0.1, ended_s=7.0),
]


@pytest.fixture
def path(tmp_path):
    journal = Journal(tmp_path / "journal")
    for event in EVENTS:
        journal.add(event)
    journal.sync()
    journal.close()
    return tmp_path / "journal"


def test_steps_pass_between_processes_as_one_stream():
    found = pickle.dumps(EVENTS[2])
    again = pickle.loads(found)  # noqa: S301 - its own
    assert again == EVENTS[2] and again.table == TABLE
    assert (again.first, again.rows, again.end) == (0, 2, 2)
    assert pickle.loads(found).stream == EVENTS[2].stream  # noqa: S301 - its own
    assert b"pyarrow" not in found  # a column by itself would name what makes it


def replayed(path):
    with contextlib.closing(Journal(path)) as journal:
        return [event for _, event in journal.replay()], journal.left_out


@given(st.text(), st.none() | st.text(), st.floats(allow_nan=False), st.none() | st.integers(0, 2**62))
def test_whatever_an_event_holds_is_read_back(name, error, wall_s, step):
    for event in (
        Ended(name, "failed", failed_step=step, error=error, traceback=error, wall_s=wall_s),
        Began(name, {"host": error, "cores": step}),
        Found(name, "contract", ({"item": name, "reason": error, "value": wall_s},), error),
    ):
        assert decode(encode(event)) == event


def test_events_are_read_back_as_they_were(path):
    assert replayed(path) == (EVENTS, 0)


def test_one_event_is_read_where_it_begins(path):
    journal = Journal(path)
    offsets = [offset for offset, _ in journal.replay()]
    assert [journal.read(offset) for offset in reversed(offsets)] == EVENTS[::-1]
    assert journal.read(journal.add(EVENTS[2])) == EVENTS[2]
    journal.close()


def test_wherever_the_end_is_torn_the_events_before_it_are_kept(path):
    whole = path.read_bytes()
    journal = Journal(path)
    offsets = [offset for offset, _ in journal.replay()] + [len(whole)]
    journal.close()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        kept = sum(offset <= length for offset in offsets[1:])
        assert replayed(path) == (EVENTS[:kept], length - offsets[kept])
        assert path.stat().st_size == offsets[kept]


def test_what_is_added_behind_a_torn_end_is_read(path):
    path.write_bytes(path.read_bytes()[:-3])
    journal = Journal(path)
    list(journal.replay())
    journal.add(EVENTS[0])
    journal.close()
    assert replayed(path) == ([*EVENTS[:-1], EVENTS[0]], 0)


def test_zeros_of_a_file_that_was_lengthened_but_not_filled_are_a_torn_end(path):
    path.write_bytes(path.read_bytes() + bytes(1000))
    assert replayed(path) == (EVENTS, 1000)


def test_a_flipped_bit_is_named_and_nothing_is_cut_off(path):
    whole = path.read_bytes()
    journal = Journal(path)
    last = [offset for offset, _ in journal.replay()][-1]
    journal.close()
    for position in range(last):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(Trouble, match=r"journal is damaged at byte [0-9]+\. Restore it"):
            replayed(path)
        assert path.read_bytes() == damaged


def test_a_journal_behind_a_link_is_not_written_to(tmp_path):
    """Its incomplete end would be cut off, and it may be any file of the user."""
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "journal").symlink_to(tmp_path / "victim")
    with pytest.raises(Trouble) as caught:
        Journal(tmp_path / "journal")
    reason = "it is a link, and not a file of this run"
    assert str(caught.value) == f"{tmp_path}/journal cannot be written or read ({reason})."
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_journal_that_is_a_named_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "journal")
    with pytest.raises(Trouble) as caught:
        Journal(tmp_path / "journal")
    reason = "it is a named pipe, not a regular file"
    assert str(caught.value) == f"{tmp_path}/journal cannot be written or read ({reason})."


def test_a_sound_frame_that_claims_to_be_huge_is_not_given_the_memory(tmp_path):
    """Its digests are right: somebody has made it so."""
    front = frame(b"")
    header = struct.pack("<QQ", 2**62, 0)
    (tmp_path / "journal").write_bytes(header + struct.pack("<Q", xxhash.xxh3_64_intdigest(header)) + front)
    assert replayed(tmp_path / "journal") == ([], 2 * len(front))


def stream_of(table):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def event_of(kind, *blobs, **values):
    head = json.dumps({"kind": kind, "values": values, "blobs": [len(blob) for blob in blobs]}).encode()
    return struct.pack("<Q", len(head)) + head + b"".join(blobs)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (event_of("Saved", trial="a", step="../../x", wall_s=1.0, state=None), "it names no trial or step"),
        (event_of("Saved", trial=None, step=1, wall_s=1.0, state=None), "it names no trial or step"),
        (event_of("Began", trial="a", facts={"run": "x", "password": "y"}), "it has the unknown fact 'password'"),
        (event_of("Replaced", trial="a"), "it cannot be decoded: KeyError"),
        (event_of("Began", trial="a", facts={"host": []}, more=1), "it cannot be decoded: TypeError"),
        (event_of("Began", EVENTS[2].stream, trial="a", facts={}), "it cannot be decoded: TypeError"),
        (event_of("Advanced", trial="a", facts={}), "it cannot be decoded: TypeError"),
        (event_of("Advanced", stream_of(TABLE.slice(2)), trial="a", facts={}), "it cannot be decoded: IndexError"),
        (event_of("Advanced", b"x", trial="a", facts={}), "it cannot be decoded: ArrowInvalid"),
        (struct.pack("<Q", 99_999) + b"[" * 99_999, "its JSON has more than 32 levels"),
        (b"", "it cannot be decoded: error"),
    ],
)
def test_a_frame_with_something_else_than_an_event_is_refused(tmp_path, payload, said):
    (tmp_path / "journal").write_bytes(frame(encode(EVENTS[0])) + frame(payload))
    at = len(frame(encode(EVENTS[0])))
    with pytest.raises(Trouble) as caught:
        replayed(tmp_path / "journal")
    assert str(caught.value) == f"{tmp_path}/journal has no event of parity at byte {at} ({said})."
