"""Injects faults into runs, goes on with them, and compares with a run that nothing befell.

    python benchmarks/faults.py [--seed N] [--rounds N]

Each round injects one fault (of "driver killed twice" two), at a random place. A round has survived if the run, gone
on with where that is needed, ends as an undisturbed one; it was refused if a command names what is damaged and ends
with status 2. Prints a row per kind: faults injected, rounds survived and refused, rows lost, rows of which any value
differs, the most seconds of steps that the journal has and no state, and the seconds of a round. Exits with 1 if a
round was neither, or a row was lost or changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil

from parity.events import Advanced, Ended, Restarted, Saved
from parity.journal import Journal

ROOT = Path(__file__).parent.parent
INLINE = ("--inline", "--device", "cpu", "--steps", "235", "--save-every", "0.3")
RAY = ("--device", "cpu", "--steps", "600", "--save-every", "0.5")
LIMIT_S = 300.0


@dataclass
class Round:
    """What became of a fault."""

    kind: str
    faults: int = 1
    outcome: str = "survived"
    lost: int = 0
    changed: int = 0
    again_s: float = 0.0
    seconds: float = 0.0
    note: str = ""


@dataclass
class Bench:
    """What the rounds share.

    Attributes:
        random: Chooses places.
        folder: Of all runs.
        whole: By arguments, an undisturbed run's directory, and how many seconds it took.
    """

    random: random.Random
    folder: Path
    whole: dict[tuple[str, ...], tuple[Path, float]] = field(default_factory=dict)

    def undisturbed(self, arguments: tuple[str, ...]) -> tuple[Path, float]:
        """An undisturbed run of these arguments, made when it is first asked for."""
        if arguments not in self.whole:
            out = self.folder / f"undisturbed-{len(self.whole)}"
            began = time.monotonic()
            ended = finish(start(out, *arguments))
            if ended != 0:
                raise SystemExit(f"The undisturbed run ended with {ended}: {log(out)}")
            self.whole[arguments] = (out, time.monotonic() - began)
        return self.whole[arguments]


def start(out: Path, *arguments: str, limit: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
    """Starts the command for a run directory; what it prints goes beside."""
    how = ("--resume", str(out)) if "--resume" in arguments else (*arguments, "--out", str(out))
    with beside(out).open("wb") as printed:
        command = [sys.executable, "-m", "parity.run", *how]
        return subprocess.Popen(command, cwd=ROOT, stdout=printed, stderr=printed, preexec_fn=limit)


def finish(process: subprocess.Popen[bytes]) -> int:
    """Waits for the command; returns its status."""
    return process.wait(LIMIT_S)


def beside(out: Path) -> Path:
    """Where a command's words go."""
    return out.with_name(f"{out.name}.log")


def log(out: Path) -> str:
    """The last words of a command."""
    return beside(out).read_text(errors="replace")[-600:]


def bits(out: Path) -> pd.DataFrame:
    """What must be equal, by trial and step."""
    table = pd.read_parquet(out / "traces").drop(columns="step_s")
    table = table.astype({"trial": str, "loss_name": str, "device": str}).set_index(["trial", "step"]).sort_index()
    for name in ("param_grad_digests", "param_digests"):
        table[name] = table[name].map(tuple)
    return table


def compare(result: Round, out: Path, whole: Path) -> None:
    """Counts rows that are missing, and those that differ."""
    have, want = bits(out), bits(whole)
    result.lost = len(want.index.difference(have.index))
    common = have.index.intersection(want.index)
    left, right = have.loc[common], want.loc[common]
    equal = (left == right) | (left.isna() & right.isna())
    result.changed = int((~equal.all(axis=1)).sum()) + len(have.index.difference(want.index))
    verdicts = [json.loads((side / "summary.json").read_text())["pairs"] for side in (out, whole)]
    if verdicts[0] != verdicts[1]:
        result.outcome, result.note = "WRONG", "another verdict"


def trained_again_s(out: Path) -> float:
    """Seconds of the steps that the journal has, and that no state has."""
    if not (out / "journal").exists():
        return 0.0
    copy = out.with_name(f"{out.name}.journal")  # reading cuts off a torn end
    shutil.copyfile(out / "journal", copy)
    since: dict[str, float] = defaultdict(float)
    with contextlib.closing(Journal(copy)) as journal:
        for _, event in journal.replay():
            match event:
                case Advanced():
                    since[event.trial] += sum(event.table["step_s"].to_pylist())
                case Saved() | Restarted():
                    since.pop(event.trial, None)
                case Ended():
                    since.pop(event.trial, None)
    copy.unlink()
    return max(since.values(), default=0.0)


def go_on(result: Round, out: Path, arguments: tuple[str, ...], whole: Path) -> None:
    """Ends the run by --resume, or by the command itself where nothing was planned yet."""
    result.again_s = max(result.again_s, trained_again_s(out))
    how = ("--resume",) if (out / "run.json").exists() else arguments
    status = finish(start(out, *how))
    if status != 0:
        result.outcome, result.note = "WRONG", f"status {status}: {log(out)}"
        return
    compare(result, out, whole)


def driver(*, sent: signal.Signals, times: int, arguments: tuple[str, ...]) -> Callable[[Bench, Path, Round], None]:
    """The driver is sent a signal, and the run gone on with; so often."""

    def inject(bench: Bench, out: Path, result: Round) -> None:
        whole, seconds = bench.undisturbed(arguments)
        result.faults = times
        for number in range(times):
            planned = number and (out / "run.json").exists()
            process = start(out, *(("--resume",) if planned else arguments))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(bench.random.uniform(0.2, seconds * (1.0 - 0.4 * bool(number))))
            process.send_signal(sent)
            finish(process)
            result.again_s = max(result.again_s, trained_again_s(out))
        go_on(result, out, arguments, whole)

    return inject


def worker(bench: Bench, out: Path, result: Round) -> None:
    """A Ray worker is killed; the driver goes on by itself."""
    whole, seconds = bench.undisturbed(RAY)
    process = start(out, *RAY)
    end = time.monotonic() + LIMIT_S
    victim = None
    while not victim and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
        victim = next((child for child in children(process) if named(child).startswith("ray::Worker")), None)
    time.sleep(bench.random.uniform(0, seconds * 0.4))
    if victim is None:
        result.outcome, result.note = "WRONG", "no worker was seen"
    else:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    status = finish(process)
    if status != 0:
        result.outcome, result.note = "WRONG", f"status {status}: {log(out)}"
        return
    compare(result, out, whole)


def children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Of the driver, Ray's among them."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def named(process: psutil.Process) -> str:
    """The process's title."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def full_disk(bench: Bench, out: Path, result: Round) -> None:
    """No file can grow beyond a random size; then there is room again."""
    whole, _ = bench.undisturbed(INLINE)
    size = int(10 ** bench.random.uniform(2, 7))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    status = finish(start(out, *INLINE, limit=limit))
    if status not in (0, 2) or "Traceback" in log(out):
        result.outcome, result.note = "WRONG", f"status {status}: {log(out)}"
    elif status == 2:
        go_on(result, out, INLINE, whole)
    else:
        compare(result, out, whole)


def stored_file(bench: Bench, out: Path, result: Round) -> None:
    """A file of a complete run is cut short, or a bit of it is flipped: it is named, or it makes no difference."""
    whole, _ = bench.undisturbed(INLINE)
    shutil.copytree(whole, out)
    path = bench.random.choice(sorted(path for path in out.rglob("*") if path.is_file()))
    result.note = spoil(bench, path)
    command = [sys.executable, "-m", "parity.report", str(out)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    undamaged = subprocess.run([*command[:-1], str(whole)], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    if ended.returncode == 2 and path.name in ended.stderr and "Traceback" not in ended.stderr:
        result.outcome = "refused"
    elif ended.returncode != 0 or ended.stdout != undamaged.stdout.replace(str(whole), str(out)):
        result.outcome, result.note = "WRONG", f"{result.note}: {ended.stdout}{ended.stderr}"


def journal(bench: Bench, out: Path, result: Round) -> None:
    """The driver is killed, and its journal is damaged: refused, and gone on with once it is whole again."""
    whole, seconds = bench.undisturbed(INLINE)
    process = start(out, *INLINE)
    time.sleep(bench.random.uniform(0.5, 0.9) * seconds)
    process.kill()
    finish(process)
    path = out / "journal"
    if path.exists() and path.stat().st_size:
        before = path.read_bytes()
        damaged = bytearray(before)
        place = bench.random.randrange(len(damaged))
        damaged[place] ^= 1 << bench.random.randrange(8)
        path.write_bytes(damaged)
        status = finish(start(out, "--resume"))
        told = log(out)
        if status == 2 and f"{path} is damaged at byte" in told:
            if path.read_bytes() != damaged:
                result.outcome, result.note = "WRONG", "the damaged journal was changed"
                return
            path.write_bytes(before)
            go_on(result, out, INLINE, whole)
            result.outcome = "refused" if result.outcome == "survived" else result.outcome
            return
        if status != 0:  # in the last frame, a damage is a torn end
            result.outcome, result.note = "WRONG", f"byte {place}, status {status}: {told}"
            return
        compare(result, out, whole)
        return
    go_on(result, out, INLINE, whole)


def spoil(bench: Bench, path: Path) -> str:
    """Cuts the file short, or flips one of its bits; says which."""
    content = bytearray(path.read_bytes())
    place = bench.random.randrange(len(content))
    if bench.random.random() < 0.5:
        path.write_bytes(content[:place])
        return f"{path.name} cut at {place}"
    content[place] ^= 1 << bench.random.randrange(8)
    path.write_bytes(content)
    return f"{path.name}: a bit of byte {place} flipped"


KINDS: dict[str, Callable[[Bench, Path, Round], None]] = {
    "driver killed": driver(sent=signal.SIGKILL, times=1, arguments=INLINE),
    "driver killed twice": driver(sent=signal.SIGKILL, times=2, arguments=INLINE),
    "driver interrupted": driver(sent=signal.SIGINT, times=1, arguments=INLINE),
    "driver terminated": driver(sent=signal.SIGTERM, times=1, arguments=INLINE),
    "driver killed (Ray)": driver(sent=signal.SIGKILL, times=1, arguments=RAY),
    "worker killed (Ray)": worker,
    "disk full": full_disk,
    "stored file damaged": stored_file,
    "journal damaged": journal,
}


def main() -> int:
    """Runs the campaign; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=len(KINDS))
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    # A shell's background job ignores Ctrl-C, and the runs would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    results: list[Round] = []
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="faults-") as folder:
        bench = Bench(random.Random(options.seed), Path(folder))
        for number in range(options.rounds):
            kind = options.kind[number % len(options.kind)]
            result = Round(kind)
            began = time.monotonic()
            KINDS[kind](bench, Path(folder) / f"run-{number}", result)
            result.seconds = time.monotonic() - began
            if result.outcome == "WRONG" or result.lost or result.changed:
                print(f"round {number}: {result}", flush=True)
            results.append(result)
            shutil.rmtree(Path(folder) / f"run-{number}", ignore_errors=True)
    return show(results)


def show(results: list[Round]) -> int:
    """Prints the table; returns the exit status."""
    print("| fault | injected | survived | refused | rows lost | rows changed | trained again | a round |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for kind in [*KINDS, "all"]:
        some = [result for result in results if kind in (result.kind, "all")]
        if some:
            counts = [sum(result.faults for result in some)]
            counts += [sum(result.outcome == outcome for result in some) for outcome in ("survived", "refused")]
            counts += [sum(result.lost for result in some), sum(result.changed for result in some)]
            again = max(result.again_s for result in some)
            seconds = sum(result.seconds for result in some) / len(some)
            print(f"| {kind} | {' | '.join(map(str, counts))} | {again:.1f} s | {seconds:.1f} s |")
    wrong = any(result.outcome == "WRONG" or result.lost or result.changed for result in results)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
