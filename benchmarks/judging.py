"""Judges a generated run of 10^7 stored steps in bounded memory, beside DuckDB finding the same first differences.

    pip install duckdb
    python benchmarks/judging.py [--rows N] [--apart] [--turns N] [--keep DIR]

The run has ten trials of N / 10 steps each, two losses on five equal devices, in the columns of `trace.SCHEMA` but for
norms and sketches of single tensors, which are null, and with the 16 parameters of the reference experiment. All trials
are equal but for faults at known steps: the candidate loss differs from one step on, one device at its last step, one
for a single step at the beginning of a row group. With `--apart` each trial differs from each other one from its first
step on, so that no two hold the same gradients and parameters.

Each way of finding the faults is a process of its own; its wall time, its processor time and its largest resident size
are printed: `parity.report`, which checks and judges; `parity.run --resume`, which of a complete run judges and stores;
and DuckDB, which joins the two files of each pair, by step or row by row, and compares. They take turns; the times are
medians, the sizes the largest. All have to find the planted faults at the same steps, and nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from parity.store.trials import TrialRecord

# Step, quantity and tensor.
Place = tuple[int, str, str | None]

TRIALS = 10
BATCHES = 235
LAYERS = [f"{half}.{layer}.{kind}" for half in (0, 1) for layer in (0, 2, 4, 6) for kind in ("weight", "bias")]
FACTS = {"cpu_model": "simulated", "cpu_capability": "AVX2", "threads": 1, "torch": "-", "python": "-", "host": "-"}
GROUP = {"params": f"0-{len(LAYERS) - 1}", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
SETTINGS = json.dumps({"optimizers": [{"class": "Adam", "groups": [GROUP]}], "evaluating": [], "frozen": []})
QUANTITIES = ("input", "output", "loss", "output_grad", "param_grad", "param")
STORING = "parity.run --resume"
PHASES = {
    STORING: ["-m", "parity.run", "--resume"],
    "parity.report": ["-m", "parity.report"],
    "DuckDB, POSITIONAL JOIN": [__file__, "--duckdb", "positional"],
    "DuckDB, JOIN USING (step)": [__file__, "--duckdb", "step"],
}


@dataclass(frozen=True)
class Fault:
    """What a trial has otherwise than the others.

    Attributes:
        step: The first of it.
        quantity: Of `QUANTITIES`, the first that is otherwise at this step.
        tensor: The number of the only parameter; None if all that follows is otherwise too, at all steps to come.
        mark: How far it is otherwise: faults of other numbers give other values.
    """

    step: int
    quantity: str
    tensor: int | None = None
    mark: int = 1

    @property
    def place(self) -> Place:
        """As a report names it."""
        return self.step, self.quantity, None if self.tensor is None else LAYERS[self.tensor]

    def apply(self, columns: dict[str, np.ndarray]) -> None:
        """Changes some steps of a trace."""
        steps = columns["step"]
        if self.tensor is not None:
            columns[f"{self.quantity}_digests"][steps == self.step, self.tensor] ^= np.uint64(1)
            columns[f"{self.quantity}_digest"][steps == self.step] ^= np.uint64(1)
            return
        for index, quantity in enumerate(QUANTITIES[1:], start=1):
            begun = steps >= self.step + (index < QUANTITIES.index(self.quantity))
            columns[f"{quantity}_digest"][begun] ^= np.uint64(2 * self.mark)
            for name in {"loss": ["loss"], "output_grad": ["output_grad_norm"]}.get(quantity, []):
                # So many neighbouring numbers away.
                columns[name][begun] = (columns[name][begun].view(np.int32) + self.mark).view(np.float32)
            if quantity.startswith("param"):
                columns[f"{quantity}_digests"][begun] ^= np.uint64(2 * self.mark)


def faults_of(loss: str, device: str, steps: int, group_rows: int) -> list[Fault]:
    """Those of a trial."""
    found = [Fault(steps * 7 // 10 + 3, "output_grad")] if loss == "numpy" else []
    if (loss, device) == ("builtin", "cpu@n3"):
        found.append(Fault(steps - 1, "param", 5))
    if (loss, device) == ("numpy", "cpu@n4"):
        found.append(Fault(steps * 3 // 10 // group_rows * group_rows, "param_grad", 9))
    return found


def generate(out: Path, rows: int, *, apart: bool) -> dict[tuple[str, str], Place | None]:
    """Writes the run directory; returns where each pair parts first."""
    from parity.judge.fleet import Fleet
    from parity.judge.pairs import make_pairs
    from parity.store.parquet import GROUP_ROWS

    steps = rows // TRIALS

    losses, devices = ["builtin", "numpy"], [f"cpu@n{number}" for number in range(TRIALS // 2)]

    def plant(loss: str, device: str) -> list[Fault]:
        mark = losses.index(loss) * len(devices) + devices.index(device)
        own = [Fault(0, "output_grad", mark=mark)] if apart and mark else []
        return [*own, *faults_of(loss, device, steps, GROUP_ROWS)]

    records = store_run(out, losses, devices, steps, plant)
    planted = {record.trial: plant(record.loss_name, record.device) for record in records}
    pairs = make_pairs(records, Fleet([replace(record, status="planned") for record in records], {}))
    return {
        (baseline, candidate): min(
            (fault.place for fault in set(planted[baseline]) ^ set(planted[candidate])), default=None
        )
        for baseline, candidate in ((pair.baseline.trial, pair.candidate.trial) for pair in pairs)
    }


def store_run(
    out: Path,
    losses: Sequence[str],
    devices: Sequence[str],
    steps: int,
    plant: Callable[[str, str], list[Fault]],
    **described: object,
) -> list[TrialRecord]:
    """Writes the directory of a run that nobody trained.

    Args:
        out: The directory.
        losses: Names of the losses, the baseline first.
        devices: Names of the devices, all of them equal.
        steps: Number of steps of each trial.
        plant: Gives the faults of the trial of a loss on a device.
        described: What run.json says beside.

    Returns:
        The records of the trials.
    """
    from parity.plan.device import parse_devices
    from parity.plan.loss_spec import parse_losses
    from parity.plan.planning import make_settings, plan
    from parity.plan.task_spec import parse_task, shipped_losses
    from parity.store.directory import complete, create
    from parity.store.files import write_json
    from parity.store.kept_trial import planned_record
    from parity.store.parquet import GROUP_ROWS, write_table
    from parity.store.run_info import describe
    from parity.store.tables import EVIDENCE
    from parity.store.trace_files import TraceWriter, trace_file
    from parity.store.trials import write_trials

    task = parse_task("mnist-autoencoder")
    settings = make_settings(
        task=task, rows=60_000, batch_size=256, epochs=-(-steps // BATCHES), steps=steps, lr=1e-3, audit_every=1
    )
    planned = plan(
        parse_losses(losses, shipped=shipped_losses(task)),
        parse_devices(devices),
        seeds=[0],
        replicas=1,
        settings=settings,
        equals=lambda _: 0,
    )
    create(out)
    info = describe(f"python benchmarks/{Path(sys.argv[0]).name}", planned, data=None) | {"arguments": []} | described
    write_json(out / "run.json", info)
    shared = FACTS | {"status": "complete", "rows": steps, "loss_dtype": "float32", "param_names": LAYERS}
    all_names = [trial.name for trial in planned]
    records = [
        replace(planned_record(trial, trace_file(index, all_names)), **shared, node=trial.device.node)
        for index, trial in enumerate(planned)
    ]
    # Trials of a large run share files, and those of a file follow each other.
    for file, sharing in itertools.groupby(records, key=lambda record: record.trace):
        writer = TraceWriter(out / "traces" / file)
        for record in sharing:
            names = {"trial": record.trial, "loss_name": record.loss_name, "device": record.device}
            faults = plant(record.loss_name, record.device)
            for start in range(0, steps, GROUP_ROWS):
                writer.append(_rows(start, min(start + GROUP_ROWS, steps), names, faults))
        writer.close()
    for name, schema in EVIDENCE.items():
        write_table(out / f"{name}.parquet", schema.empty_table())
    write_trials(out, records)
    complete(out, info)
    return records


def _rows(start: int, stop: int, names: dict[str, str], faults: list[Fault]) -> object:
    """Some steps of a trial: the same of each, but for its faults."""
    from parity.store.trace import GENERATORS, SCHEMA, make_table

    generator = np.random.default_rng(start)
    rows = stop - start
    steps = np.arange(start, stop)
    columns: dict[str, Any] = {}
    for field in SCHEMA:
        if field.name.endswith(("digest", "digests")):
            shape = (rows, len(LAYERS)) if field.name.endswith("digests") else (rows,)
            columns[field.name] = generator.integers(0, 2**64, shape, dtype=np.uint64)
    columns |= {name: generator.random(rows) for name in ("grad_error_u", "loss_error_u", "step_s")}
    columns |= {name: generator.random(rows, dtype=np.float32) for name in ("output_grad_norm", "param_grad_norm")}
    columns["loss"] = (0.06 + generator.random(rows) / 100).astype(np.float32)
    columns |= {"step": steps, "epoch": steps // BATCHES, "batch": steps % BATCHES}
    columns["rows"] = np.where(columns["batch"] == BATCHES - 1, 96, 256)
    columns |= {"elements": 784 * columns["rows"], "output_grad_strided": steps < 0}
    columns |= {"seed": steps * 0, "replica": steps * 0, "grad_ratio": 1 + generator.random(rows) * 1e-8}
    # The counters of Adam's state, which has an entry for each parameter.
    counts = np.stack([np.full(rows, len(LAYERS)), steps, steps], axis=1)
    columns |= {"state_counts": counts, "generator_digests": np.zeros((rows, len(GENERATORS)), np.uint64)}
    columns |= {"settings": [SETTINGS] * rows}
    for fault in faults:
        fault.apply(columns)
    return make_table(columns, names=names, rows=rows)


def first_by_duckdb(directory: Path, join: str) -> list[list[object]]:
    """Baseline, candidate, step and quantity of the first difference of each pair, found by SQL."""
    import duckdb

    records = pq.read_table(directory / "trials.parquet", columns=["trial", "trace"]).to_pylist()
    files = {record["trial"]: str(directory / "traces" / record["trace"]) for record in records}
    differs = {quantity: [f"a.{quantity}_digest <> b.{quantity}_digest"] for quantity in QUANTITIES}
    differs["loss"].append("a.loss IS DISTINCT FROM b.loss")
    for quantity in ("output_grad", "param_grad"):
        differs[quantity].append(f"a.{quantity}_norm IS DISTINCT FROM b.{quantity}_norm")
    for quantity in ("param_grad", "param"):
        differs[quantity].append(f"a.{quantity}_digests <> b.{quantity}_digests")
    found = {quantity: " OR ".join(conditions) for quantity, conditions in differs.items()}
    cases = " ".join(f"WHEN {condition} THEN '{quantity}'" for quantity, condition in found.items())
    side = "(SELECT * FROM read_parquet(?) WHERE trial = ?)"
    joined = f"{side} a POSITIONAL JOIN {side} b" if join == "positional" else f"{side} a JOIN {side} b USING (step)"
    step = "a.step" if join == "positional" else "step"
    query = f"SELECT {step}, CASE {cases} END FROM {joined} WHERE {' OR '.join(found.values())} ORDER BY {step} LIMIT 1"
    answers = []
    for pair in json.loads((directory / "summary.json").read_text())["pairs"]:
        names = [pair["baseline"], pair["candidate"]]
        rows = duckdb.execute(query, [text for name in names for text in (files[name], name)]).fetchall()
        answers.append([*names, *(rows[0] if rows else (None, None))])
    return answers


@dataclass(frozen=True)
class Measured:
    """What a process took."""

    wall_s: float
    cpu_s: float
    memory_mb: float


def measure(arguments: list[str]) -> tuple[str, Measured]:
    """Runs Python; its output, and what it took.

    Raises:
        RuntimeError: It ended otherwise than a run whose pairs diverged.
    """
    with tempfile.TemporaryFile("w+") as output:
        began_s = time.monotonic()
        process = subprocess.Popen([sys.executable, *arguments], stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - began_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 1):
            raise RuntimeError(f"python {' '.join(arguments)} ended with {process.returncode}.")
        output.seek(0)
        return output.read(), Measured(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def check(name: str, text: str, directory: Path, planted: dict[tuple[str, str], Place | None]) -> None:
    """Holds what was found against what was planted.

    Raises:
        RuntimeError: It is something else.
    """
    found: dict[tuple[str, str], Place | None]
    if name == "parity.report":  # of pairs that are alike, it prints one
        blocks = [
            " ".join(part.split()) for part in re.split(r"\n(?! )", text) if re.search(r" steps, \d+ quantities", part)
        ]
        for (baseline, candidate), place in planted.items():
            for block in (block for block in blocks if block.startswith(f"{baseline} {candidate} ")):
                line = " identical" if place is None else f", {' '.join(str(part) for part in place[1:] if part)} "
                if line not in block or (place and not re.search(rf" (first|onset) (at )?step {place[0]}\b", block)):
                    raise RuntimeError(f"{block} is not {place}.")
        if len(blocks) < 4:
            raise RuntimeError(f"{name} printed too little:\n{text}")
        return
    if name == STORING:
        pairs = json.loads((directory / "summary.json").read_text())["pairs"]
        found = {
            (pair["baseline"], pair["candidate"]): pair["first"]
            and (pair["first"]["step"], pair["first"]["quantity"], pair["first"]["tensor"])
            for pair in pairs
        }
        want = planted
    else:
        want = {pair: place and (*place[:2], None) for pair, place in planted.items()}
        found = {
            (baseline, candidate): None if step is None else (step, quantity, None)
            for baseline, candidate, step, quantity in json.loads(text)
        }
    if found != want:
        raise RuntimeError(f"{name} found {found}, and planted was {want}.")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, metavar="N")
    parser.add_argument("--apart", action="store_true", help="trials that differ from their first step on")
    parser.add_argument("--turns", type=int, default=3, metavar="N", help="how often each is measured (default: 3)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new directory to keep the run in")
    parser.add_argument("--duckdb", choices=["positional", "step"], help=argparse.SUPPRESS)
    parser.add_argument("directory", type=Path, nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.duckdb:
        print(json.dumps(first_by_duckdb(options.directory, options.duckdb)))
        return
    if options.directory:  # in a process of its own, since the largest resident size is handed on to children
        planted = generate(options.directory, options.rows, apart=options.apart)
        print(json.dumps([[*pair, place] for pair, place in planted.items()]))
        return
    with tempfile.TemporaryDirectory() as folder:
        directory = options.keep or Path(folder) / "run"
        text, took = measure([__file__, "--rows", str(options.rows), *["--apart"] * options.apart, str(directory)])
        planted = {(pair[0], pair[1]): pair[2] and tuple(pair[2]) for pair in json.loads(text)}
        size_bytes = sum(path.stat().st_size for path in directory.rglob("*.parquet"))
        print(
            f"{options.rows:,} steps in {TRIALS} trials, {size_bytes / 1e9:.1f} GB, {len(planted)} pairs; "
            f"written in {took.wall_s:.0f} s with {took.memory_mb:.0f} MB\n",
            flush=True,
        )
        found: dict[str, list[Measured]] = {name: [] for name in PHASES}
        for turn in range(options.turns):
            # What stores the run comes first, and once: the others read what it stores.
            for name in PHASES if not turn else [name for name in PHASES if name != STORING]:
                text, took = measure([*PHASES[name], str(directory)])
                check(name, text, directory, planted)
                found[name].append(took)
                print(f"{name}: {took.wall_s:.1f} s", file=sys.stderr, flush=True)
        print_table(found)


def print_table(found: dict[str, list[Measured]]) -> None:
    """Prints what each way took, beside the faster one of DuckDB's."""
    walls_s = {name: statistics.median(each.wall_s for each in turns) for name, turns in found.items()}
    fastest_s = min(wall_s for name, wall_s in walls_s.items() if name.startswith("DuckDB"))
    print("| | wall | beside DuckDB | processor | memory |\n|---|---:|---:|---:|---:|")
    for name, turns in found.items():
        cpu_s, memory_mb = statistics.median(each.cpu_s for each in turns), max(each.memory_mb for each in turns)
        times = f"{walls_s[name] / fastest_s:.2f}"
        print(f"| {name} | {walls_s[name]:.1f} s | {times} | {cpu_s:.1f} s | {memory_mb:,.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
