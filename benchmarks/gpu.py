"""Runs parity on this machine's GPU, without Ray: how CPU and GPU differ, what is caught there, what tracing costs.

    python benchmarks/gpu.py [--out DIR] [--parts PART ...] [--pretend]

Writes `results.json` and `summary.md` under `benchmarks/results/<gpu>/`. Parts that are in results.json already are
skipped, so a command that was cut off can be repeated. Parts that are timed have the machine to themselves, each in a
process of its own; the others share its cores. `--pretend` takes the CPU in place of the GPU, with few steps, to try
the script itself.
"""

import argparse
import contextlib
import csv
import itertools
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # parity may be installed from elsewhere, or not at all

import parity  # noqa: E402 - found beside this script, whatever is installed
from parity.observe.digest import digest  # noqa: E402
from parity.observe.fingerprint import fingerprint  # noqa: E402
from parity.observe.word_fingerprint import WordFingerprints  # noqa: E402
from parity.plan.device import parse_device  # noqa: E402
from parity.tasks import mnist, mnist_autoencoder  # noqa: E402
from parity.train.machine import facts  # noqa: E402
from parity.train.switches import prepare  # noqa: E402

PUBLISHED = ROOT / "tests" / "published_losses.csv"
# The published losses have four decimals; on the CPU the tests allow the same distance.
PUBLISHED_DISTANCE = 1e-4
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


class Bench:
    """The device that is measured, and the sizes."""

    def __init__(self, *, pretend: bool) -> None:
        self.pretend = pretend
        # With another thread count, since a run needs two devices.
        self.device = parse_device("cpu:threads=2" if pretend else "cuda")
        self.torch_device = prepare(self.device)
        self.other_switch = "cpu:threads=3" if pretend else "cuda:tf32=on"
        self.steps = 6 if pretend else 240
        self.epoch_steps = 6 if pretend else 470
        self.tensors = 20 if pretend else 1500
        self.corpus = ["--first", 2, "--steps", 6] if pretend else ["--first", 20]
        self.loops = ["--kind", "resume"] if pretend else []
        # A turn has so many steps, or fewer that take this long.
        self.turns, self.turn_steps, self.turn_s = (1, 3, 10.0) if pretend else (7, 20, 1.0)
        # Of loops that are recorded twice, to see whether their bits are equal.
        self.repeated_steps = 2 if pretend else 10
        # With the audit past step 10, the last one that the Recorder takes in float64.
        self.first_steps, self.first_audited = (2, 2) if pretend else (3, 11)

    def time(self, steps: Iterator[None], count: int) -> float:
        """Seconds that the next steps take, until the device is done with them."""
        self._wait()
        began = time.perf_counter()
        for _ in range(count):
            next(steps)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize()


def run(*options: object, steps: int) -> tuple[dict[str, Any], pd.DataFrame]:
    """Has `parity.run` train and judge in a process of its own: its summary, and the losses of all trials."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = ["-m", "parity.run", "--inline", "--format", "json", "--steps", steps, "--out", out, *options]
        began = time.perf_counter()
        done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
        took = time.perf_counter() - began
        if done.returncode == 2:  # any other status is an answer
            raise RuntimeError(f"parity.run {' '.join(map(str, options))}:\n{done.stdout[-200:]}{done.stderr[-1000:]}")
        traces = pd.read_parquet(out / "traces", columns=["trial", "loss_name", "device", "epoch", "batch", "loss"])
        trials = pd.read_parquet(out / "trials.parquet", columns=["trial", "status"])
    summary = json.loads(done.stdout) | {"seconds": took, "status_of_trials": dict(trials.to_numpy().tolist())}
    return summary, traces


def measure_facts(bench: Bench) -> dict[str, Any]:
    """What trials.parquet says of this machine, so that the figures can be placed."""
    return facts(bench.device)


def measure_digest(bench: Bench) -> dict[str, Any]:
    """Digests of equal tensors on the CPU and on the device, and of such with one bit changed.

    Of both kinds: XXH3 of a copy on the host, and the sums of words that the device computes itself, with the largest
    distance of its norms and sketches from those of the CPU, in norms.
    """
    generator = torch.Generator().manual_seed(0)
    found = {}
    for dtype in DTYPES:
        tensors, changed = [], []
        for number in range(bench.tensors):
            shape = torch.randint(1, 40, (number % 4,), generator=generator).tolist()
            values = torch.randn(shape, generator=generator) * 10 ** (number % 9 - 4)
            tensor = (values > 0) if dtype is torch.bool else values.to(dtype)
            tensors.append(tensor.mT if number % 2 and tensor.ndim > 1 else tensor)  # not contiguous
            changed.append(tensors[-1].clone().contiguous())
            bits = changed[-1].reshape(-1).view(torch.uint8)
            bits[int(torch.randint(len(bits), (), generator=generator))] ^= 1
        there, changed_there = ([each.to(bench.torch_device) for each in given] for given in (tensors, changed))
        right = np.array([digest(tensor) for tensor in tensors], np.uint64)
        counts = {"tensors": bench.tensors, "unequal": sum(np.array([*map(digest, there)]) != right)}
        counts["changed_bits_missed"] = sum(np.array([*map(digest, changed_there)]) == right)
        twin, words = fingerprint(tensors, "words"), WordFingerprints()
        own = words.take(there)
        counts["words_unequal"] = sum(own.digests != twin.digests)
        counts["words_changed_bits_missed"] = sum(words.take(changed_there).digests == twin.digests)
        with np.errstate(invalid="ignore"):  # an overflow of float16 is infinite on both
            distances = np.abs(np.c_[own.norms, own.sketches] - np.c_[twin.norms, twin.sketches])
            relative = distances / np.maximum(twin.norms, 1e-30)[:, None]
        found[str(dtype)] = {name: int(count) for name, count in counts.items()}
        found[str(dtype)]["words_largest_distance"] = float(np.nanmax(relative))
    return found


def measure_reference(bench: Bench) -> dict[str, Any]:
    """The reference run on the CPU, the device, and the device with TF32."""
    summary, _ = run("--device", "cpu", bench.device.name, bench.other_switch, steps=bench.steps)
    return summary


def measure_classifier(bench: Bench) -> dict[str, Any]:
    """The same with the classifier."""
    summary, _ = run("--task", "mnist-classifier", "--device", "cpu", bench.device.name, steps=bench.steps)
    return summary


def measure_replicas(bench: Bench) -> dict[str, Any]:
    """Three replicas on the device, which have to be equal to the bit."""
    summary, _ = run("--device", bench.device.name, "--replicas", 3, steps=bench.steps)
    return summary


def measure_published(bench: Bench) -> dict[str, Any]:
    """How many of the published losses the CPU and the device reproduce, to all decimals and within the distance."""
    _, traces = run("--loss", "builtin", "--device", "cpu", bench.device.name, steps=bench.epoch_steps)
    with PUBLISHED.open() as file:
        published = {(int(row["epoch"]) - 1, int(row["step"]) - 1): row["loss"] for row in csv.DictReader(file)}
    found = {}
    for device, table in traces.groupby("device"):
        losses = table.set_index(["epoch", "batch"])["loss"].to_dict()
        met = {place: losses[place] for place in published if place in losses}
        found[device] = {
            "compared": len(met),
            "equal_to_4_decimals": sum(f"{loss:.4f}" == published[place] for place, loss in met.items()),
            "within_1e-4": sum(
                abs(loss - float(published[place])) <= PUBLISHED_DISTANCE for place, loss in met.items()
            ),
        }
    return found


def run_corpus(device: str, *options: object) -> dict[str, Any]:
    """Has `verdicts.py` train a corpus on the device: its table, and the lines about what was not right."""
    command = [ROOT / "benchmarks" / "verdicts.py", "--device", device, "--parity-alone", *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"verdicts.py {' '.join(map(str, options))}:\n{done.stdout[-200:]}{done.stderr[-1000:]}")
    lines = done.stdout.splitlines()
    return {
        "table": [line for line in lines if line.startswith("|")],
        "notes": [line for line in lines if not line.startswith("|")],
    }


def measure_losses(bench: Bench) -> dict[str, Any]:
    """The first losses of each file of the planted corpus on the device, with one seed."""
    return run_corpus(bench.device.name, "--seed", 0, *bench.corpus)


def measure_loops(bench: Bench) -> dict[str, Any]:
    """The planted corpus of recorded loops on the device."""
    return run_corpus(bench.torch_device.type, "--corpus", "loops", *bench.loops)


Setting = tuple[torch.nn.Module, tuple[torch.Tensor, ...], Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]


def autoencoder(device: torch.device) -> Setting:
    """The reference model with one batch."""
    (images,) = mnist_autoencoder.batch(mnist.load(), 0, 256)
    images = images.to(device)
    return mnist_autoencoder.model().to(device), (images, images), torch.nn.MSELoss()


def resnet18(device: torch.device) -> Setting:
    """ResNet-18 with one random batch."""
    import torchvision

    images, labels = torch.randn(64, 3, 224, 224), torch.randint(1000, (64,))
    model = torchvision.models.resnet18().to(device)
    return model, (images.to(device), labels.to(device)), torch.nn.CrossEntropyLoss()


class Transformer(torch.nn.Module):
    """A language model; by default of 30 million parameters."""

    def __init__(self, vocabulary: int = 16_000, width: int = 512, layers: int = 4) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, width)
        layer = torch.nn.TransformerEncoderLayer(width, width // 64, 4 * width, dropout=0.0, batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = torch.nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embedding(tokens))).flatten(0, 1)


def transformer(device: torch.device) -> Setting:
    """The transformer with 16 random sequences of 256 tokens."""
    tokens = torch.randint(16_000, (16, 256), device=device)
    return Transformer().to(device), (tokens, tokens.flatten()), torch.nn.CrossEntropyLoss()


def large_transformer(device: torch.device) -> Setting:
    """The transformer in the shape of GPT-2, 124 million parameters, with 8 sequences of 512 tokens."""
    model = Transformer(50_257, 768, 12).to(device)
    model.head.weight = model.embedding.weight
    tokens = torch.randint(50_257, (8, 512), device=device)
    return model, (tokens, tokens.flatten()), torch.nn.CrossEntropyLoss()


def training_steps(
    make: Callable[[torch.device], Setting],
    device: torch.device,
    out: Path | None,
    *,
    steps: int | None = None,
    audited: bool = False,
    autocast: bool = False,
) -> Iterator[None]:
    """Training steps on one batch, endless if their number is not given; recorded into `out` if there is one."""
    torch.manual_seed(0)
    model, (inputs, target), criterion = make(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    # In a `with`, so that a generator that is closed closes its recorder.
    with (
        contextlib.nullcontext()
        if out is None
        else parity.Recorder(out, model, optimizers=optimizer, criterion=criterion if audited else None)
    ) as recorder:
        for _ in itertools.count() if steps is None else range(steps):
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                output = model(inputs)
                loss = criterion(output, target)
            if recorder:
                recorder.forward((inputs,), output=output, target=target, loss=loss)
            loss.backward()
            if recorder:
                recorder.backward()
            optimizer.step()
            if recorder:
                recorder.step()
            yield


def measure_steps(
    bench: Bench, make: Callable[[torch.device], Setting], *, autocast: bool = False, audited: bool = False
) -> dict[str, Any]:
    """Times training steps that are bare, recorded, and if wanted recorded with the audit, in turn.

    Returns:
        By contender: minimum and median in ms; the ratio of the medians to the bare step's; the ms for which the GPU is
        busy in a step; the seconds of the first steps, which import and allocate and, with the audit, are taken in
        float64 on the CPU as well; and the peak of the GPU's memory over these, in MiB.
    """
    # As in a loop of the user's own: the float64 steps use all cores.
    torch.set_num_threads(os.cpu_count() or 1)
    device = bench.torch_device
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        outs = {"bare": None, "recorded": Path(folder) / "recorded"}
        if audited:
            outs["recorded and audited"] = Path(folder) / "audited"
        contenders = {}
        for name, out in outs.items():
            contenders[name] = training_steps(make, device, out, audited="audited" in name, autocast=autocast)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
            first_s = bench.time(contenders[name], bench.first_audited if "audited" in name else bench.first_steps)
            peak = (torch.cuda.max_memory_allocated() - held) / 2**20 if device.type == "cuda" else None
            found[name] = {"first_steps_s": first_s, "peak_mib": peak}
        counts = {}
        for name, steps in contenders.items():
            most = bench.turn_s / bench.time(steps, 1)
            counts[name] = max(1, min(bench.turn_steps, int(most)))
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(bench.turns):
            for name, steps in contenders.items():
                times[name].append(1000 * bench.time(steps, counts[name]) / counts[name])
        for name, steps in contenders.items():
            found[name]["gpu_busy_ms"] = busy_ms(bench, steps, counts[name]) if device.type == "cuda" else None
            steps.close()
    bare = statistics.median(times["bare"])
    for name, values in times.items():
        median = statistics.median(values)
        found[name] |= {"minimum_ms": min(values), "median_ms": median, "ratio_of_medians": median / bare}
    return found


def busy_ms(bench: Bench, steps: Iterator[None], count: int) -> float:
    """The ms for which the GPU computes in a step, whatever the host does meanwhile."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        bench.time(steps, count)
    return float(sum(event.self_device_time_total for event in profile.key_averages())) / 1000 / count


def measure_determinism(bench: Bench) -> dict[str, Any]:
    """Loops recorded twice, with torch's deterministic algorithms and without: what the two are to each other."""
    found = {}
    for name, make in (("autoencoder", autoencoder), ("ResNet-18", resnet18), ("transformer", transformer)):
        for switch in (False, True):
            if bench.pretend and name != "autoencoder":
                continue
            with tempfile.TemporaryDirectory() as folder, deterministic(switch):
                outs = [Path(folder) / "once", Path(folder) / "again"]
                for out in outs:
                    for _ in training_steps(make, bench.torch_device, out, steps=bench.repeated_steps):
                        pass
                found[f"{name}, deterministic algorithms {'on' if switch else 'off'}"] = compare(*outs)
    return found


@contextlib.contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Sets all of torch's switches for determinism in the block."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(on, warn_only=True)
    cudnn.deterministic, cudnn.benchmark = on, not on
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        cudnn.deterministic, cudnn.benchmark = before


def compare(baseline: Path, candidate: Path) -> dict[str, Any]:
    """The verdict of `parity.report` on two recorded loops, its cause, and where they first differ."""
    command = [sys.executable, "-m", "parity.report", "--format", "json", str(baseline), str(candidate)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 2:
        raise RuntimeError(f"parity.report: {done.stdout[-200:]}{done.stderr[-1000:]}")
    (pair,) = json.loads(done.stdout)["pairs"]
    first = pair["first"] or {}
    return {"verdict": pair["verdict"], "cause": pair["cause"], "first": f"{first.get('step')} {first.get('quantity')}"}


# What is timed, each in a process of its own: torch's profiler slows every launch of a kernel until its process ends
# (https://github.com/pytorch/pytorch/issues/144455), and so it slowed all parts after the first.
TIMED = {
    "steps: autoencoder": partial(measure_steps, make=autoencoder, audited=True),
    "steps: ResNet-18, fp32": partial(measure_steps, make=resnet18),
    "steps: ResNet-18, bf16 autocast": partial(measure_steps, make=resnet18, autocast=True),
    "steps: transformer, fp32": partial(measure_steps, make=transformer),
    "steps: transformer, bf16 autocast": partial(measure_steps, make=transformer, autocast=True),
    "steps: large transformer, fp32": partial(measure_steps, make=large_transformer),
    "steps: large transformer, bf16 autocast": partial(measure_steps, make=large_transformer, autocast=True),
}
# What touches the GPU in this very process.
HERE = {"facts": measure_facts, "digest": measure_digest, "determinism": measure_determinism}
# What runs in processes of its own and gives verdicts: together.
TOGETHER = {
    "reference": measure_reference,
    "replicas": measure_replicas,
    "published": measure_published,
    "classifier": measure_classifier,
    "losses": measure_losses,
    "loops": measure_loops,
}
PARTS = HERE | TIMED | TOGETHER
# Those of which the CPU alone can take a few steps in seconds.
PRETENDED = [part for part in PARTS if part not in TIMED or part == "steps: autoencoder"]


def measure_timed(part: str, pretend: bool) -> dict[str, Any]:
    """A part that is timed, in a process that has done nothing else."""
    return TIMED[part](Bench(pretend=pretend))


def in_own_process(part: str, pretend: bool) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(measure_timed, part, pretend).result()


def summarize(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [f"# {results['facts']['gpu_name'] or 'the CPU in place of a GPU'}", ""]
    lines += [f"Made by `benchmarks/gpu.py` with torch {results['facts']['torch']}, CUDA {results['facts']['cuda']}, "]
    lines[-1] += f"driver {results['facts']['gpu_driver']}. Parts that are missing here were not measured."
    if "digest" in results:
        counts = results["digest"].values()
        lines += ["", "## Digest", ""]
        lines += ["| digest | computed by | tensors | dtypes | other than on the CPU | changed bits missed |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for kind, by, prefix in (("xxh3", "the CPU, from a copy", ""), ("words", "the GPU", "words_")):
            sums = [sum(each[prefix + name] for each in counts) for name in ("unequal", "changed_bits_missed")]
            tensors = sum(each["tensors"] for each in counts)
            lines += [f"| {kind} | {by} | {tensors} | {len(counts)} | {sums[0]} | {sums[1]} |"]
        largest = max(each["words_largest_distance"] for each in counts)
        lines += ["", f"Norms and sketches of the GPU are within {largest:.1g} norms of the CPU's."]
    if "published" in results:
        lines += ["", "## Published losses", "", "| device | compared | equal to 4 decimals | within 1e-4 |"]
        lines += ["| --- | --- | --- | --- |"]
        for device, row in results["published"].items():
            lines += [f"| {device} | {row['compared']} | {row['equal_to_4_decimals']} | {row['within_1e-4']} |"]
    for part in ("reference", "replicas", "classifier"):
        if part in results:
            lines += ["", f"## Verdicts: {part}", "", f"{len(results[part]['status_of_trials'])} trials in "]
            lines[-1] += f"{results[part]['seconds']:.0f} s, start included."
            lines += ["", "| baseline | candidate | verdict | cause | largest relative difference of the losses |"]
            lines += ["| --- | --- | --- | --- | --- |"]
            for pair in results[part]["pairs"]:
                lines += [f"| {pair['baseline']} | {pair['candidate']} | {pair['verdict']} | {pair['cause'] or ''} | "]
                lines[-1] += f"{pair['largest']['rel']:.2g} |"
    for part in ("losses", "loops"):
        if part in results:
            lines += ["", f"## Corpus of {part}", "", *results[part]["table"], ""]
            lines += [f"- {note}" for note in results[part]["notes"]]
    if "determinism" in results:
        lines += [
            "",
            "## The same loop twice",
            "",
            "| loop | verdict | first difference | cause |",
            "| --- | --- | --- | --- |",
        ]
        for name, row in results["determinism"].items():
            first = "" if row["first"] == "None None" else row["first"]
            lines += [f"| {name} | {row['verdict']} | {first} | {row['cause'] or ''} |"]
    timed = {part: found for part, found in results.items() if part in TIMED}
    if timed:
        lines += [
            "",
            "## A training step",
            "",
            "| loop | step | minimum | median | ratio | GPU busy | ratio | first steps | memory |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
    for part, found in timed.items():
        for name, row in found.items():
            lines += [f"| {part.removeprefix('steps: ')} | {name} | {row['minimum_ms']:.2f} ms | "]
            lines[-1] += f"{row['median_ms']:.2f} ms | {row['ratio_of_medians']:.2f} | "
            busy, of_bare = row["gpu_busy_ms"], found["bare"]["gpu_busy_ms"]
            lines[-1] += f"{busy:.2f} ms | {busy / of_bare:.2f} | " if busy else "| | "
            lines[-1] += "| " if row["first_steps_s"] is None else f"{row['first_steps_s']:.1f} s | "
            lines[-1] += "|" if row["peak_mib"] is None else f"{row['peak_mib']:.0f} MiB |"
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the parts that are asked for; exit status 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where to store the results (default: benchmarks/results/<gpu>)")
    parser.add_argument("--pretend", action="store_true", help="use the CPU in place of the GPU, with few steps")
    parser.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help=f"of: {', '.join(PARTS)}")
    options = parser.parse_args(arguments)
    if not options.pretend and not torch.cuda.is_available():
        parser.error("torch sees no CUDA GPU on this machine. Try the script with --pretend.")
    gpu = "pretend" if options.pretend else re.sub(r"\W+", "-", torch.cuda.get_device_name())
    out = options.out or ROOT / "benchmarks" / "results" / gpu
    out.mkdir(parents=True, exist_ok=True)
    stored = out / "results.json"
    results = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    bench = Bench(pretend=options.pretend)
    wanted = options.parts or (PRETENDED if options.pretend else [*PARTS])
    for part in set(wanted) & results.keys():
        print(f"{part}: stored already", flush=True)
    failed = False

    def store(part: str, measure: Callable[[], Any], began: float) -> None:
        nonlocal failed
        try:
            results[part] = measure()
        except Exception as error:  # noqa: BLE001 - the parts are independent, and a GPU is rarely at hand
            print(f"{part}: FAILED: {type(error).__name__}: {error}", flush=True)
            failed = True
            return
        # After each part: a machine with a GPU may be lent for minutes.
        stored.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
        if "facts" in results:
            (out / "summary.md").write_text(summarize(results), encoding="utf-8")

    missing = [part for part in PARTS if part in wanted and part not in results]
    for part in missing:
        if part in HERE:
            store(part, partial(HERE[part], bench), time.perf_counter())
        elif part in TIMED:
            store(part, partial(in_own_process, part, options.pretend), time.perf_counter())
    began = time.perf_counter()
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        futures: dict[str, Future[Any]] = {
            part: pool.submit(TOGETHER[part], bench) for part in missing if part in TOGETHER
        }
        for part, future in futures.items():
            store(part, future.result, began)
    print(f"Stored in {out}", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
