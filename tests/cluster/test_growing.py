"""A cluster that starts empty: its autoscaler is asked for nodes, waited for, and told when nothing is needed."""

import contextlib
import json
import shlex
import threading
from collections import Counter
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from parity.cluster import growing
from parity.cluster.growing import Demand, grows, is_starting_nodes, wait_for
from parity.cluster.nodes import alive
from parity.cluster.placement import Placement, lacking
from parity.ground.errors import Trouble
from parity.plan.device import parse_devices

from cluster_process import cluster_process
from conftest import ROOT, parity_command

# Starts a head without CPUs, whose autoscaler makes nodes on this machine; ends with the input.
HEAD = '''
import contextlib, json, os, socket, subprocess, sys, time
from pathlib import Path

import psutil

# With the autoscaler, and without what a run does not use beside it.
START = """
import ray
from parity.cluster import lean_ray
from ray.scripts.scripts import main
del lean_ray._LEFT_OUT["no_monitor"]
with lean_ray.only_what_a_run_uses(ray):
    main()
"""
folder, number = Path(sys.argv[1]), "f" * 51 + "00000"
while True:  # below the ports that Ray takes for its workers
    with socket.socket() as tried:
        port = int.from_bytes(os.urandom(2), "big") % 8000 + 2000
        if tried.connect_ex(("127.0.0.1", port)):
            break
empty = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
         "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
         "rsync_filter")
config = {
    "cluster_name": "growing", "max_workers": 1, "upscaling_speed": 1.0, "idle_timeout_minutes": 10,
    "provider": {"type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True,
                 "disable_launch_config_check": True, "launch_multiple": True, "head_node_id": number,
                 "gcs_address": f"127.0.0.1:{port}"},
    "available_node_types": {
        # By the provider's own name for it: the autoscaler would start a head, and end it, again and again.
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    },
    "head_node_type": "ray.head.default", "file_mounts": {}, "file_mounts_sync_continuously": False,
    "auth": {}, "docker": {},
    **{name: [] for name in empty},
}
(folder / "autoscaling.json").write_text(json.dumps(config))
process = subprocess.Popen(
    [sys.executable, "-c", START, "start", "--head", "--block", f"--port={port}", "--num-cpus=0",
     "--include-dashboard=false", "--include-log-monitor=false", "--object-store-memory=100000000",
     "--node-ip-address=127.0.0.1", "--disable-usage-stats", f"--autoscaling-config={folder / 'autoscaling.json'}"],
    env={**os.environ, "RAY_TMPDIR": str(folder), "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"},
    stdin=subprocess.DEVNULL, stdout=(folder / "start.log").open("w"),
)
while "Ray runtime started" not in (folder / "start.log").read_text():
    time.sleep(0.1)
print(f"127.0.0.1:{port}", flush=True)
sys.stdin.read()
# Stopped first and killed then: the autoscaler would start another node in the place of one that is killed before it.
everything = [psutil.Process(process.pid)]
for each in everything:
    with contextlib.suppress(psutil.NoSuchProcess):
        each.suspend()
    found = everything[0].children(recursive=True)
    everything += [other for other in found if other not in everything]
for each in everything:
    with contextlib.suppress(psutil.NoSuchProcess):
        each.kill()
process.wait()
'''
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "planted-token-of-a-growing-cluster-0123456789",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


@pytest.mark.ray
def test_the_entrypoint_of_rayjob_trains_on_a_cluster_that_starts_empty(tmp_path):
    """To the letter, but for where the run is stored, its length, and the address that Ray gives a job."""
    rayjob = yaml.safe_load((ROOT / "jobs" / "rayjob.yaml").read_text(encoding="utf-8"))
    python, *arguments = shlex.split(rayjob["spec"]["entrypoint"])
    assert (python, arguments[0]) == ("python", "-m") and arguments[-2:] == ["--out", "/runs/first"]
    out = tmp_path / "first"
    with cluster_process(HEAD, "grow-", **ENVIRONMENT) as process:
        address = process.stdout.readline().strip()
        ended = parity_command(*(*arguments[1:-1], out, "--steps", 4), RAY_ADDRESS=address, **ENVIRONMENT)
        assert ended.status == 0, ended.stderr
        assert (
            "parity: waiting for a node with 1 CPU, which the cluster's autoscaler has to start (at most 600 s, see "
            "--wait-limit)\n"
        ) in ended.stderr
        trials = pd.read_parquet(out / "trials.parquet")
        assert set(trials.status) == {"complete"} and trials.node.nunique() == 1


class Group:
    """A placement group; ready once there is room."""

    def __init__(self, ray, bundles):
        self.ray, self.bundles = ray, bundles

    def wait(self, timeout_seconds):
        assert timeout_seconds == 0
        return self in self.ray.ready


class FakeRay:
    """As much of Ray as a demand needs."""

    def __init__(self):
        self.groups, self.ready = [], []
        self.util = SimpleNamespace(placement_group=self._make, remove_placement_group=self.groups.remove)

    def _make(self, bundles):
        self.groups.append(Group(self, bundles))
        return self.groups[-1]

    @property
    def asked(self):
        return [bundle for group in self.groups for bundle in group.bundles]


def test_a_demand_is_what_waits_and_nothing_else():
    ray = FakeRay()
    demand = Demand(ray)
    assert not demand
    demand.keep(Counter({(1, 0): 2, (2, 1): 1}))
    assert demand and ray.asked == [{"CPU": 1}, {"CPU": 1}, {"CPU": 2, "GPU": 1}]
    first = ray.groups[0]
    demand.keep(Counter({(1, 0): 1, (2, 1): 2}))
    # What is asked for already is not asked for anew.
    assert ray.groups[0] is first and ray.asked == [{"CPU": 1}, {"CPU": 2, "GPU": 1}, {"CPU": 2, "GPU": 1}]
    ray.ready = [first]
    demand.give_back()
    assert first not in ray.groups and len(ray.groups) == 2
    demand.keep(Counter())
    assert not demand and not ray.groups


def test_thousands_of_trials_are_not_thousands_of_requests():
    ray = FakeRay()
    Demand(ray).keep(Counter({(1, 0): 5000}))
    assert len(ray.groups) == growing.MOST_REQUESTS


REPORT = {"pending_launches": {}, "pending_nodes": []}


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        # A head that has just started.
        (None, None),
        ({}, None),
        ({"ab": "node_ab", "cd": "node_cd"}, False),
        ({"ab": "ray.head.default"}, True),
        ({"ab": "node_ab", "cd": "cpu"}, True),
    ],
)
def test_a_cluster_grows_where_its_nodes_are_of_a_type(monkeypatch, types, expected):
    report = b"" if types is None else json.dumps({"autoscaler_report": REPORT | {"node_type_mapping": types}}).encode()
    monkeypatch.setattr("ray.experimental.internal_kv._internal_kv_get", lambda key: report)
    monkeypatch.setattr("ray.autoscaler.v2.utils.is_autoscaler_v2", lambda: False)
    assert grows(FakeRay()) is expected
    assert not is_starting_nodes(FakeRay())


@pytest.mark.parametrize(("of_type", "expected"), [("node_ab", None), ("headgroup", True)])
def test_the_second_autoscaler_may_not_know_the_type_of_the_head(monkeypatch, of_type, expected):
    head = SimpleNamespace(node_id="ab", ray_node_type_name=of_type)
    status = SimpleNamespace(active_nodes=[], idle_nodes=[head], pending_launches=["cpu"], pending_nodes=[])
    monkeypatch.setattr("ray.autoscaler.v2.utils.is_autoscaler_v2", lambda: True)
    monkeypatch.setattr(growing, "_status", lambda ray: status)
    assert grows(FakeRay()) is expected
    assert is_starting_nodes(FakeRay())


@pytest.fixture
def clock(monkeypatch):
    """A clock that only sleeping moves; the cluster has the second autoscaler."""
    monkeypatch.setattr(growing, "_second", lambda: True)
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds):
        clock.now += seconds

    monkeypatch.setattr(growing, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    return clock


@pytest.mark.parametrize("known", [True, None])
def test_what_lacks_is_asked_for_until_it_is_there(monkeypatch, clock, capsys, known):
    ray = FakeRay()
    monkeypatch.setattr(growing, "grows", lambda _: known)
    monkeypatch.setattr(growing, "is_starting_nodes", lambda _: clock.now > 5)
    wait_for(ray, lambda: {(1, 0), (4, 1)} if clock.now < 90 else set(), limit_s=100)
    assert clock.now == 90 and not ray.groups
    said = "parity: waiting for a node with 1 CPU and one with 4 CPUs and 1 GPU, which the cluster's autoscaler has to"
    assert capsys.readouterr().err.count(said) == 1


def test_nodes_that_do_not_come_are_reported_after_the_limit(monkeypatch, clock):
    ray = FakeRay()
    monkeypatch.setattr(growing, "grows", lambda _: True)
    with pytest.raises(Trouble, match=r"^After 40 s the cluster's autoscaler has not started a node with 1 GPU\. Look"):
        wait_for(ray, lambda: {(0, 1)}, limit_s=40)
    assert clock.now == 41 and not ray.groups


@pytest.mark.parametrize(
    ("known", "second", "waited"),
    [(False, False, 0), (None, True, growing.SIGN_S + 1), (None, False, growing.REPORT_S + 1)],
)
def test_where_nobody_starts_nodes_nobody_waits(monkeypatch, clock, capsys, known, second, waited):
    monkeypatch.setattr(growing, "grows", lambda _: known)
    monkeypatch.setattr(growing, "_second", lambda: second)
    monkeypatch.setattr(growing, "is_starting_nodes", lambda _: False)
    ray = FakeRay()
    wait_for(ray, lambda: {(1, 0)}, limit_s=600)
    assert (clock.now, capsys.readouterr().err, ray.groups) == (waited, "", [])


@pytest.mark.parametrize(("reported", "waited"), [(True, 41), (False, 5)])
def test_the_first_report_of_an_autoscaler_is_waited_for(monkeypatch, clock, reported, waited):
    monkeypatch.setattr(growing, "_second", lambda: False)
    monkeypatch.setattr(growing, "grows", lambda _: reported if clock.now >= 5 else None)
    monkeypatch.setattr(growing, "is_starting_nodes", lambda _: False)
    ray = FakeRay()
    with pytest.raises(Trouble) if reported else contextlib.nullcontext():
        wait_for(ray, lambda: {(1, 0)}, limit_s=40)
    assert (clock.now, ray.groups) == (waited, [])


def raw(name, cpus, **more):
    return {
        "Alive": True,
        "NodeID": f"id-{name}",
        "NodeName": name,
        "NodeManagerAddress": "10.0.0.1",
        "Resources": {"CPU": float(cpus), **more},
    }


def test_only_what_no_node_has_lacks(make_trials):
    trials = [*make_trials(device="cpu"), *make_trials(device="cpu:threads=4"), *make_trials(device="cuda")]
    assert lacking(trials, alive([raw("head", 0)])) == {(1, 0), (4, 0), (1, 1)}
    assert lacking(trials, alive([raw("head", 0), raw("a", 2), raw("b", 8, GPU=1.0)])) == set()
    # A node that is named comes from no node type.
    assert lacking(make_trials(device="cpu@c"), alive([raw("head", 0)])) == set()


def test_a_device_keeps_its_class_when_more_nodes_of_another_come():
    (device,) = parse_devices(["cpu"])
    first, *others = alive([raw(name, 1) for name in "abc"])
    others = [type(first)(each.id, each.name, 8, 0, facts={"cpu_model": "another"}) for each in others]
    placement = Placement([first])
    assert placement.nodes_for(device) == (first,)
    placement.renew([first, *others])
    assert placement.nodes_for(device) == (first,)
    # Where none of that class is left the others are better than none.
    placement.renew(others)
    assert placement.nodes_for(device) == tuple(others)


def test_nodes_of_one_name_are_told_apart_however_alike_their_ids_are():
    nodes = [raw("vm", 1) | {"NodeID": "f" * 20 + end, "NodeManagerAddress": end} for end in ("01", "02")]
    assert len({node.name for node in alive(nodes)}) == 2


def test_a_head_that_is_frozen_does_not_keep_the_end_of_a_run_back(monkeypatch):
    over, group = threading.Event(), SimpleNamespace()
    monkeypatch.setattr(growing, "END_S", 0.01)
    util = SimpleNamespace(placement_group=lambda bundles: group, remove_placement_group=lambda group: over.wait())
    demand = Demand(SimpleNamespace(util=util))
    demand.keep(Counter({(1, 0): 1}))
    demand.end()
    over.set()
