"""Real Ray, on this machine: each test that starts a cluster pays some seconds for it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest

from parity.cluster.connection import connect
from parity.cluster.waiting import Running, Waiting
from parity.cluster.workers import Cluster
from parity.ground.errors import Trouble
from parity.report import main as report
from parity.run import main
from parity.store.events import Ended, Restarted

from conftest import ROOT, children, parity_command, trials_with_steps

WRONG = "tests/wrong_losses.py"
SHORT = ("--steps", "12", "--batch-size", "64", "--device", "cpu", "cpu:threads=2")


def run(out, *arguments, **environment):
    return parity_command("parity.run", "--out", out, *arguments, **environment)


def traces(directory):
    return pd.read_parquet(directory / "traces").drop(columns="step_s")


def parity_folders():
    return set(Path(tempfile.gettempdir()).glob("parity-*"))


# Within a function, where it is not found before the run.
LACKING = """
def needs():
    import not_on_the_workers

needs()
def lacking(output, target): ...
"""

# Fails after some steps.
WATCHING = """
import json, os, stat
from pathlib import Path

steps = 0

def watching(output, target):
    global steps
    steps += output.requires_grad and len(output) > 8  # not a look at the contract
    if steps > 9:
        raise ValueError("planted")
    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)]
    named = [name for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED") if name in os.environ]
    Path(__file__).with_name("seen.json").write_text(json.dumps([*modes, *named]))
    return ((output - target) ** 2).mean()
"""


@pytest.fixture(scope="module")
def ray_run(tmp_path_factory):
    """A short run on Ray, on two devices: good losses, one that raises late, one that cannot be loaded there.

    Its seats import torch, as those of no other module of tests/cluster do. Its user has an empty home and nothing of
    Ray's in the environment.
    """
    folder = tmp_path_factory.mktemp("ray")
    out = folder / "run"
    (folder / "home").mkdir()
    (folder / "watching.py").write_text(WATCHING)
    (folder / "mine.py").write_text(LACKING)
    before = parity_folders()
    losses = ["builtin", "numpy", f"{folder / 'mine.py'}:lacking", f"{folder / 'watching.py'}:watching"]
    # Nobody listens there for seats.
    if address := os.environ.get("PARITY_WARM"):
        (folder / "warm.ray").symlink_to(f"{address}.ray")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        ended = run(out, *SHORT, "--loss", *losses, PARITY_WARM=f"{folder}/warm", HOME=f"{folder}/home")
    return out, ended, parity_folders() - before


def troubles(ended):
    """What a command has said on stderr beside its phases and how far it is."""
    return [line for line in ended.stderr.splitlines() if not re.match(r"\d+ s: ", line)]


def test_worker_trace_equals_plain_call(ray_run, tmp_path):
    out, _, _ = ray_run
    inline = tmp_path / "inline"
    assert main(["--inline", *SHORT, "--out", str(inline)]) == 0
    expected = traces(inline)
    found = traces(out)
    for trial in ("builtin@cpu-s0", "numpy@cpu-s0", "builtin@cpu:threads=2-s0", "numpy@cpu:threads=2-s0"):
        left, right = (
            table[table.trial == trial].reset_index(drop=True).astype({"trial": str, "loss_name": str})
            for table in (found, expected)
        )
        assert len(left) == 12
        pd.testing.assert_frame_equal(left, right, check_exact=True, check_categorical=False)


def test_one_loss_failing_takes_no_other_trial_with_it(ray_run):
    out, ended, _ = ray_run
    assert ended.status == 1
    trials = pd.read_parquet(out / "trials.parquet").set_index("trial")
    assert trials.status.to_dict() == {
        f"{loss}@{device}-s0": "failed" if loss in ("lacking", "watching") else "complete"
        for loss in ("builtin", "numpy", "lacking", "watching")
        for device in ("cpu", "cpu:threads=2")
    }
    assert trials.error["watching@cpu-s0"] == "the loss raised ValueError: planted"
    lacking = trials.loc["lacking@cpu-s0"]
    assert lacking.attempts == 1
    assert lacking.error == "loading the loss raised ModuleNotFoundError: No module named 'not_on_the_workers'"


def test_ray_prints_nothing(ray_run):
    _, ended, _ = ray_run
    lines = [line for line in ended.stderr.splitlines() if not line.split(" s: ")[0].isdigit()]
    assert lines == []


def test_a_local_run_asks_for_a_token_and_leaves_none_behind(ray_run):
    folder = ray_run[0].parent
    seen = json.loads((folder / "seen.json").read_text())
    assert seen == [0o600, 0o700, "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"]
    assert not (folder / "home" / ".ray").exists()


def test_temporary_files_are_removed(ray_run):
    assert ray_run[2] == set()


def test_threads_are_what_the_device_says(ray_run):
    trials = pd.read_parquet(ray_run[0] / "trials.parquet").query("status == 'complete'")
    assert trials.groupby("device").threads.unique().map(list).to_dict() == {"cpu": [1], "cpu:threads=2": [2]}


def test_a_pair_of_devices_reports_where_it_first_differs(ray_run):
    summary = json.loads((ray_run[0] / "summary.json").read_text())
    pairs = [pair for pair in summary["pairs"] if pair["axis"] == "device" and pair["candidate_loss"] == "builtin"]
    (pair,) = pairs
    assert pair["verdict"] in ("identical", "rounding")
    if pair["verdict"] == "rounding":
        assert pair["first"]["quantity"] in ("output", "loss", "output_grad", "param_grad")


def test_an_isa_is_set_in_the_worker_before_torch(stranger, tmp_path):
    address, environment = stranger
    arguments = ["--steps", 1, "--loss", "builtin", "--device", "cpu:isa=default"]
    ended = run(tmp_path / "run", *arguments, "--address", address, **environment)
    assert ended.status == 3, ended.stderr
    assert list(pd.read_parquet(tmp_path / "run" / "trials.parquet").cpu_capability) == ["DEFAULT"]


def test_a_running_cluster_is_joined_when_the_environment_names_it(stranger, tmp_path):
    address, environment = stranger
    ended = run(tmp_path / "run", "--steps", 2, **environment, RAY_ADDRESS=address)
    assert ended.status == 0, ended.stderr
    assert troubles(ended) == []
    assert len(traces(tmp_path / "run")) == 4


@pytest.fixture
def running(tmp_path):
    """A long run that has begun to train, as a process of its own, and its directory; it leaves the processor free."""
    out = tmp_path / "run"
    slow = ["--loss", "tests/hosts/slow_loss.py:slow", "--seed", "0", "1", "--batch-size", "32", "--device", "cpu"]
    arguments = ["-m", "parity.run", *slow, "--epochs", "500", "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process, out
        if process.poll() is None:
            process.kill()


def wait_for(condition, *, limit_s=240):
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)
    return found


def descendants(process):
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.kills
def test_a_run_that_is_ended_keeps_its_rows_and_leaves_nothing_behind(running, capsys, _warm):
    """By SIGTERM, for which Ray has a handler of its own; Ctrl-C on a cluster: test_cluster."""
    process, out = running
    before = parity_folders()
    wait_for(lambda: trials_with_steps(out) == {"slow@cpu-s0", "slow@cpu-s1"})
    listening = [
        connection
        for child in [psutil.Process(process.pid), *descendants(process), *children(_warm)]
        for connection in child.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening, "Ray listens somewhere"
    assert {connection.laddr.ip for connection in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    started = [*descendants(process), *children(_warm)]
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=150)
    assert process.returncode == 2, stderr
    partial = "This run is partial: slow@cpu-s0 and slow@cpu-s1 did not finish."
    assert " ".join(stdout.split()).startswith(partial)
    assert "Traceback" not in stderr
    assert report([str(out)]) == 3
    assert capsys.readouterr().out in stdout
    assert psutil.wait_procs(started, timeout=20)[1] == []
    assert parity_folders() - before == set()


def test_a_request_that_no_node_can_satisfy_is_reported_at_once(stranger, tmp_path):
    address, environment = stranger
    began = time.monotonic()
    ended = run(tmp_path / "run", "--device", "cpu:threads=1024", "--address", address, **environment)
    assert ended.status == 2
    assert ended.stderr.endswith(
        "parity: Trial builtin@cpu:threads=1024-s0 needs 1024 CPUs on one node, and the largest node of this cluster "
        "has 2. Use fewer threads, or add a larger node type.\n"
    )
    assert time.monotonic() - began < 60
    assert not (tmp_path / "run").exists()


class FakeRay:
    """As much of Ray as the placing of trials looks at."""

    class exceptions:  # noqa: N801 - as Ray has it
        class RayError(Exception):
            pass

        class ActorDiedError(RayError):
            pass

        class ActorUnavailableError(RayError):
            pass

        class ObjectLostError(RayError):
            pass

        class OutOfMemoryError(RayError):
            pass

    def __init__(self, *nodes):
        self.there = [
            {
                "Alive": True,
                "NodeID": f"id-{name}",
                "NodeName": name,
                "NodeManagerAddress": "10.0.0.1",
                "Resources": resources,
            }
            for name, resources in zip("abc", nodes, strict=False)
        ]

    def nodes(self):
        return self.there


def test_a_gpu_that_no_node_has_is_reported(make_trials):
    cluster = Cluster(FakeRay({"CPU": 8.0}))
    with pytest.raises(Trouble) as trouble:
        cluster.check(make_trials("numpy", device="cuda"))
    assert str(trouble.value) == (
        "Trial numpy@cuda-s0 needs 1 GPU, and no node of this cluster has one. "
        "Use --device cpu, or add a GPU node type."
    )


def test_a_trial_has_to_fit_one_node(make_trials):
    nodes = FakeRay({"CPU": 2.0}, {"CPU": 2.0, "GPU": 1.0})
    Cluster(nodes).check([*make_trials(device="cuda"), *make_trials(device="cpu:threads=2")])
    with pytest.raises(Trouble, match="needs 3 CPUs on one node, and the largest node of this cluster has 2"):
        Cluster(nodes).check(make_trials(device="cpu:threads=3"))
    assert Cluster(nodes).accelerators() == ["mps" if sys.platform == "darwin" else "cuda"]
    assert Cluster(FakeRay({"CPU": 2.0})).accelerators() == []


def test_a_loss_that_cannot_be_called_is_reported_without_rays_words(stranger, tmp_path):
    address, environment = stranger
    losses = ["--loss", "builtin", f"{WRONG}:not_a_loss"]
    ended = run(tmp_path / "run", *losses, "--steps", 1, "--address", address, **environment)
    assert ended.status == 2
    # The other trial may have ended first.
    (line,) = troubles(ended)
    assert line.removesuffix(f" What was trained is kept: continue it with --resume {tmp_path / 'run'}.") == (
        f"parity: {ROOT / WRONG}:not_a_loss is of type float. "
        "A loss is a function (output, target), an nn.Module (class or instance) or an autograd.Function subclass."
    )


def test_ray_client_is_refused_with_the_reason():
    with pytest.raises(Trouble) as trouble, connect("ray://127.0.0.1:10001", data_bytes=0):
        pass
    assert str(trouble.value) == (
        "Address ray://127.0.0.1:10001 is for Ray Client, which drops a run after 30 s without contact. "
        "On a machine of the cluster give its own address (HOST:6379), or submit a Ray job."
    )


def test_an_address_where_nothing_listens_is_reported(tmp_path):
    ended = run(tmp_path / "run", "--address", "127.0.0.1:9")
    assert ended.status == 2
    assert ended.stderr.endswith(
        "parity: The Ray cluster at 127.0.0.1:9 cannot be reached ([Errno 111] Connection refused). "
        "Give the HOST:PORT that ray start printed; to train without Ray, use --inline.\n"
    )


def lost(cluster, entry, text, kind="ActorDiedError"):
    """What becomes of a trial whose worker is lost with that error of Ray's."""
    entry.error = getattr(FakeRay.exceptions, kind)(text)
    return cluster._lost(entry)


def test_a_lost_worker_is_described_to_the_retry_policy(make_trials):
    cluster = Cluster(FakeRay({"CPU": 1.0}))
    (trial,) = make_trials()
    entry = Running(trial, nodes=cluster.nodes, home=cluster.nodes[0], began=True)
    text = "its worker process has died. Worker exits with an exit code 4."
    assert lost(cluster, entry, text) == Restarted("builtin@cpu-s0", "its worker process ended with exit code 4")
    assert lost(cluster, entry, "Socket closed", "ActorUnavailableError") == Restarted(
        "builtin@cpu-s0", "the worker on node a did not answer (Socket closed)"
    )
    assert (entry.attempts.deaths, entry.attempts.moves) == (1, 1)
    # A new worker has not begun: no code of the trial has run in it.
    entry.set_worker(None)
    reason = "node a could not run the worker (the process ended with exit code 4)"
    assert lost(cluster, entry, text) == Restarted("builtin@cpu-s0", reason)


def test_a_trial_whose_node_left_continues_in_its_class_or_fails_with_that_reason(make_trials):
    ray = FakeRay({"CPU": 1.0}, {"CPU": 1.0})
    cluster = Cluster(ray)
    (trial,) = make_trials(device="cpu@b")
    b = cluster.nodes[1]
    entry = Running(trial, nodes=(b,), home=b, began=True)
    del ray.there[1]
    assert lost(cluster, entry, "x") == Restarted("builtin@cpu@b-s0", "node b left the cluster")
    assert entry.hardware == b.hardware
    ray.there.clear()
    assert lost(cluster, entry, "x") == Ended(
        "builtin@cpu@b-s0",
        status="failed",
        failure="node",
        error="node b left the cluster during the trial, and no other node of its class is left",
    )


def answers_of(monkeypatch, ray, **facts):
    """Has the nodes answer with their model of CPU; those that are not named leave while they are asked."""

    def ask(_, asked):
        ray.there = [each for each in ray.there if each["NodeName"] in facts]
        return [
            replace(node, facts={"cpu_model": facts[node.name]})
            if node.name in facts
            else replace(node, problem="died")
            for node in asked
        ]

    monkeypatch.setattr("parity.cluster.nodes.probe", ask)


def test_a_node_that_leaves_while_it_is_asked_is_given_no_trial(make_trials, monkeypatch):
    ray = FakeRay({"CPU": 1.0}, {"CPU": 1.0})
    cluster = Cluster(ray)
    answers_of(monkeypatch, ray, b="x")
    cluster.probe()
    assert [node.name for node in cluster.nodes] == ["b"]
    (trial,) = make_trials()
    assert cluster._placement.nodes_for(trial.device) == cluster.nodes


def test_a_trial_whose_node_left_before_it_began_may_go_to_any_class(make_trials, monkeypatch):
    ray = FakeRay({"CPU": 2.0}, {"CPU": 1.0})
    cluster = Cluster(ray)
    answers_of(monkeypatch, ray, a="x", b="y")
    cluster.probe()
    (trial,) = make_trials()
    nodes = cluster._placement.nodes_for(trial.device)
    waiting, begun = Running(trial, nodes=nodes), Running(trial, nodes=nodes, home=nodes[0], began=True)
    del ray.there[0]
    assert lost(cluster, waiting, "x") == Restarted("builtin@cpu-s0", "node a left the cluster")
    assert cluster._placement.nodes_for(trial.device, hardware=waiting.hardware) == cluster.nodes
    ended = lost(cluster, begun, "x")
    assert ended.error == "node a left the cluster during the trial, and no other node of its class is left"
    ray.there.clear()
    ended = lost(cluster, waiting, "x")
    assert ended.error == "node a left the cluster before the trial began, and no other node of its class is left"


def test_of_the_trials_that_wait_those_are_stranded_whose_class_has_no_node(make_trials, monkeypatch):
    ray = FakeRay({"CPU": 2.0}, {"CPU": 1.0})
    cluster = Cluster(ray)
    answers_of(monkeypatch, ray, a="x", b="y")
    cluster.probe()
    waiting = Waiting(make_trials("builtin", "numpy"))
    (entries,) = waiting.queues()
    # One has begun on a, one on b, which leaves.
    for entry, node in zip(entries, cluster.nodes, strict=True):
        entry.hardware = node.hardware
    cluster._placement.renew(cluster.nodes[:1])
    assert waiting.remove_stranded(cluster._placement, ()) == [entries[1]]
    assert waiting.queues() == [[entries[0]]]
