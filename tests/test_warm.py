"""What runs at the servers of tests/warm is as it would be by itself, and ends with the process that stands for it."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time

import pytest

from parity.train.seat import FORKS, ProcessEnded, Seat

from conftest import WARM, WARM_PROGRAM, children, command, parity_command

pytestmark = pytest.mark.skipif(not FORKS, reason="on this system a process that has imported torch should not fork")
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture
def begun(data, make_trials, monkeypatch):
    """Starts a seat that has begun a trial."""
    seats = []

    def begin(**environment):
        for name, value in (THREADS | environment).items():
            monkeypatch.setenv(name, value)
        seat = Seat(data)
        seats.append(seat)
        seat.start(make_trials()[0], None, None)
        seat.advance()
        return seat

    yield begin
    for seat in seats:
        seat.close()


def until(what):
    end = time.monotonic() + 60
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return what()


def test_the_facts_of_the_machine_are_those_that_another_process_finds():
    command = [sys.executable, "-c", runpy.run_path(str(WARM / "sitecustomize.py"))["FACTS"]]
    here, there = (
        subprocess.run(command, env=os.environ | THREADS | more, capture_output=True, text=True, check=True).stdout
        for more in ({}, {"PARITY_WARM": ""})
    )
    assert here == there and "cpu_capability" in here


def test_a_seat_and_its_trial_end_with_the_process_that_stands_for_them(begun, _warm):
    seat = begun()
    assert len(children(_warm)) == 2, "the seat and its trial, which count as left behind"
    seat._process.kill()
    assert until(lambda: not children(_warm))
    with pytest.raises(ProcessEnded):
        seat.advance()


def test_how_a_seat_ended_is_passed_on(begun, _warm):
    seat = begun()
    (child,) = _warm[0].children()
    child.send_signal(signal.SIGSEGV)
    assert seat._process.wait(timeout=60) == -signal.SIGSEGV


def test_what_was_read_at_the_import_of_torch_has_to_be_the_same(begun, _warm):
    begun(OMP_NUM_THREADS="2")
    assert not children(_warm)


AS_A_WORKER = """
import json, os, sys
print(json.dumps([sys.argv, sys.path[0], __name__, os.environ["PLANTED"]]))
print(*sorted({"numpy", "ray", "torch"} & sys.modules.keys()))
sys.exit(7)
"""


def test_one_of_rays_workers_is_what_it_would_be_by_itself_and_has_imported_neither_ray_nor_torch(tmp_path):
    script = tmp_path / "_private" / "workers" / "default_worker.py"
    script.parent.mkdir(parents=True)
    script.write_text(AS_A_WORKER)
    here, there = (command(script, "--a", "b", PLANTED="1", **more) for more in ({}, {"PARITY_WARM": ""}))
    assert here.status == there.status == 7
    (facts, imported), (expected, nothing) = here.stdout.splitlines(), there.stdout.splitlines()
    assert json.loads(facts) == json.loads(expected) == [[str(script), "--a", "b"], str(script.parent), "__main__", "1"]
    assert (imported, nothing) == ("numpy", "")


def test_a_command_of_parity_is_what_it_would_be_by_itself(tmp_path):
    arguments = ("parity.report", tmp_path / "nothing")
    here, there = parity_command(*arguments), command("-m", *arguments)
    assert here == there and here.status == 2 and str(tmp_path) in here.stderr


def test_a_process_of_another_copy_of_parity_imports_that(tmp_path):
    (tmp_path / "parity").mkdir()
    (tmp_path / "parity" / "__init__.py").write_text("PLANTED = True\n")
    program = "import sys; known = 'torch' in sys.modules; import parity; print(known, parity.PLANTED)"
    line = [sys.executable, "-c", program]
    ended = subprocess.run(line, cwd=tmp_path, env=os.environ | WARM_PROGRAM, capture_output=True, text=True)
    assert ended.stdout == "True True\n", ended.stderr
