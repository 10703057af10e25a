"""Ray on this machine: what is started of it, when, and what is said if it does not start."""

import contextlib
import threading
from types import SimpleNamespace

import pytest

from parity.cluster import connection, starting
from parity.cluster.lean_ray import only_what_a_run_uses
from parity.cluster.starting import LocalRay
from parity.ground import phases
from parity.ground.errors import Trouble
from parity.plan.options import make_parser
from parity.plan.request import parse_request
from parity.plan.task_spec import DATA_BYTES, ROWS

from conftest import command


def test_the_data_of_the_shipped_tasks_is_as_large_as_is_said(data):
    assert {len(array) for array in data.values()} == {ROWS}
    assert sum(array.nbytes for array in data.values()) == DATA_BYTES


STARTED = """
import sys
from pathlib import Path
import psutil
from parity.cluster.starting import starting
from parity.ground.temporary import temporary_folder

with temporary_folder() as folder, starting(folder, 0) as local:
    ray = local.wait()
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
    for each in psutil.Process().children(recursive=True):
        print(*each.cmdline())
assert not psutil.Process().children(recursive=True), "Ray is gone"
assert "ray.dashboard.optional_deps" not in sys.modules
assert ray._private.node.Node.start_api_server.__qualname__ == "Node.start_api_server"
assert ray._private.parameter.RayParams.__name__ == "RayParams"
assert ray._private.services.start_ray_process.__name__ == "start_ray_process"
"""


@pytest.mark.ray
def test_ray_starts_without_what_a_run_does_not_use():
    ended = command("-c", STARTED)
    assert ended.status == 0, ended.stderr
    for needed in ("gcs_server", "raylet/raylet", "idle_agent.py"):
        assert needed in ended.stdout
    for unneeded in ("dashboard/dashboard.py", "monitor.py", "log_monitor.py", "dashboard/agent.py", "agent/main.py"):
        assert unneeded not in ended.stdout


@pytest.fixture
def local(monkeypatch, tmp_path):
    """Makes a Ray of which the start is planted."""
    started = []

    def make(start):
        monkeypatch.setattr(LocalRay, "_start", lambda self: start())
        started.append(LocalRay(tmp_path, 0))
        return started[-1]

    yield make
    for each in started:
        each._over.set()


@pytest.mark.parametrize("error", [Exception("The current node timed out during startup."), OSError("no room")])
def test_a_ray_that_does_not_start_is_told_in_a_sentence(local, error):
    def fails():
        raise error

    with pytest.raises(Trouble) as trouble:
        connection._started(local(fails))
    assert str(trouble.value) == f"Ray cannot be started here ({error}). To train without Ray, use --inline."


def test_a_slow_start_is_waited_for_and_said(local, monkeypatch, capsys):
    monkeypatch.setattr(starting, "SAY_EVERY_S", 0.01)
    phases.begin(process=False, quiet=False)
    there = threading.Event()
    ray = SimpleNamespace(shutdown=lambda: None)
    slow = local(lambda: there.wait(20) and ray)
    threading.Timer(0.2, there.set).start()
    assert slow.wait() is ray and slow.wait() is ray
    assert "0 s: still waiting for Ray to start\n" in capsys.readouterr().err


def test_a_start_that_ray_gives_up_is_tried_once_more(monkeypatch, tmp_path, capsys):
    tried = []

    def initialize(self, ray):
        tried.append(ray)
        if len(tried) == 1:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(LocalRay, "_initialize", initialize)
    phases.begin(process=False, quiet=False)
    ray = pytest.importorskip("ray")
    local = LocalRay(tmp_path, 0)
    assert local.wait() is ray and len(tried) == 2
    local.end()
    assert "trying once more" in capsys.readouterr().err


def test_another_ray_starts_in_full():
    """What is replaced may be missing in another version."""
    made = SimpleNamespace()
    private = SimpleNamespace(
        node=SimpleNamespace(Node=SimpleNamespace()),
        parameter=SimpleNamespace(RayParams=lambda: made),
        services=SimpleNamespace(),
    )
    with only_what_a_run_uses(SimpleNamespace(_private=private)):
        assert private.parameter.RayParams() is made
    assert vars(made) == {}


def test_a_path_that_is_too_long_for_a_socket_leaves_it_to_ray_to_say_so(monkeypatch, tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(starting, "temporary_folder", lambda: contextlib.nullcontext(folder))
    options = make_parser().parse_args(["--device", "cpu"])
    with contextlib.ExitStack() as held:
        assert starting.begin_imports(options, parse_request(options), held) == starting.Early(folder)


def test_the_processes_that_did_start_are_used(monkeypatch):
    def started(path, variables):
        if path.name == "warm-1":
            raise BlockingIOError("fork")
        return contextlib.nullcontext(path.name)

    monkeypatch.setattr(starting, "warm_process", started)
    monkeypatch.setattr(starting.os, "cpu_count", lambda: 64)
    options = make_parser().parse_args(["--device", "cpu", "--replicas", "9"])
    with contextlib.ExitStack() as held:
        assert starting.begin_imports(options, parse_request(options), held).warm == ("warm-0", "warm-2", "warm-3")


@pytest.mark.parametrize(("options", "count"), [([], 2), (["--loss", "builtin"], 1), (["--replicas", "9"], 4)])
def test_as_many_processes_import_torch_as_seats_will_use_them(monkeypatch, options, count):
    monkeypatch.setattr(starting, "warm_process", lambda path, variables: contextlib.nullcontext(path.name))
    monkeypatch.setattr(starting.os, "cpu_count", lambda: 64)
    parsed = make_parser().parse_args(["--device", "cpu", *options])
    with contextlib.ExitStack() as held:
        early = starting.begin_imports(parsed, parse_request(parsed), held)
    assert early.warm == tuple(f"warm-{number}" for number in range(count))
