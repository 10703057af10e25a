"""Measures parity against the plain script and the bare training step, alternating, in one go.

    python benchmarks/speed.py [--repeat N] [--what commands steps transformer]

(a) the whole command against the whole plain script; (b) a traced step against the bare step, without and with the
audit, in parity's training and in a loop that `parity.Recorder` records; (c) the time from the command to the first
training step, and from the last one to the end; (d) a recorded step of a transformer of 30 million parameters on all
cores, and the size of its trace. A ratio is of medians, and of minima in brackets.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # also where parity is installed from elsewhere

from gpu import training_steps, transformer

import parity
from parity.plan.device import parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import SHIPPED_LOSSES, parse_task
from parity.tasks import mnist, mnist_autoencoder
from parity.train.loop import train
from parity.train.switches import prepare

PLAIN_SCRIPT = Path(__file__).with_name("plain_script.py")
# Steps that are taken in turn, about a chunk of a real run, and the turns of one measurement: short, so that a noisy
# minute meets all three alike.
SLICE_STEPS = 60
SLICES = 8
PARTS = ("commands", "steps", "transformer")


def make_torchvision_root(folder: Path) -> None:
    """Writes the embedded MNIST as torchvision wants it."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, name in (("train", "train"), ("t10k", "t10k")):
        data = mnist.load(part)
        count = len(data["labels"]).to_bytes(4, "big")
        side = (28).to_bytes(4, "big")
        images = b"\0\0\x08\x03" + count + side + side + data["images"].tobytes()
        labels = b"\0\0\x08\x01" + count + data["labels"].tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(labels)


def time_command(*command: object) -> tuple[float, float]:
    """Runs a command; returns when it began, in seconds since 1970, and how many seconds it took."""
    began = time.time()
    subprocess.run(
        [sys.executable, *map(str, command)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return began, time.time() - began


def measure_commands(repeat: int) -> dict[str, list[float]]:
    """Whole commands, in seconds, taken in turn."""
    found: dict[str, list[float]] = {
        name: [] for name in ("plain script", "parity.run", "to first step", "after last step")
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "torchvision"
        make_torchvision_root(root)
        for number in range(repeat):
            found["plain script"].append(time_command(PLAIN_SCRIPT, "--data", root)[1])
            out = Path(folder) / f"run{number}"
            began, took = time_command("-m", "parity.run", "--device", "cpu", "--out", out)
            trials = pd.read_parquet(out / "trials.parquet")
            found["parity.run"].append(took)
            found["to first step"].append(trials.began.min().timestamp() - began)
            found["after last step"].append(began + took - trials.ended.max().timestamp())
    return found


def recorded_steps(data: dict, out: Path, *, audited: bool) -> Iterator[None]:
    """The same with a Recorder, endlessly."""
    torch.manual_seed(0)
    model = mnist_autoencoder.model()
    optimizer = mnist_autoencoder.optimizer(model.parameters(), 1e-3)
    criterion = torch.nn.MSELoss()
    held_against = criterion if audited else None
    with parity.Recorder(out, model, optimizers=optimizer, criterion=held_against) as recorder:
        while True:
            for start in range(0, 60_000 - 256, 256):
                batch = mnist_autoencoder.batch(data, start, start + 256)
                optimizer.zero_grad()
                output, target = mnist_autoencoder.forward(model, batch)
                loss = criterion(output, target)
                recorder.forward(batch, output=output, target=target, loss=loss)
                loss.backward()
                recorder.backward()
                optimizer.step()
                recorder.step()
                yield


def bare_steps(data: dict) -> Iterator[None]:
    """The training step with nothing around it, endlessly."""
    torch.manual_seed(0)
    model = mnist_autoencoder.model()
    optimizer = mnist_autoencoder.optimizer(model.parameters(), 1e-3)
    criterion = torch.nn.MSELoss()
    while True:
        for start in range(0, 60_000 - 256, 256):
            batch = mnist_autoencoder.batch(data, start, start + 256)
            optimizer.zero_grad()
            loss = criterion(*mnist_autoencoder.forward(model, batch))
            loss.backward()
            optimizer.step()
            yield


def measure_steps(repeat: int, folder: Path) -> dict[str, list[float]]:
    """One training step, in milliseconds, bare and traced in turn; a measurement is the mean of many steps."""
    data = mnist.load()
    (device,) = parse_devices(["cpu"])
    prepare(device)

    def take(steps: Iterator[None]) -> Callable[[], object]:
        return lambda: [next(steps) for _ in range(SLICE_STEPS)]

    def traced(audit_every: int) -> Callable[[], object]:
        settings = make_settings(
            task=parse_task("mnist-autoencoder"),
            rows=60_000,
            batch_size=256,
            epochs=1000,
            steps=None,
            lr=1e-3,
            audit_every=audit_every,
        )
        losses = parse_losses(["builtin"], shipped=SHIPPED_LOSSES)
        (trial,) = plan(losses, [device], seeds=[0], replicas=1, settings=settings)
        chunks = train(trial, data, chunk_steps=SLICE_STEPS, chunk_s=math.inf)
        return lambda: next(chunks)

    contenders = {
        "bare step": take(bare_steps(data)),
        "traced step": traced(0),
        "traced and audited step": traced(1),
        "recorded step": take(recorded_steps(data, folder / "recorded", audited=False)),
        "recorded and audited step": take(recorded_steps(data, folder / "audited", audited=True)),
    }
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for advance in contenders.values():
        advance()  # the first steps import and allocate
    for _ in range(repeat):
        spent = dict.fromkeys(contenders, 0.0)
        for _ in range(SLICES):
            for name, advance in contenders.items():
                began = time.perf_counter()
                advance()
                spent[name] += time.perf_counter() - began
        for name, seconds in spent.items():
            found[name].append(1000 * seconds / (SLICES * SLICE_STEPS))
    return found


def measure_transformer(repeat: int, folder: Path) -> dict[str, list[float]]:
    """One training step of the transformer, in seconds, bare and recorded in turn; prints the size of its trace."""
    torch.set_num_threads(os.cpu_count() or 1)
    out = folder / "transformer"
    contenders = {
        "bare step": training_steps(transformer, torch.device("cpu"), None),
        "recorded step": training_steps(transformer, torch.device("cpu"), out),
    }
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for steps in contenders.values():
        next(steps)  # the first step allocates
    for _ in range(repeat):
        for name, steps in contenders.items():
            began = time.perf_counter()
            next(steps)
            found[name].append(time.perf_counter() - began)
    for steps in contenders.values():
        steps.close()
    return found


def trace_size(out: Path) -> tuple[int, int]:
    """The bytes of the traces of a run, and their steps."""
    paths = list((out / "traces").iterdir())
    return sum(path.stat().st_size for path in paths), sum(
        len(pd.read_parquet(path, columns=["step"])) for path in paths
    )


def show(found: dict[str, list[float]], unit: str, *, against: str, goals: dict[str, float]) -> None:
    """Prints a row for each contender: minimum, median, and the ratio to the first."""
    for name, values in found.items():
        ratio = goal = ""
        if name in goals:
            ratio = f"{statistics.median(values) / statistics.median(found[against]):.2f}"
            ratio += f" ({min(values) / min(found[against]):.2f})"
            goal = f"{goals[name]:.2f}"
        print(
            f"| {name} | {min(values):.2f} {unit} | {statistics.median(values):.2f} {unit} | {ratio} | {goal} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7, help="measurements of each contender (default: %(default)s)")
    parser.add_argument("--what", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    print("| what | minimum | median | ratio | at most |\n|---|---|---|---|---|")
    if "commands" in options.what:
        show(measure_commands(options.repeat), "s", against="plain script", goals={"parity.run": 0.40})
    if "steps" in options.what:
        goals = {"traced step": 1.10, "traced and audited step": 1.25}
        goals |= {"recorded step": 1.12, "recorded and audited step": 1.25}
        with tempfile.TemporaryDirectory() as folder:
            show(measure_steps(options.repeat, Path(folder)), "ms", against="bare step", goals=goals)
    if "transformer" in options.what:
        with tempfile.TemporaryDirectory() as folder:
            goals = {"recorded step": 1.05}
            show(measure_transformer(options.repeat, Path(folder)), "s", against="bare step", goals=goals)
            size, steps = trace_size(Path(folder) / "transformer")
            print(f"\nThe transformer's trace: {size / steps / 1000:.1f} kB a step over {steps} steps.")
