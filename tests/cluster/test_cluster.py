"""Three nodes of a Ray cluster on this machine: each node, the odd one out, and a node that is killed."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import pandas as pd
import pytest

from cluster_process import cluster_process
from conftest import ROOT, parity_command, trials_with_steps

pytestmark = pytest.mark.kills

# Starts a head and two more nodes; kills the node that a line on stdin names, ends with the input.
NODES = """
import os, sys
os.environ["RAY_TMPDIR"] = sys.argv[1]
import ray
from parity.cluster.lean_ray import only_what_a_run_uses
from ray.cluster_utils import Cluster
quick = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 2,
}
common = {"num_cpus": 1, "object_store_memory": 150 * 2**20}
with only_what_a_run_uses(ray):
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**common, "node_name": "a", "include_dashboard": False, "_system_config": quick},
    )
    nodes = {name: cluster.add_node(node_name=name, **common) for name in "bc"}
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes[line.strip()], allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "planted-token-of-three-nodes-0123456789",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


# A loss that takes its time without using the processor, so that a fault meets a training that goes on.
SLOW = ("--loss", "tests/hosts/slow_loss.py:slow", "--steps", "60", "--batch-size", "32", "--save-every", "0.3")


@dataclass
class Nodes:
    """Three nodes, a, b and c; the driver's is a."""

    address: str
    process: subprocess.Popen
    environment: dict = field(default_factory=lambda: dict(ENVIRONMENT))

    def run(self, out, *arguments):
        return parity_command("parity.run", "--address", self.address, "--out", out, *arguments, **self.environment)

    def remove(self, name):
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == "removed"


@pytest.fixture(scope="module")
def nodes():
    with cluster_process(NODES, "three-", **ENVIRONMENT) as process:
        address = next(line.strip() for line in process.stdout if line.strip().replace(":", ".").count(".") == 4)
        yield Nodes(address, process)


def trials(out):
    return pd.read_parquet(out / "trials.parquet").set_index("trial")


def pairs(out):
    return json.loads((out / "summary.json").read_text())["pairs"]


def test_each_node_runs_both_losses_and_equal_nodes_are_one_class(nodes, tmp_path):
    # Nodes that are present are not waited for.
    ended = nodes.run(tmp_path / "run", "--each", "node", "--steps", 4, "--wait-for-nodes", 3)
    assert ended.status == 0, ended.stderr
    found = trials(tmp_path / "run")
    assert set(found.index) == {f"{loss}@cpu@{node}-s0" for loss in ("builtin", "numpy") for node in "abc"}
    assert all(found.node == found.device.str.partition("@")[2])
    assert found.node_id.nunique() == 3
    assert found.cpu_isa.notna().all() and found.cores.notna().all()
    verdicts = {(pair["axis"], pair["verdict"]) for pair in pairs(tmp_path / "run")}
    assert verdicts == {("loss", "rounding"), ("device", "identical")}
    assert " A             3     0   cpu, " in ended.stdout


def test_the_node_that_flips_a_bit_is_named_and_no_other(nodes, tmp_path):
    out = tmp_path / "run"
    devices = ["--device", "cpu", "cpu:plant=flip-20@b"]
    ended = nodes.run(out, "--each", "node", *devices, "--loss", "builtin", "--steps", 22)
    assert ended.status == 1, ended.stderr
    assert {pair["candidate"]: pair["verdict"] for pair in pairs(out)} == {
        "builtin@cpu:plant=flip-20@b-s0": "diverged",
        "builtin@cpu@c-s0": "identical",
    }
    assert ended.stdout.count("\nOdd: ") == 1
    printed = " ".join(ended.stdout.partition("\nOdd: ")[2].split())
    assert printed.startswith("cpu:plant=flip-20@b (class A, 3 devices) 1 of 1 trial")
    assert "first at step 20 (epoch 0, batch 20), param_grad 1.0.weight" in printed
    assert "1 of 36 elements of param_grad 1.0.weight differ at step 20, in bit 23" in printed


def test_the_inventory_lists_every_node(nodes):
    ended = parity_command("parity.devices", "--address", nodes.address, COLUMNS="200", **nodes.environment)
    assert ended.status == 0, ended.stderr
    assert [f"cpu@{name}" in ended.stdout for name in "abc"] == [True] * 3
    assert "No node has a GPU." in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--each", "gpu"],
            "--each gpu: no node of this cluster (a, b, c) has a GPU. Use --each node, or add a GPU node type.",
        ),
        (
            ["--wait-for-nodes", "4", "--wait-limit", "2"],
            "--wait-for-nodes 4: after 2 s fewer nodes have a free CPU. Nodes with CPUs, busy or not: a, b, c. "
            "Wait longer with --wait-limit, or raise the maximum of the node type.",
        ),
    ],
)
def test_what_the_cluster_does_not_have_is_reported(nodes, tmp_path, arguments, message):
    ended = nodes.run(tmp_path / "run", *arguments)
    assert ended.status == 2
    assert ended.stderr.endswith(f"s: joining the Ray cluster at {nodes.address}\nparity: {message}\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("_no_hosts")
def test_the_trials_of_a_killed_node_continue_in_its_class_with_the_same_bits(nodes, tmp_path):
    out = tmp_path / "run"
    arguments = ["--each", "node", "--quick", *SLOW]
    with training(nodes, out, *arguments) as process:
        wait_until_training(process, out, {f"slow@cpu@{node}-s0" for node in "abc"})
        nodes.remove("c")
        stdout, stderr = process.communicate(timeout=180)
    assert process.returncode == 0, stderr
    # On a slow machine its state has been saved by then.
    assert re.search(r"slow@cpu@c-s0 (begins again|continues at step \d+): node c", stderr), stderr
    found = trials(out)
    # A quick screening trains once on each node.
    assert set(found.index) == {f"slow@cpu@{node}-s0" for node in "abc"}
    assert set(found.status) == {"complete"}
    moved = found.loc["slow@cpu@c-s0"]
    assert moved.attempts >= 2 and moved.node in ("a", "b")
    assert [pair["verdict"] for pair in pairs(out)] == ["identical", "identical"]
    assert f"slow@cpu@c-s0 was trained on {moved.node}, so c was not tested." in " ".join(stdout.split())


@contextmanager
def training(nodes, out, *arguments):
    """A run on these nodes, as a process of its own that ends with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "parity.run", "--address", nodes.address, "--out", str(out), *arguments],
        cwd=ROOT,
        env={**os.environ, **nodes.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def wait_until_training(process, out, trials, *, limit_s=240):
    """Until a step of each of these trials is stored."""
    end = time.monotonic() + limit_s
    while trials_with_steps(out) != trials:
        assert process.poll() is None and time.monotonic() < end, "the training did not begin"
        time.sleep(0.2)


def test_an_interrupted_run_finds_its_cluster_again_though_a_node_has_left(nodes, tmp_path):
    """The command that is printed says no address, and the trial of the node goes on in its class."""
    out = tmp_path / "run"
    with training(nodes, out, "--device", "cpu@a", "cpu@b", *SLOW) as process:
        wait_until_training(process, out, {f"slow@cpu@{node}-s0" for node in "ab"})
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 2, stderr
    hint = re.findall(r"parity run (--resume .*)", stdout)[-1]
    nodes.remove("b")
    ended = parity_command("parity.run", *shlex.split(hint), **nodes.environment)
    assert ended.status == 0, ended.stderr
    found = trials(out)
    assert set(found.status) == {"complete"} and found.node["slow@cpu@a-s0"] == "a"
    moved = found.node["slow@cpu@b-s0"]
    assert moved != "b"
    assert f"slow@cpu@b-s0 was trained on {moved}, so b was not tested." in " ".join(ended.stdout.split())
    assert json.loads((out / "run.json").read_text())["cluster"]["address"] == nodes.address
