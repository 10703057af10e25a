"""Injects faults into runs, goes on with them, and compares with a run that nothing befell.

    python benchmarks/faults.py [--hosts] [--seed N] [--rounds N] [--kind KIND ...]

Each round injects one fault (of "driver killed twice" two, of "ten kills" ten), at a random place. A round has survived
if the run, gone on with where that is needed, ends as an undisturbed one; it was refused if a command names what is
damaged and ends with status 2. Prints a row per kind: faults injected, rounds survived and refused, rows lost, rows of
which any value differs, and the most seconds of steps that the journal has and no state; of a killed worker what it
costs beside the undisturbed run, and by how much it delays the other trial; and the mean seconds of a round. Exits
with 1 if a round was neither, or a row was lost or changed.

With --hosts the faults are those of hosts that are really apart; see `benchmarks/faults_on_hosts.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import psutil
from upath import UPath

sys.path.insert(0, str(Path(__file__).parent.parent))  # also where parity is installed from elsewhere

from benchmarks.s3_server import BUCKET, Server, serve
from parity.store.events import Advanced, Ended, Event, Restarted, Saved
from parity.store.journal import Journal
from parity.store.storage import StoragePath, exists, read

ROOT = Path(__file__).parent.parent
INLINE = ("--inline", "--device", "cpu", "--steps", "235", "--save-every", "0.3")
RAY = ("--device", "cpu", "--steps", "600", "--save-every", "0.5")
REFERENCE = ("--inline", "--device", "cpu", "--save-every", "0.3")
LIMIT_S = 300.0
# Of Ray's calls to workers, so many are lost, or their answers.
RPC_FAILURES = {
    "CoreWorkerService.grpc_client.PushTask": {
        "num_failures": 4,
        "req_failure_prob": 20,
        "resp_failure_prob": 20,
        "in_flight_failure_prob": 0,
    }
}
# A clock that is set forth and back by hours, again and again.
JUMPING = """
import random, runpy, sys, time
genuine, chosen, state = time.time, random.Random({seed}), [0.0, 0.0]

def jumping():
    if time.monotonic() > state[0]:
        state[:] = [time.monotonic() + chosen.uniform(0.1, 0.5), chosen.uniform(-1e5, 1e5)]
    return genuine() + state[1]

time.time = jumping
sys.argv = ["parity.run", *sys.argv[1:]]
runpy.run_module("parity.run", run_name="__main__")
"""
# A head that trains nothing and two nodes for one trial each; kills the one that a line on stdin names.
NODES = """
import sys
from ray.cluster_utils import Cluster
quick = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 200,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 10,
}
common = {"object_store_memory": 150 * 2**20}
head = {**common, "num_cpus": 0, "node_name": "a", "include_dashboard": False, "_system_config": quick}
cluster = Cluster(initialize_head=True, head_node_args=head)
nodes = {name: cluster.add_node(node_name=name, num_cpus=1, **common) for name in "bc"}
print("address", cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes[line.strip()], allow_graceful=False)
cluster.shutdown()
"""
CLUSTER = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "token-of-the-nodes-of-the-campaign-0123456789",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


@dataclass
class Round:
    """What became of a fault."""

    kind: str
    faults: int = 1
    outcome: str = "survived"
    lost: int = 0
    changed: int = 0
    again_s: float = 0.0
    cost_s: float | None = None
    delay_s: float | None = None
    seconds: float = 0.0
    note: str = ""


@dataclass
class Bench:
    """What the rounds share.

    Attributes:
        random: Chooses places.
        folder: Of all runs.
        whole: By arguments, an undisturbed run's directory, and how many seconds it took.
        held: Ends what was started for several rounds.
    """

    random: random.Random
    folder: Path
    held: contextlib.ExitStack
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

    @cached_property
    def server(self) -> Server:
        """An S3-compatible server, started when it is first asked for."""
        server = self.held.enter_context(serve())
        os.environ.update(server.environment)
        fsspec.config.set_conf_env(fsspec.config.conf)
        return server


def start(
    out: StoragePath,
    *arguments: str,
    command: tuple[str, ...] = ("-m", "parity.run"),
    limit: Callable[[], None] | None = None,
    **environment: str,
) -> subprocess.Popen[bytes]:
    """Starts the command for a run directory; what it prints goes beside."""
    how = ("--resume", str(out)) if "--resume" in arguments else (*arguments, "--out", str(out))
    with beside(out).open("wb") as printed:
        return subprocess.Popen(
            [sys.executable, *command, *how],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=printed,
            stderr=printed,
            preexec_fn=limit,
        )


def finish(process: subprocess.Popen[bytes]) -> int:
    """Waits for the command; returns its status."""
    return process.wait(LIMIT_S)


def beside(out: StoragePath) -> Path:
    """Where a command's words go."""
    return out.with_name(f"{out.name}.log") if isinstance(out, Path) else Path(tempfile.gettempdir()) / "faults-s3.log"


def log(out: StoragePath) -> str:
    """The last words of a command."""
    return beside(out).read_text(errors="replace")[-600:]


def bits(out: StoragePath) -> pd.DataFrame:
    """What must be equal, by trial and step."""
    table = pd.read_parquet(str(out / "traces")).drop(columns="step_s")
    table = table.astype({"trial": str, "loss_name": str, "device": str}).set_index(["trial", "step"]).sort_index()
    for name in table.select_dtypes(["object", "str"]):
        table[name] = table[name].map(comparable)
    return table


def comparable(value: object) -> object:
    """A value of a trace that equals another one if its bits do: lists are arrays, which compare element by element."""
    if not isinstance(value, np.ndarray):
        return value
    return tuple(map(comparable, value)) if value.dtype == object else value.tobytes()


def compare(result: Round, out: StoragePath, whole: Path) -> None:
    """Counts rows that are missing, and those that differ."""
    have, want = bits(out), bits(whole)
    result.lost = len(want.index.difference(have.index))
    common = have.index.intersection(want.index)
    left, right = have.loc[common], want.loc[common]
    equal = (left == right) | (left.isna() & right.isna())
    result.changed = int((~equal.all(axis=1)).sum()) + len(have.index.difference(want.index))
    verdicts = [json.loads(read(side / "summary.json"))["pairs"] for side in (out, whole)]
    if verdicts[0] != verdicts[1]:
        result.outcome, result.note = "WRONG", "another verdict"


def kept_events(out: Path) -> Iterator[Event]:
    """What the journal has by now."""
    if not (out / "journal").exists():
        return
    copy = out.with_name(f"{out.name}.journal")  # reading cuts off a torn end
    shutil.copyfile(out / "journal", copy)
    with contextlib.closing(Journal(copy)) as journal:
        yield from (event for _, event in journal.replay())
    copy.unlink()


def trained_again_s(out: Path) -> float:
    """Seconds of the steps that the journal has, and that no state has."""
    since: dict[str, float] = defaultdict(float)
    for event in kept_events(out):
        match event:
            case Advanced():
                since[event.trial] += sum(event.table["step_s"].to_pylist())
            case Saved() | Restarted() | Ended():
                since.pop(event.trial, None)
    return max(since.values(), default=0.0)


def told_rows(out: Path) -> int:
    """Rows of all traces that the journal has."""
    rows: dict[str, int] = defaultdict(int)
    for event in kept_events(out):
        match event:
            case Advanced():
                rows[event.trial] += event.rows
            case Restarted():
                rows[event.trial] = event.step
    return sum(rows.values())


def go_on(result: Round, out: StoragePath, arguments: tuple[str, ...], whole: Path) -> None:
    """Ends the run by --resume, or by the command itself where nothing was planned yet."""
    if isinstance(out, Path):
        result.again_s = max(result.again_s, trained_again_s(out))
    how = ("--resume",) if exists(out / "run.json") else arguments
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
    began = time.monotonic()
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
    unharmed(result, out, whole, process)
    if result.outcome == "survived":
        result.cost_s = time.monotonic() - began - seconds
        sides = [pd.read_parquet(side / "trials.parquet").set_index("trial") for side in (out, whole)]
        others = [name for name, restarts in sides[0].restarts.items() if not len(restarts)]
        result.delay_s = max((sides[0].wall_s[name] - sides[1].wall_s[name] for name in others), default=0.0)


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
    elif ended.returncode == 0 and re.match(
        rf"Altered since the run was stored:\s[^:]*{re.escape(path.name)}", ended.stdout
    ):
        result.note += ": named"
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
        logged = log(out)
        if status == 2 and f"{path} is damaged at byte" in logged:
            if path.read_bytes() != damaged:
                result.outcome, result.note = "WRONG", "the damaged journal was changed"
                return
            path.write_bytes(before)
            go_on(result, out, INLINE, whole)
            result.outcome = "refused" if result.outcome == "survived" else result.outcome
            return
        if status != 0:  # in the last frame, a damage is a torn end
            result.outcome, result.note = "WRONG", f"byte {place}, status {status}: {logged}"
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


def ten_kills(bench: Bench, out: Path, result: Round) -> None:
    """The driver of the reference run is killed ten times, at each tenth of its rows, and gone on with each time."""
    whole, _ = bench.undisturbed(REFERENCE)
    rows = len(bits(whole))
    result.faults = 10
    for number in range(10):
        planned = (out / "run.json").exists()
        process = start(out, *(("--resume",) if planned else REFERENCE))
        due = bench.random.uniform(number + 0.1, number + 0.9) * rows / 10
        while told_rows(out) < due and process.poll() is None:
            time.sleep(0.05)
        if process.poll() is not None:
            result.outcome, result.note = "WRONG", f"it ended before kill {number}: {log(out)}"
            return
        process.kill()
        finish(process)
        result.again_s = max(result.again_s, trained_again_s(out))
    go_on(result, out, REFERENCE, whole)


def unharmed(result: Round, out: StoragePath, whole: Path, process: subprocess.Popen[bytes]) -> None:
    """Waits for a run that has to end by itself as if nothing had befallen it."""
    status = finish(process)
    if status != 0:
        result.outcome, result.note = "WRONG", f"status {status}: {log(out)}"
    else:
        compare(result, out, whole)


def clock(bench: Bench, out: Path, result: Round) -> None:
    """The clock is set forth and back while the run goes on."""
    whole, _ = bench.undisturbed(INLINE)
    jumping = JUMPING.format(seed=bench.random.randrange(2**32))
    unharmed(result, out, whole, start(out, *INLINE, command=("-c", jumping)))


def rpc_failures(bench: Bench, out: Path, result: Round) -> None:
    """Calls to workers are lost, or their answers, as Ray's own switch has it."""
    whole, _ = bench.undisturbed(RAY)
    unharmed(result, out, whole, start(out, *RAY, RAY_testing_rpc_failure=json.dumps(RPC_FAILURES)))


def node(bench: Bench, out: Path, result: Round) -> None:
    """A node is killed that trains; its trial goes on on the other one."""
    whole, seconds = bench.undisturbed(RAY)
    with (
        tempfile.TemporaryDirectory(prefix="nodes-", ignore_cleanup_errors=True) as folder,
        subprocess.Popen(
            [sys.executable, "-c", NODES],
            env={**os.environ, **CLUSTER, "RAY_TMPDIR": folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as cluster,
    ):
        assert cluster.stdin and cluster.stdout
        address = next((line.split()[1] for line in cluster.stdout if line.startswith("address ")), None)
        if address is None:
            result.outcome, result.note = "WRONG", "Ray's cluster could not be started"
            return
        process = start(out, *RAY, "--address", address, **CLUSTER)
        time.sleep(bench.random.uniform(0.3, 0.9) * seconds)
        cluster.stdin.write(f"{bench.random.choice('bc')}\n")
        cluster.stdin.flush()
        unharmed(result, out, whole, process)
        cluster.stdin.close()
        cluster.wait(LIMIT_S)


def store_driver(bench: Bench, out: Path, result: Round) -> None:
    """The driver of a run straight to an object store is killed, and the run gone on with."""
    whole, seconds = bench.undisturbed(INLINE)
    place = in_bucket(bench, out)
    process = start(place, *INLINE)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(bench.random.uniform(0.2, 1.0) * seconds)
    process.kill()
    finish(process)
    go_on(result, place, INLINE, whole)


def store_errors(bench: Bench, out: Path, result: Round) -> None:
    """An object store refuses requests, loses answers and is silent, now and then."""
    whole, _ = bench.undisturbed(INLINE)
    place = in_bucket(bench, out)
    faults = bench.server.faults
    faults.share, faults.chosen = 0.1, random.Random(bench.random.randrange(2**32))
    before = sum(faults.failed.values())
    status = finish(start(place, *INLINE))
    faults.share = 0.0
    result.faults = max(1, sum(faults.failed.values()) - before)
    if status == 2 and "Traceback" not in log(place):
        go_on(result, place, INLINE, whole)
    elif status != 0:
        result.outcome, result.note = "WRONG", f"status {status}: {log(place)}"
    else:
        compare(result, place, whole)


def in_bucket(bench: Bench, out: Path) -> UPath:
    """Where a run of that name is in the store."""
    return UPath(
        f"s3://{BUCKET}/{out.name}", endpoint_url=bench.server.environment["AWS_ENDPOINT_URL"], use_listings_cache=False
    )


KINDS: dict[str, Callable[[Bench, Path, Round], None]] = {
    "driver killed": driver(sent=signal.SIGKILL, times=1, arguments=INLINE),
    "driver killed twice": driver(sent=signal.SIGKILL, times=2, arguments=INLINE),
    "driver interrupted": driver(sent=signal.SIGINT, times=1, arguments=INLINE),
    "driver terminated": driver(sent=signal.SIGTERM, times=1, arguments=INLINE),
    "ten kills": ten_kills,
    "clock jumps": clock,
    "driver killed (Ray)": driver(sent=signal.SIGKILL, times=1, arguments=RAY),
    "worker killed (Ray)": worker,
    "node killed (Ray)": node,
    "RPC failures (Ray)": rpc_failures,
    "driver killed (store)": store_driver,
    "store errs": store_errors,
    "disk full": full_disk,
    "stored file damaged": stored_file,
    "journal damaged": journal,
}


def main() -> int:
    """Runs the campaign; returns the exit status."""
    from benchmarks import faults_on_hosts  # which uses this module

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", action="store_true", help="on separate hosts, made of Linux namespaces; needs root")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, help="default: one of each kind")
    parser.add_argument("--kind", nargs="+", choices=[*KINDS, *faults_on_hosts.KINDS], help="default: all")
    options = parser.parse_args()
    known = list(faults_on_hosts.KINDS if options.hosts else KINDS)
    kinds = options.kind or known
    if unknown := [kind for kind in kinds if kind not in known]:
        parser.error(f"--kind {unknown[0]!r} is one of those {'without' if options.hosts else 'with'} --hosts")
    rounds = len(kinds) if options.rounds is None else options.rounds
    # A shell's background job ignores Ctrl-C, and the runs would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended
    if options.hosts:
        return faults_on_hosts.campaign(options.seed, rounds, kinds)
    results: list[Round] = []
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="faults-"))
        bench = Bench(random.Random(options.seed), Path(folder), held)
        for number in range(rounds):
            kind = kinds[number % len(kinds)]
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
    print(
        "| fault | injected | survived | refused | rows lost | rows changed | trained again | cost | delay | a round |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for kind in [*KINDS, "all"]:
        some = [result for result in results if kind in (result.kind, "all")]
        if some:
            counts = [sum(result.faults for result in some)]
            counts += [sum(result.outcome == outcome for result in some) for outcome in ("survived", "refused")]
            counts += [sum(result.lost for result in some), sum(result.changed for result in some)]
            again = max(result.again_s for result in some)
            seconds = sum(result.seconds for result in some) / len(some)
            worst = [max(known, default=None) for known in (_known(some, "cost_s"), _known(some, "delay_s"))]
            times = " | ".join("" if value is None else f"{value:.1f} s" for value in (again, *worst, seconds))
            print(f"| {kind} | {' | '.join(map(str, counts))} | {times} |")
    wrong = any(result.outcome == "WRONG" or result.lost or result.changed for result in results)
    return 1 if wrong else 0


def _known(results: list[Round], name: str) -> list[float]:
    return [value for value in (getattr(result, name) for result in results) if value is not None]


if __name__ == "__main__":
    sys.exit(main())
