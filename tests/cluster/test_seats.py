"""One worker for each GPU, and each worker its own GPU. Ray is started with GPUs that do not exist."""

import json
import os
import subprocess
import sys
import tempfile

import pytest

from conftest import ROOT

# A node with two GPUs to give out; each trial reports what it sees instead of training.
SCRIPT = """
import itertools, json, os, sys, tempfile
from dataclasses import replace

from parity.plan.device import parse_devices

from parity.cluster import placement, seats, workers
from parity.cluster.lean_ray import only_what_a_run_uses
from parity.store.events import Began, Ended
from parity.ground.errors import Trouble
from parity.plan.loss_spec import parse_losses
from parity.plan.task_spec import parse_task, SHIPPED_LOSSES
from parity.plan.planning import make_settings, plan


class Seeing:
    def __init__(self, environment):
        os.environ.update(environment)

    def start(self, trial, data, shared, position):
        import ray
        self.events = iter([
            Began(trial.name, {"gpu": os.environ["CUDA_VISIBLE_DEVICES"], "process": os.getpid()}),
            Ended(trial.name, status="complete"),
        ])
        return ray.get_runtime_context().get_node_id(), None

    def advance(self):
        return next(self.events)


class Holding:
    def where(self):
        import ray
        return int(ray.get_gpu_ids()[0])


import ray

with only_what_a_run_uses(ray):
    ray.init(
        "local", num_cpus=4, num_gpus=2, _node_name="a", include_dashboard=False, object_store_memory=150 * 2**20,
        log_to_driver=False, logging_level="ERROR",
    )
settings = make_settings(
    task=parse_task("mnist-autoencoder"), rows=60000, batch_size=256, epochs=1, steps=2, lr=1e-3, audit_every=0
)
cluster = workers.Cluster(ray, Seeing)
placed = placement.expand(parse_devices(["cuda"]), "gpu", cluster.nodes)
trials = plan(
    parse_losses(["builtin"], shipped=SHIPPED_LOSSES), placed, seeds=[0], replicas=3, settings=settings,
    equals=lambda device: placement.equals(device, cluster.nodes), quick=True,
)
seen, processes = {}, {}
for event in itertools.chain.from_iterable(cluster.train(trials, {})):
    if isinstance(event, Began):
        seen[event.trial] = event.facts["gpu"]
        processes[event.trial] = event.facts["process"]
result = {"seen": seen, "processes": processes}
# Another program takes a GPU, which it gets if the run has given back what it held.
seats.HOLD_S = 4.0
holder = ray.remote(num_gpus=1, num_cpus=0)(Holding).remote()
result["held"] = ray.get(holder.where.remote(), timeout=60)
try:
    for _ in cluster.train(trials, {}):
        pass
except Trouble as error:
    result["trouble"] = str(error)
print(json.dumps(result), flush=True)
ray.shutdown()
"""


@pytest.fixture(scope="module")
def on_two_gpus(tmp_path_factory):
    """What the trials see, and why they cannot begin while another program has a GPU."""
    folder = tmp_path_factory.mktemp("seats")
    (folder / "seeing.py").write_text(SCRIPT)
    # For Ray, whose sockets' paths have to be short.
    with tempfile.TemporaryDirectory(prefix="seats-", ignore_cleanup_errors=True) as short:
        # Ray starts no node with GPUs for one whose environment hides them, as the CI's machine may do.
        inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        environment = {
            "RAY_TMPDIR": short,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "planted-token-of-two-gpus-0123456789",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT), str(folder)]),
        }
        ended = subprocess.run(
            [sys.executable, folder / "seeing.py"],
            cwd=ROOT,
            env={**inherited, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout.splitlines()[-1])


def test_each_trial_sees_the_one_gpu_that_its_name_says(on_two_gpus):
    found = on_two_gpus
    names = {f"builtin@cuda@a#{index}-s0{replica}": index for index in "01" for replica in ("", "-r1", "-r2")}
    assert found["seen"] == names
    # The trials of a GPU share a worker, and all GPUs are free again at the end.
    assert len({(names[trial], process) for trial, process in found["processes"].items()}) == 2
    assert len(set(found["processes"].values())) == 2


def test_a_gpu_that_another_program_holds_is_reported(on_two_gpus):
    found = on_two_gpus
    assert found["trouble"] == (
        f"cuda@a#{found['held']}: in use by another program on the cluster, or not answering within 4 s. "
        "Wait until it is free, or leave it out."
    )
