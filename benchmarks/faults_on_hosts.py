"""The campaign of faults.py on hosts that are really apart: `python benchmarks/faults.py --hosts`.

h1 is the head of a Ray cluster, the driver runs on h2, and most faults meet h3. Each round trains one trial on each
host and injects one fault at a random moment. A run that ends with status 2 is continued with --resume once the cluster
is whole again. A round has survived if all traces are then those of an undisturbed run, nobody is accused, no wait was
longer than its kind allows, and no process or file of the run is left on any host.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from benchmarks.faults import bits, kept_events
from benchmarks.hosts import ROOT, SHARED, Command, HostError, Hosts, hosts, why_not
from parity.store.events import Advanced
from parity.store.journal import JOURNAL

HOSTS = HEAD, DRIVER, VICTIM = "h1", "h2", "h3"
LOSS = ("--loss", "tests/hosts/slow_loss.py:slow", "--steps", "150", "--batch-size", "32", "--save-every", "0.5")
TRAINING = ("--each", "node", "--quick", "--step-timeout", "30", *LOSS)
# In a temporary folder: made by Ray as long as the cluster lives, and by torch whenever it is imported.
OF_OTHERS = {"ray", "torchinductor_root"}
# Longest wait for the next step where nothing has to be noticed but an end: a new worker has to import torch, which
# takes 10 s on a busy machine, and Ray waits some seconds before it calls an end an end.
ENDED_S = 45.0
# Ray gives up a host that is silent after 65 s at most, as `health_check` in ray, src/ray/common/ray_config_def.h says.
SILENT_S = 65.0 + ENDED_S
# The driver gives up the head after 40 s, and looks every 5 s.
HEAD_S = 50.0
# Most seconds until a process of the run has ended after its driver. After 60 s without a head, Ray's own end.
LEFT_S = 90.0
LIMIT_S = 300.0
# Waits until the nodes of a cluster are just these, each of them once.
WHOLE = """
import sys, time
import ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
for attempt in range(150):
    names = sorted(node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"])
    if names == sys.argv[2:]:
        sys.exit()
    time.sleep(1)
sys.exit(str(names))
"""
TMP_MIB = 256


@dataclass
class Round:
    """What became of a fault; `wrong` says what was not as it has to be."""

    kind: str
    lost: int = 0
    changed: int = 0
    accused: int = 0
    waited_s: float = 0.0
    left: int = 0
    seconds: float = 0.0
    status: int | None = None
    wrong: list[str] = field(default_factory=list)


@dataclass
class Bench:
    """What the rounds share.

    Attributes:
        hosts: The hosts, with a cluster.
        random: Chooses moments.
        spoilt: Hosts that have to be booted again before the next run.
        undisturbed: The bits of an undisturbed run.
    """

    hosts: Hosts
    random: random.Random
    spoilt: set[str] = field(default_factory=set)
    undisturbed: pd.DataFrame | None = None

    def repair(self) -> None:
        """Boots the hosts that are spoilt; with the head, all of them."""
        for name in self.hosts.names:
            if {name, HEAD} & self.spoilt:
                self.stop(name)
        names = [name for name in self.hosts.names if name not in self.hosts.running]
        for name in names:
            self.hosts.boot(name, tmp_mib=TMP_MIB)
        self.start_ray(names)
        self.spoilt.clear()

    def stop(self, name: str) -> None:
        """Ends a host; first its raylet, which takes leave of the cluster, where a lost host is missed much later."""
        if name in self.hosts.running and self.hosts.signal(name, signal.SIGTERM, "raylet"):
            end_s = time.monotonic() + ENDED_S
            while self.hosts.processes(name, "raylet") and time.monotonic() < end_s:
                time.sleep(0.2)
        self.hosts.crash(name)

    def start_ray(self, names: Sequence[str]) -> None:
        """Starts Ray on hosts; returns once the cluster has just these and those that it had, and none of them twice.

        Raises:
            HostError: It does not come to that.
        """
        if names:
            self.hosts.start_ray(names)
            seen = self.hosts.start(HEAD, sys.executable, "-c", WHOLE, self.hosts.cluster, *self.hosts.names)
            if seen.wait() != 0:
                raise HostError(f"The cluster did not become whole: {seen.text()}")


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        inject: Does it to the hosts, and to the driver's command; None where `prepare` has done it.
        prepare: Is done before the run begins.
        undo: Is done when the command has ended.
        spoils: Hosts that are booted again after the round.
        ends: Statuses with which the command may end; it is continued unless it ends with the last one.
        says: What it has to print.
        limit_s: Longest wait for the next step.
    """

    inject: Callable[[Bench, Command], object] | None = None
    prepare: Callable[[Bench], object] | None = None
    undo: Callable[[Bench], object] | None = None
    spoils: tuple[str, ...] = ()
    ends: tuple[int, ...] = (0,)
    says: str = ""
    limit_s: float = ENDED_S


def kill_driver(_bench: Bench, run: Command) -> None:
    """Kills the driver."""
    run.send(signal.SIGKILL)


def lose_power(bench: Bench, _run: Command) -> None:
    """Ends the head's host, with all that runs there."""
    bench.hosts.crash(HEAD)


def cut(name: str) -> Callable[[Bench, Command], None]:
    """Takes a host's link down."""
    return lambda bench, _run: bench.hosts.cut(name)


def heal(name: str) -> Callable[[Bench], None]:
    """Takes a host's link up again."""
    return lambda bench: bench.hosts.heal(name)


def to_host(name: str, number: signal.Signals, called: str | None = None) -> Callable[[Bench, Command], None]:
    """Sends a signal to the processes of a host, or to those of a name."""

    def inject(bench: Bench, _run: Command) -> None:
        if not bench.hosts.signal(name, number, called):
            raise HostError(f"{name} has no process {called or 'at all'}")

    return inject


def thaw(bench: Bench) -> None:
    """Lets all go on that was frozen."""
    for name in bench.hosts.running:
        bench.hosts.signal(name, signal.SIGCONT)


def to_worker(number: signal.Signals) -> Callable[[Bench, Command], None]:
    """Sends a signal to the victim's worker: to Ray's process and to that of the trial."""

    def inject(bench: Bench, _run: Command) -> None:
        workers = [each for each in bench.hosts.processes(VICTIM) if " ".join(each.cmdline()).startswith("ray::Worker")]
        if not workers:
            raise HostError(f"{VICTIM} has no worker")
        for process in workers:
            process.send_signal(number)

    return inject


def cut_for_12_s(bench: Bench, _run: Command) -> None:
    """Takes the victim's link down for 12 s."""
    bench.hosts.cut(VICTIM)
    time.sleep(12)
    bench.hosts.heal(VICTIM)


def fill(bench: Bench, _run: Command) -> None:
    """Fills the temporary folder of the victim, or that of the driver's host."""
    name = bench.random.choice([VICTIM, DRIVER])
    with contextlib.suppress(OSError), (bench.hosts.path(name, "/tmp") / "filled").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))


def empty(bench: Bench) -> None:
    """Removes what `fill` has written."""
    for name in (VICTIM, DRIVER):
        (bench.hosts.path(name, "/tmp") / "filled").unlink(missing_ok=True)


def set_clock(bench: Bench) -> None:
    """Starts the victim with a clock that is an hour ahead or behind."""
    restart(bench, clock_s=bench.random.choice([-3600.0, 3600.0]))


def change_code(bench: Bench) -> None:
    """Starts the victim with another copy of parity."""
    code = bench.hosts.shared.parent / "other"
    if not code.exists():
        for name in ("parity", "tests"):
            shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
        with (code / "parity" / "train" / "step.py").open("a") as file:
            file.write("\n# Of another commit.\n")
    restart(bench, code=code)


def restart(bench: Bench, *, code: Path = ROOT, clock_s: float = 0.0) -> None:
    """Boots the victim anew, and starts Ray there."""
    bench.stop(VICTIM)
    bench.hosts.boot(VICTIM, tmp_mib=TMP_MIB, code=code)
    if clock_s:
        bench.hosts.set_clock(VICTIM, clock_s)
    bench.start_ray([VICTIM])


KINDS = {
    "raylet killed": Kind(to_host(VICTIM, signal.SIGKILL, "raylet"), spoils=(VICTIM,)),
    "worker killed": Kind(to_worker(signal.SIGKILL)),
    "driver killed": Kind(kill_driver, ends=(-signal.SIGKILL,)),
    "head killed": Kind(lose_power, spoils=(HEAD,), ends=(2,), says="--resume", limit_s=HEAD_S),
    "link cut for 12 s": Kind(cut_for_12_s, spoils=(VICTIM,), limit_s=12 + ENDED_S),
    "link cut for good": Kind(cut(VICTIM), undo=heal(VICTIM), spoils=(VICTIM,), limit_s=SILENT_S),
    "worker frozen": Kind(to_worker(signal.SIGSTOP), limit_s=30 + ENDED_S),
    "host frozen": Kind(to_host(VICTIM, signal.SIGSTOP), undo=thaw, spoils=(VICTIM,), limit_s=SILENT_S),
    "head's control process frozen": Kind(
        to_host(HEAD, signal.SIGSTOP, "gcs_server"), undo=thaw, spoils=(HEAD,), ends=(2, 0), limit_s=HEAD_S
    ),
    "driver's host cut off": Kind(
        cut(DRIVER), undo=heal(DRIVER), spoils=(DRIVER,), ends=(2,), says="--resume", limit_s=HEAD_S
    ),
    "temporary folder full": Kind(fill, undo=empty, spoils=(VICTIM, DRIVER), ends=(2, 0)),
    "clock an hour off": Kind(prepare=set_clock, spoils=(VICTIM,)),
    # Exit status 3: the devices are not compared, and nothing is left to continue.
    "other code on one host": Kind(prepare=change_code, spoils=(VICTIM,), ends=(3,), says="code differs"),
}
CONTINUED = {2, -signal.SIGKILL}


def campaign(seed: int, rounds: int, kinds: Iterable[str]) -> int:
    """Runs the rounds and prints the table; returns the exit status."""
    if reason := why_not():
        print(f"faults.py: {reason}.", file=sys.stderr)
        return 2
    chosen, results = list(kinds), []
    with contextlib.suppress(KeyboardInterrupt), hosts(len(HOSTS)) as made:
        bench = Bench(made, random.Random(seed), set(made.names))
        for number in range(rounds):
            result = Round(chosen[number % len(chosen)])
            began = time.monotonic()
            try:
                one_round(bench, KINDS[result.kind], f"run-{number}", result)
            except HostError as error:
                result.wrong.append(str(error))
                bench.spoilt |= set(HOSTS)
            result.seconds = time.monotonic() - began
            results.append(result)
            what = "; ".join(result.wrong) or "survived"
            print(
                f"round {number}, {result.kind}, status {result.status}, longest wait {result.waited_s:.0f} s, ", end=""
            )
            print(f"{result.seconds:.0f} s in all: {what}", flush=True)
    return show(results)


def one_round(bench: Bench, kind: Kind, name: str, result: Round) -> None:
    """Injects one fault, continues the run where that is needed, and compares."""
    bench.repair()
    if bench.undisturbed is None:
        bench.undisturbed = undisturbed(bench)
    if kind.prepare:
        kind.prepare(bench)
    out = bench.hosts.shared / name
    before = {host: running(bench, host) for host in bench.hosts.names}
    run = bench.hosts.parity(DRIVER, "parity.run", "--address", bench.hosts.cluster, *TRAINING, "--out", inside(out))
    until_training(run, out)
    time.sleep(bench.random.uniform(0, 8))
    if kind.inject:
        kind.inject(bench, run)
    result.waited_s = watch(run, out)
    if result.waited_s > kind.limit_s:
        result.wrong.append(f"nothing came for {result.waited_s:.0f} s, of {kind.limit_s:.0f} s that it may take")
    result.status = end(run, result)
    if kind.undo:
        kind.undo(bench)
    if result.status not in kind.ends or kind.says not in run.text():
        result.wrong.append(f"status {result.status}: {run.text()[-600:]}")
    note_left(bench, before, result)
    bench.spoilt |= set(kind.spoils)
    if result.status in CONTINUED:
        go_on(bench, out, result)
    compare(bench.undisturbed, out, result)


def undisturbed(bench: Bench) -> pd.DataFrame:
    """The bits of an undisturbed run on these hosts.

    Raises:
        HostError: It did not end well.
    """
    out = bench.hosts.shared / "undisturbed"
    run = bench.hosts.parity(DRIVER, "parity.run", "--address", bench.hosts.cluster, *TRAINING, "--out", inside(out))
    if run.wait(LIMIT_S) != 0:
        raise HostError(f"The undisturbed run failed: {run.text()}")
    return bits(out)


def inside(out: Path) -> str:
    """A run directory as the hosts know it."""
    return str(SHARED / out.name)


def size(out: Path) -> int:
    """Size of a run's journal."""
    with contextlib.suppress(OSError):
        return (out / JOURNAL).stat().st_size
    return 0


def until_training(run: Command, out: Path) -> None:
    """Waits until the journal has steps of all trials.

    Raises:
        HostError: The training did not begin.
    """
    end_s = time.monotonic() + LIMIT_S
    while len({event.trial for event in kept_events(out) if isinstance(event, Advanced)}) < len(HOSTS):
        if run.entered.poll() is not None or time.monotonic() > end_s:
            raise HostError(f"The training did not begin: {run.text()}")
        time.sleep(0.2)


def watch(run: Command, out: Path) -> float:
    """Waits for the command, for `LIMIT_S` at most; returns the longest wait for something new in its journal."""
    waited_s, have, since = 0.0, size(out), time.monotonic()
    end_s = time.monotonic() + LIMIT_S
    while run.entered.poll() is None and time.monotonic() < end_s:
        time.sleep(0.2)
        if size(out) != have:
            have, since = size(out), time.monotonic()
        waited_s = max(waited_s, time.monotonic() - since)
    return waited_s


def end(run: Command, result: Round) -> int | None:
    """The command's status; None if it had to be killed."""
    if run.entered.poll() is None:
        result.wrong.append(f"it did not end within {LIMIT_S:.0f} s")
        run.send(signal.SIGKILL)
        run.wait()
        return None
    return run.wait()


def running(bench: Bench, host: str) -> dict[int, str]:
    """The processes of a host."""
    found = {}
    if host in bench.hosts.running:
        for process in bench.hosts.processes(host):
            with contextlib.suppress(OSError):
                found[process.pid] = Path(f"/proc/{process.pid}/cmdline").read_text().replace("\0", " ")[:80].strip()
    return found


def note_left(bench: Bench, before: dict[str, dict[int, str]], result: Round) -> None:
    """Counts processes and files of the run that are still on the hosts, once they had time to end."""

    def left() -> list[str]:
        found = []
        for host in bench.hosts.running:
            now = running(bench, host)
            found += [f"{host}: {now[pid]}" for pid in now.keys() - before[host].keys()]
            names = {path.name for path in bench.hosts.path(host, "/tmp").iterdir()} - OF_OTHERS
            found += [f"{host}: /tmp/{name}" for name in sorted(names)]
        return found

    end_s = time.monotonic() + LEFT_S
    while left() and time.monotonic() < end_s:
        time.sleep(1)
    found = left()
    result.left = len(found)
    if found:
        result.wrong.append(f"left behind: {', '.join(found)}")


def go_on(bench: Bench, out: Path, result: Round) -> None:
    """Ends the run with --resume, on a cluster that is whole."""
    bench.repair()
    run = bench.hosts.parity(DRIVER, "parity.run", "--resume", inside(out))
    if (status := run.wait(LIMIT_S)) != 0:
        result.wrong.append(f"continued, status {status}: {run.text()[-600:]}")


def compare(want: pd.DataFrame, out: Path, result: Round) -> None:
    """Counts rows that are missing, rows that differ, and devices and losses that are accused."""
    if not (out / "summary.json").exists():
        result.wrong.append("it has no verdict")
        return
    have = bits(out)
    common = have.index.intersection(want.index)
    left, right = have.loc[common], want.loc[common]
    equal = (left == right) | (left.isna() & right.isna())
    result.lost = len(want.index.difference(have.index))
    result.changed = int((~equal.all(axis=1)).sum()) + len(have.index.difference(want.index))
    pairs = json.loads((out / "summary.json").read_text())["pairs"]
    result.accused = sum(pair["verdict"] in ("diverged", "failed") for pair in pairs)
    if result.lost or result.changed or result.accused:
        result.wrong.append(f"{result.lost} rows lost, {result.changed} changed, {result.accused} accused")


def show(results: list[Round]) -> int:
    """Prints the table; returns the exit status."""
    print("| fault | injected | survived | rows lost | rows changed | accused | longest wait | left behind | a round |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for kind in [*KINDS, "all"]:
        some = [result for result in results if kind in (result.kind, "all")]
        if some:
            counts = [len(some), sum(not result.wrong for result in some)]
            counts += [sum(getattr(result, name) for result in some) for name in ("lost", "changed", "accused")]
            waited_s = max(result.waited_s for result in some)
            left, mean_s = sum(result.left for result in some), sum(result.seconds for result in some) / len(some)
            print(f"| {kind} | {' | '.join(map(str, counts))} | {waited_s:.0f} s | {left} | {mean_s:.0f} s |")
    return 1 if any(result.wrong for result in results) else 0
