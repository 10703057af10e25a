"""The phases of a command: each has its times, and the command waits for one at a time."""

import time

import pytest

from parity.ground import phases

from conftest import command


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that a test sets: seconds since 1970."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def at(second):
        now[0] = 1000.0 + second

    phases.begin(process=False, quiet=False)
    return at


def test_a_command_waits_for_one_phase_at_a_time(clock):
    clock(1.0)
    phases.enter("plan")
    clock(1.5)
    phases.enter("Ray")
    clock(4.0)
    phases.enter("plan")
    clock(4.25)
    assert phases.table() == [
        "phase          from       to   waited",
        "imports      0.00 s   1.00 s   1.00 s  Python and its packages",
        "plan         1.00 s   4.25 s   0.75 s  names, options and the task's data",
        "Ray          1.50 s   4.00 s   2.50 s  Ray starts, or the cluster is joined",
    ]


def test_what_goes_on_beside_has_times_and_is_not_waited_for(clock):
    with phases.span("Ray"):
        clock(3.0)
    clock(4.0)
    assert phases.table()[1:] == [
        "imports      0.00 s   4.00 s   4.00 s  Python and its packages",
        "Ray          0.00 s   3.00 s   0.00 s  Ray starts, or the cluster is joined",
    ]


def test_a_phase_is_announced_with_the_seconds_unless_the_command_is_quiet(clock, capsys):
    clock(2.6)
    phases.enter("Ray", "starting Ray")
    phases.enter("files")
    assert capsys.readouterr().err == "3 s: starting Ray\n"
    phases.begin(process=False, quiet=True)
    phases.enter("Ray", "starting Ray")
    assert capsys.readouterr().err == ""


def test_each_phase_has_a_meaning():
    assert set(phases.MEANINGS) == set(phases.Phase.__args__)


def test_a_command_is_as_old_as_its_process():
    """To a hundredth of a second, though Linux says when it was started in whole seconds only."""
    code = (
        "import time, sys; from parity.ground import phases; phases.begin(process=True, quiet=True); "
        "print(phases.elapsed_s(), time.clock_gettime(time.CLOCK_MONOTONIC))"
    )
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    elapsed_s, now = map(float, command("-c", code).stdout.split())
    assert 0 <= elapsed_s <= now - before + 0.02


def test_without_a_command_the_time_counts_from_the_import():
    """The scripts in benchmarks use parts of parity, and began none."""
    began_s = time.perf_counter()
    done = command("-c", "from parity.ground import phases; print(phases.elapsed_s())")
    assert 0 <= float(done.stdout) <= time.perf_counter() - began_s


@pytest.mark.parametrize(("age_s", "elapsed_s"), [(0.3, 0.3), (4.9, 4.9), (113.0, 0.0)])
def test_a_command_that_took_the_place_of_a_shell_is_not_as_old_as_that(clock, monkeypatch, age_s, elapsed_s):
    monkeypatch.setattr(phases, "process_age_s", lambda: age_s)
    phases.begin(process=True, quiet=True)
    assert phases.elapsed_s() == pytest.approx(elapsed_s)
