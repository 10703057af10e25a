"""What `parity.run` does with a request: plans the trials, trains them, stores their traces, judges and reports.

These imports take half a second, in which Ray starts already: `run` imports this module after that.
"""

import argparse
import contextlib
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.cluster import placement
from parity.cluster.connection import connect
from parity.cluster.nodes import Node, as_stored, from_stored
from parity.cluster.starting import Early
from parity.cluster.workers import Cluster
from parity.driver import finish_recording, judge_run, repeat_odd_trials, seal_run, train, write_page
from parity.ground import interrupt, phases
from parity.judge.fleet import Fleet
from parity.plan.device import parse_devices
from parity.plan.options import address_of, make_parser
from parity.plan.planning import make_settings, plan
from parity.plan.request import Request, announce_single, is_settled
from parity.plan.trial import Settings, Trial
from parity.render.formats import print_report
from parity.render.page import html
from parity.render.wrapping import WIDTH
from parity.store.files import write_json
from parity.store.gather import forget_journal
from parity.store.resume import Started, check_same, fingerprint, reopen
from parity.store.run_info import describe
from parity.store.storage import StoragePath, parse_path
from parity.store.stored_run import StoredRun, read_info, read_run
from parity.tasks.loading import load_task_data
from parity.train.executor import Executor
from parity.train.inline import Inline


def reopened(options: argparse.Namespace, given: Sequence[str], held: contextlib.ExitStack) -> Started | int:
    """Opens the run of `--resume`; returns its exit status instead if there is nothing left to train.

    Args:
        options: The parsed options.
        given: The arguments that they were parsed from.
        held: Receives the lock of the run directory.

    Raises:
        Trouble: The run does not exist, is in use, or cannot be continued with these options.
    """
    directory = parse_path(options.resume)
    if read_info(directory).get("recorded"):
        # A recorded loop is the user's own program: its tables can be written, but it cannot be continued from here.
        finish_recording(directory)
        return report(read_run(directory), interrupted=False, form=options.format)
    started = held.enter_context(reopen(options, given, make_parser()))
    interrupt.keep(started.directory)
    if started.complete:
        # Left by a driver that was killed after it had marked the run complete.
        forget_journal(started.directory)
        return report(read_run(started.directory), interrupted=False, form=options.format)
    return started


@dataclass(frozen=True)
class Asked:
    """What a run is made from.

    Attributes:
        options: The parsed options; of a run that is continued, those that it was started with.
        given: The arguments of this command.
        request: What the options name.
        out: The run directory, which is locked.
        started: The run to continue, or None.
        early: What has been started already.
    """

    options: argparse.Namespace
    given: Sequence[str]
    request: Request
    out: StoragePath
    started: Started | None
    early: Early


def measure(
    asked: Asked, held: contextlib.ExitStack, unused: contextlib.ExitStack
) -> tuple[StoredRun, bool, Fleet | None]:
    """Plans, trains and stores.

    Args:
        asked: What to measure.
        held: Receives the connection to a cluster. The caller holds it until the run is judged: a cluster that does not
            let go must not keep the report back.
        unused: What undoes a directory that holds nothing worth keeping.

    Returns:
        The stored run, whether it was interrupted, and its devices if they have been classified.

    Raises:
        Trouble: A trial cannot run, or the run cannot be stored.
    """
    options, out, started = asked.options, asked.out, asked.started
    phases.enter("plan")
    # A task of the user's own imports what it needs, as `run` does: see there.
    with interrupt.held() if asked.early.local else contextlib.nullcontext():
        data, settings = _load(options, asked.request)
    # Before the plan, since "auto" and --each depend on what the executor has.
    executor, nodes = held.enter_context(_executor(asked, data))
    phases.enter("plan")
    trials = _plan_trials(asked, settings, executor, nodes)
    info = _describe(options, asked.given, trials, data, executor)
    if started:
        check_same(started, info)
        # As it was stored: the date and the command are those with which the run began.
        info = started.info
    else:
        # Before the first step, so that --resume finds the run from here on.
        write_json(out / "run.json", info)
    unused.pop_all()  # from here on the directory holds something worth keeping
    interrupt.keep(out)
    if not options.inline:  # this process waits for others
        threading.Thread(target=html.prepare, name="parity-page", daemon=True).start()
    interrupted = train(trials, executor, data, out, quiet=options.quiet)
    stored, fleet = read_run(out, own=True), None
    if not interrupted:
        fleet = Fleet(stored.trials, stored.traces)
        stored, interrupted = repeat_odd_trials(stored, trials, executor, data, fleet)
    # An interrupted run stays unsealed and keeps its journal, from which --resume continues.
    if not interrupted:
        seal_run(out, info)
        interrupt.keep("")  # nothing is left to continue
    return stored, interrupted, fleet


def _load(options: argparse.Namespace, request: Request) -> tuple[dict[str, np.ndarray], Settings]:
    """The task's data, dtype[rows, ...] by name, and what all trials share.

    Raises:
        Trouble: The data cannot be loaded, or the batch is larger than it.
    """
    data = load_task_data(request.task, options.data)
    settings = make_settings(
        task=request.task,
        rows=len(next(iter(data.values()))),
        batch_size=options.batch_size,
        epochs=options.epochs,
        steps=options.steps,
        lr=options.lr,
        audit_every=0 if options.quick else options.audit_every,
        save_every_s=options.save_every,
    )
    return data, settings


@contextlib.contextmanager
def _executor(asked: Asked, data: dict[str, np.ndarray]) -> Iterator[tuple[Executor, tuple[Node, ...]]]:
    """Where the trials will run: this process (`--inline`), or a Ray cluster; and the nodes of that cluster."""
    if asked.options.inline:
        phases.enter("imports", "importing torch")
        yield Inline(), ()
        return
    with _connected(asked, sum(array.nbytes for array in data.values())) as cluster:
        yield cluster, cluster.nodes


@contextlib.contextmanager
def _connected(asked: Asked, data_bytes: int) -> Iterator[Cluster]:
    """The cluster that the options name, or one that is started for the run."""
    options, early, address = asked.options, asked.early, address_of(asked.options)
    phases.enter("Ray", "" if address == "local" else f"joining the Ray cluster at {address}")
    with connect(
        address, data_bytes=data_bytes, step_timeout_s=options.step_timeout, local=early.local, warm=early.warm
    ) as cluster:
        if options.wait_for_nodes:
            cluster.wait_for_nodes(options.wait_for_nodes, gpu=options.each == "gpu", limit_s=options.wait_limit)
        if address != "local":
            # On this machine alone there are no other nodes to compare with; each trial reports the facts of its own.
            cluster.probe()
        yield cluster


def _plan_trials(asked: Asked, settings: Settings, executor: Executor, nodes: tuple[Node, ...]) -> tuple[Trial, ...]:
    """The trials of the run, on devices that there are; of a run that is continued, on those that it was begun on.

    Raises:
        Trouble: A trial cannot run there, or there is only one.
    """
    options, request, started = asked.options, asked.request, asked.started
    if started and "devices" in started.info:
        devices = parse_devices(started.info["devices"])
        nodes = from_stored(started.info.get("cluster", {}))
        if isinstance(executor, Cluster):
            executor.remember(nodes)
    else:
        devices = parse_devices(_expand_auto(request.devices, executor.accelerators))
        if not options.inline:
            devices = placement.expand(devices, options.each, nodes)
    trials = plan(
        request.losses,
        devices,
        seeds=options.seed or [0],
        replicas=options.replicas,
        settings=settings,
        noise=options.noise,
        equals=lambda device: placement.equals(device, nodes),
        quick=options.quick,
    )
    if not started and not is_settled(options, request):
        announce_single(len(trials) // len(options.seed or [0]))
    if isinstance(executor, Cluster):
        executor.grow(trials, limit_s=options.wait_limit)
    executor.check(trials)
    return trials


def _describe(
    options: argparse.Namespace,
    given: Sequence[str],
    trials: Sequence[Trial],
    data: dict[str, np.ndarray],
    executor: Executor,
) -> dict[str, Any]:
    """The content of run.json: what was asked for, and what a run must share with this one to be continued."""
    command = shlex.join(["python", "-m", "parity.run", *given])
    asked = describe(command, trials, data=options.data) | {"quick": options.quick, "arguments": [*given]}
    asked["devices"] = list(dict.fromkeys(trial.device.name for trial in trials))
    if isinstance(executor, Cluster) and address_of(options) != "local":
        asked["cluster"] = {"address": address_of(options), **as_stored(executor.nodes)}
    return asked | fingerprint(trials, data)


def report(stored: StoredRun, *, interrupted: bool, form: str, fleet: Fleet | None = None) -> int:
    """Judges what was stored, stores the verdicts, prints them and writes the page; returns the exit status.

    Args:
        stored: The run.
        interrupted: Whether its training was interrupted.
        form: Value of `--format`.
        fleet: Its devices, where they have been classified already.

    Raises:
        Trouble: A trace is damaged, or a file cannot be written.
    """
    out = stored.directory
    judgement = judge_run(stored, fleet)
    try:
        print_report(stored, judgement, form=form)
    except OSError:
        # Nobody takes what is printed; the page is there for those who come later.
        write_page(stored, judgement)
        raise
    page = write_page(stored, judgement)
    message = f"Stored in {out}; report: {page}"
    if interrupted:
        message = (
            f"Interrupted. What was trained is kept: continue it with\n  parity run --resume {shlex.quote(str(out))}"
        )
    elif len(message) > WIDTH:
        message = f"Stored in {out}; report:\n  {page}"
    if form == "text":
        print(f"\n{message}")
    else:
        print(message, file=sys.stderr)
    # Whatever the steps so far say, the question that the run was to answer is still open.
    return 2 if interrupted else judgement.exit_status


def _expand_auto(devices: Sequence[str], accelerators: Callable[[], list[str]]) -> list[str]:
    """Replaces "auto" with the CPU and each kind of accelerator that there is; each device then appears once."""
    expanded = [device for text in devices for device in (["cpu", *accelerators()] if text == "auto" else [text])]
    # "auto" may repeat a device that was also named. A name that the user gave twice is left for `parse_devices` to
    # refuse.
    return list(dict.fromkeys(expanded)) if "auto" in devices else expanded
