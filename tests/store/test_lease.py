"""The lease of a run on an object store has one holder; another driver takes it over when that is gone."""

import json
import re
import subprocess
import sys
import threading

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from upath import UPath

from parity.ground.errors import Trouble
from parity.store import lease as module
from parity.store.directory import complete
from parity.store.lease import check_held, lease
from parity.store.segments import append

HOLD = """
from parity.store import lease
print(lease._encode({"driver": "other", "process": lease._process(), "host": "there", "beat": 0}).decode())
"""


@pytest.fixture(autouse=True)
def _one_at_a_time(monkeypatch):
    """A real store lists its objects at one moment. fsspec's store in memory looks each up again, and may miss one."""
    lock = threading.RLock()
    for name in ("ls", "exists", "pipe_file", "cat_file", "rm"):
        genuine = getattr(MemoryFileSystem, name)

        def call(*arguments, genuine=genuine, **options):
            with lock:
                return genuine(*arguments, **options)

        monkeypatch.setattr(MemoryFileSystem, name, call)


@pytest.fixture
def folder(tmp_path):
    return UPath(f"memory://{tmp_path.name}/lock")


def numbers(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name, seconds in (("BEAT_S", 0.05), ("GONE_S", 1.0), ("LOOK_S", 0.02)):
        monkeypatch.setattr(module, name, seconds)


def test_one_that_is_held_is_refused_and_then_free(folder):
    with lease(folder):
        with pytest.raises(Trouble) as caught, lease(folder):
            pass
        host = json.loads((folder / "0").read_bytes())["host"]
        message = f"{folder.parent} is in use by another driver, on {host}. Wait until it has ended, or stop it."
        assert str(caught.value) == message
    assert numbers(folder) == []
    with lease(folder):
        assert numbers(folder) == ["0"]


def test_one_whose_holder_stops_renewing_is_taken_over(folder):
    far = {"driver": "gone", "process": ["another machine"], "host": "far", "beat": 3}
    (folder / "7").write_bytes(json.dumps(far).encode())
    with lease(folder):
        assert numbers(folder) == ["7", "8"]
    assert numbers(folder) == []


def test_a_holder_of_this_machine_that_has_ended_is_not_waited_for(folder, monkeypatch):
    monkeypatch.setattr(module, "GONE_S", 1e9)
    printed = subprocess.run([sys.executable, "-c", HOLD], capture_output=True, text=True, check=True).stdout
    (folder / "0").write_text(printed)
    with lease(folder):
        pass


def test_one_that_is_not_json_is_waited_for_as_any(folder):
    (folder / "0").write_bytes(b"\xff")
    with lease(folder):
        pass


def test_one_that_is_released_while_it_is_watched_is_free(folder, monkeypatch):
    (folder / "3").write_bytes(b"{}")
    monkeypatch.setattr(module, "GONE_S", 1e9)
    threading.Timer(0.2, (folder / "3").unlink).start()
    with lease(folder):
        assert numbers(folder) == ["0"]


def test_a_driver_that_missed_a_takeover_and_release_does_not_hold_it(folder, monkeypatch):
    """Between finding the holder gone and taking over, another driver does both, and a third starts again."""
    (folder / "3").write_bytes(b"{}")

    def gone(path):
        monkeypatch.undo()
        path.unlink()
        (folder / "0").write_bytes(b'{"beat": 1}')
        threading.Timer(0.2, (folder / "0").write_bytes, [b'{"beat": 2}']).start()
        return True

    monkeypatch.setattr(module, "_gone", gone)
    with pytest.raises(Trouble), lease(folder):
        pass
    assert numbers(folder) == ["0"]


def test_of_many_drivers_one_takes_over(folder):
    (folder / "0").write_bytes(b"{}")
    got, refused, ended = [], [], threading.Event()

    def want(number):
        try:
            with lease(folder):
                got.append(number)
                ended.wait(30)
        except Trouble:
            refused.append(number)

    threads = [threading.Thread(target=want, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while len(got) + len(refused) < 4:
        assert any(thread.is_alive() for thread in threads)
        threading.Event().wait(0.02)
    ended.set()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 3)


def test_one_that_was_taken_over_is_no_longer_renewed(folder):
    with lease(folder):
        (folder / "1").write_bytes(b"{}")
        threading.Event().wait(0.2)
        before = (folder / "0").read_bytes()
        threading.Event().wait(0.2)
        assert (folder / "0").read_bytes() == before
    assert numbers(folder) == ["1"]


def test_a_holder_that_was_frozen_while_another_one_came_and_went_holds_it_no_more(folder, monkeypatch):
    """The other one has completed the run: neither lease nor journal are there any more, and all could be written."""
    monkeypatch.setattr(module, "BEAT_S", 1e9)  # the thread that renews is frozen with the rest
    run = folder.parent
    with lease(folder):
        (folder / "0").unlink()
        check_held(run)
        append(run / "journal", 0, b"x")  # it was seen to be held a moment ago
        monkeypatch.setattr(module, "GONE_S", 0.0)
        message = (
            f"{run} was taken over by another driver, since this one had not been heard from for 0 s. This one stops, "
            "and leaves the run to it."
        )
        for writes in (lambda: append(run / "journal", 1, b"x"), lambda: complete(run, {})):
            with pytest.raises(Trouble, match=f"^{re.escape(message)}$"):
                writes()
        (folder / "0").write_bytes(b"{}")
    assert numbers(folder) == ["0"], "a third one has it"
    assert [path.name for path in (run / "journal").iterdir()] == [f"{0:020d}"]


def test_one_whose_number_another_driver_has_by_now_is_not_held(folder, monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 1e9)
    with lease(folder):
        (folder / "0").write_bytes(b'{"driver": "another one", "beat": 3}')
        with pytest.raises(Trouble, match="was taken over by another driver"):
            check_held(folder.parent, certainly=True)
    assert numbers(folder) == ["0"]


def test_what_another_driver_released_is_not_renewed(folder):
    with lease(folder):
        (folder / "0").unlink()
        threading.Event().wait(0.2)
        assert numbers(folder) == []
        with pytest.raises(Trouble, match="was taken over by another driver"):
            check_held(folder.parent)


def test_tables_are_not_written_by_a_driver_that_was_taken_over_a_moment_ago(folder):
    with lease(folder):
        (folder / "1").write_bytes(b"{}")
        with pytest.raises(Trouble, match="was taken over by another driver"):
            check_held(folder.parent, certainly=True)
    check_held(folder.parent, certainly=True)  # of no lease nothing is known
