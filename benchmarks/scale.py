"""What the driver costs by the trial, on many simulated nodes of one machine.

    python benchmarks/scale.py --trials 10 100 500 2000 --nodes 4

The nodes are Ray's own (`ray.cluster_utils.Cluster`); the trials are short and synthetic, since it is the driver that
is measured: a worker without torch sends what a trial of 20 steps and 10 parameters sends, in two chunks. All else is
what `parity.run` does: planning, placing, gathering, storing, finding the odd one, judging, reporting. Seconds are CPU
seconds of the driver's process, all of its threads; memory is its largest resident size. Each size has a process of
its own.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from parity.cluster import placement, starting, workers
from parity.cluster.nodes import this_node
from parity.judge import odd_elements
from parity.judge.differences_table import SCHEMA as DIFFERENCES
from parity.judge.fleet import Fleet
from parity.judge.judging import differences_tables, judge
from parity.plan.device import parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import parse_task, shipped_losses
from parity.plan.trial import Trial
from parity.render import terminal
from parity.render.progress import TrialProgress
from parity.render.summary import summarize
from parity.store.directory import create
from parity.store.events import Advanced, Began, Ended, Event
from parity.store.files import write_json
from parity.store.gather import Gatherer
from parity.store.parquet import write_tables
from parity.store.run_info import describe
from parity.store.stored_run import read_run
from parity.store.trace import GENERATORS, SCHEMA, SKETCH_SUMS, make_table

STEPS, CHUNKS, PARAMETERS = 20, 2, 10
CHUNK_S = 0.5
CPUS_OF_A_NODE = 4
GROUP = {"params": f"0-{PARAMETERS - 1}", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
SETTINGS = json.dumps({"optimizers": [{"class": "Adam", "groups": [GROUP]}], "evaluating": [], "frozen": []})
FACTS = {"cpu_model": "simulated", "cpu_capability": "AVX2", "threads": 1, "torch": "-", "python": "-"}


def _columns() -> dict[str, Callable[[np.random.Generator, int], Any]]:
    """What makes the values of each column, but for the names and the place of a step."""

    def digests(*shape: int) -> Callable[[np.random.Generator, int], Any]:
        return lambda generator, rows: generator.integers(0, 2**62, (rows, *shape)).astype(np.uint64)

    def numbers(*shape: int) -> Callable[[np.random.Generator, int], Any]:
        return lambda generator, rows: generator.random((rows, *shape))

    found: dict[str, Callable[[np.random.Generator, int], Any]] = {}
    for field in SCHEMA:
        if field.name.endswith(("digest", "digests")):
            found[field.name] = digests(*[PARAMETERS] * field.name.endswith("digests"))
        elif field.type == pa.float64():
            found[field.name] = numbers()
    for quantity, tensors in {"output": 1, "output_grad": 1, "param_grad": PARAMETERS, "update": PARAMETERS}.items():
        found |= {f"{quantity}_norms": numbers(tensors), f"{quantity}_sketches": numbers(tensors * SKETCH_SUMS)}
    found["generator_digests"] = digests(len(GENERATORS))
    return found | {
        "elements": lambda _, rows: np.full(rows, 256 * 784),
        "settings": lambda _, rows: [SETTINGS] * rows,
        "state_counts": lambda _, rows: np.full((rows, 3), PARAMETERS),
    }


class SyntheticWorker:
    """Stands in the place of `workers.Worker`: tells what a trial tells, and trains nothing."""

    def __init__(self, environment: dict[str, str]) -> None:
        pass

    def start(self, trial: Trial, data: object, shared: object, position: object) -> tuple[str, None]:  # noqa: ARG002 - as `workers.Worker`
        """Takes the trial; notes no ends."""
        self._events = synthetic_events(trial)
        return this_node(), None

    def advance(self) -> Event:
        """The next that it has to tell."""
        return next(self._events)


COLUMNS = _columns()


def synthetic_events(trial: Trial) -> Iterator[Event]:
    """Those of a trial, always the same but for its name."""
    yield Began(trial.name, FACTS | {"node_id": this_node()})
    generator = np.random.default_rng(0)
    names = {"trial": trial.name, "loss_name": trial.loss.name, "device": trial.device.name}
    facts = {
        "loss_dtype": "float32",
        "param_names": [f"layer.{n}" for n in range(PARAMETERS)],
        "audit_error": None,
    }
    rows = STEPS // CHUNKS
    for chunk in range(CHUNKS):
        columns = {name: values(generator, rows) for name, values in COLUMNS.items()}
        steps = np.arange(chunk * rows, (chunk + 1) * rows)
        columns |= {"step": steps, "batch": steps, "epoch": steps * 0, "rows": steps * 0 + 256}
        columns |= {"seed": steps * 0, "replica": np.full(rows, trial.replica), "output_grad_strided": steps < 0}
        yield Advanced.of(trial.name, make_table(columns, names=names, rows=rows), facts)
    yield Ended(trial.name, status="complete", wall_s=1.0, began_s=0.0, ended_s=1.0)


def run_once(trials: int, nodes: int) -> dict[str, float]:
    """One run of so many trials; the seconds of each phase, and the memory."""
    with tempfile.TemporaryDirectory() as folder:
        starting._set_environment(Path(folder))
        import ray
        from ray.cluster_utils import Cluster

        head = {"num_cpus": CPUS_OF_A_NODE, "include_dashboard": False}
        simulated = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(nodes - 1):
            simulated.add_node(num_cpus=CPUS_OF_A_NODE)
        ray.init(simulated.address, log_to_driver=False, logging_level="ERROR")
        try:
            return _measure(workers.Cluster(ray, SyntheticWorker), trials, Path(folder) / "run")
        finally:
            ray.shutdown()
            simulated.shutdown()


def _measure(cluster: workers.Cluster, trials: int, out: Path) -> dict[str, float]:
    began_s, wall_s = time.process_time(), time.monotonic()
    task = parse_task("mnist-autoencoder")
    settings = make_settings(task=task, rows=STEPS * 256, batch_size=256, epochs=1, steps=STEPS, lr=1e-3, audit_every=0)
    chosen = placement.expand(parse_devices(["cpu"]), "node", cluster.nodes)
    planned = plan(
        parse_losses(["builtin"], shipped=shipped_losses(task)),
        chosen,
        seeds=[0],
        replicas=-(-trials // len(chosen)),
        settings=settings,
        equals=lambda device: placement.equals(device, cluster.nodes),
        quick=True,
    )[:trials]
    create(out)
    info = describe("benchmarks/scale.py", planned, data=None) | {"quick": True}
    write_json(out / "run.json", info)
    with TrialProgress([trial.name for trial in planned], steps=STEPS) as progress:
        gatherer = Gatherer(planned, out, progress)
        for events in cluster.train(planned, {}, gatherer):
            gatherer.take(events)
        gatherer.write_tables()
        gatherer.close()
    trained_s = time.process_time()
    run = read_run(out, own=True)
    fleet = Fleet(run.trials, run.traces)
    odd_elements.plan_replays(run, planned, fleet)
    judgement = judge(run, fleet=fleet)
    judged_s = time.process_time()
    write_tables(out / "differences.parquet", DIFFERENCES, differences_tables(judgement))
    write_json(out / "summary.json", summarize(judgement))
    terminal.render(run, judgement, Console(file=io.StringIO()))
    assert judgement.verdict == "identical" and judgement.fleet.classes[0].odd == ()
    return {
        "trials": trials,
        "wall_s": time.monotonic() - wall_s,
        "train_s": trained_s - began_s,
        "judge_s": judged_s - trained_s,
        "report_s": time.process_time() - judged_s,
        "memory_mb": _memory_mb(),
    }


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[10, 100, 500, 2000], metavar="N")
    parser.add_argument("--nodes", type=int, default=4, metavar="N")
    parser.add_argument("--one", type=int, metavar="N", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_once(options.one, options.nodes)))
        return
    print("| trials | wall | driver | a trial | train and gather | judge | report | memory |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for count in options.trials:
        command = [sys.executable, __file__, "--one", str(count), "--nodes", str(options.nodes)]
        text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        found = json.loads(text.splitlines()[-1])
        phases = [found[f"{name}_s"] for name in ("train", "judge", "report")]
        each = [f"{1000 * phase / count:.1f} ms" for phase in (sum(phases), *phases)]
        print(
            f"| {count:,} | {found['wall_s']:.0f} s | {sum(phases):.1f} s | {' | '.join(each)} | "
            f"{found['memory_mb']:.0f} MB |",
            flush=True,
        )
    chunk_s = phases[0] / count / (CHUNKS + 2)
    # Of the last size.
    print(
        f"\nA trial sends {CHUNKS + 2} messages (it begins, {CHUNKS} chunks, it ends), so with all of its share in the "
        f"trial's start a message costs {1000 * chunk_s:.1f} ms at most. A worker sends one each {CHUNK_S} s: one core "
        f"of the driver keeps up with {CHUNK_S / chunk_s:.0f} trials that run at once, or {count / sum(phases):.0f} "
        "trials that end each second."
    )


if __name__ == "__main__":
    main()
