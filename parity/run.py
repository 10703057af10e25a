"""python -m parity.run: plans trials, trains them, stores their traces, judges and reports."""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from parity.cluster import placement, ray_job
from parity.cluster.connection import connect
from parity.cluster.nodes import Node, as_stored, from_stored
from parity.cluster.workers import Cluster
from parity.driver import begun, finish_recording, judge_run, repeat_odd_trials, seal_run, train, write_page
from parity.ground import interrupt, phases
from parity.ground.command import guarded
from parity.ground.errors import Trouble
from parity.judge.fleet import Fleet
from parity.plan.device import EACH, Device, parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.options import make_parser
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import parse_task, shipped_losses
from parity.plan.trial import Settings, Trial
from parity.plan.user_code import CodeSpec
from parity.render.formats import print_report
from parity.render.wrapping import WIDTH
from parity.store.directory import discard
from parity.store.files import write_json
from parity.store.gather import forget_journal
from parity.store.resume import Started, check_same, fingerprint, reopen
from parity.store.run_info import describe
from parity.store.storage import StoragePath, parse_path
from parity.store.stored_run import StoredRun, read_info, read_run
from parity.tasks.loading import load_task_data
from parity.train.executor import Executor
from parity.train.inline import Inline


@dataclass(frozen=True)
class _Request:
    """What the options ask for, parsed and checked before anything is started.

    Attributes:
        losses: The losses, the baseline first.
        devices: Values of `--device`, the baseline first; "auto" is replaced once it is known which devices there are.
        data: The task's data; dtype[rows, ...] by name.
        settings: What all trials share.
    """

    losses: tuple[CodeSpec, ...]
    devices: tuple[str, ...]
    data: dict[str, np.ndarray]
    settings: Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    phases.begin(process=arguments is None, quiet=False)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = make_parser().parse_args(given)
    status = guarded(lambda: run(options, given))
    if options.verbose:
        print("\n".join(phases.table()), file=sys.stderr)
    return status


def run(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Plans, trains, stores, judges and reports; returns the exit status.

    Args:
        options: The parsed options of `options.make_parser`.
        given: The arguments that they were parsed from.

    Raises:
        Trouble: The run could not be made: an argument is wrong, a trial cannot run, or the run cannot be stored
            or read.
    """
    phases.enter("plan")
    # First of all, before anything is made that would have to be removed again.
    _check_text(given)
    if options.resume and read_info(parse_path(options.resume)).get("recorded"):
        # A recorded loop is the user's own program: its tables can be written, but it cannot be continued from here.
        finish_recording(parse_path(options.resume))
        return _report(read_run(parse_path(options.resume)), interrupted=False, form=options.format)
    with contextlib.ExitStack() as held:
        started = held.enter_context(reopen(options, make_parser())) if options.resume else None
        if started:
            interrupt.keep(started.directory)
        if started and started.complete:
            # Left by a driver that was killed after it had marked the run complete.
            forget_journal(started.directory)
            return _report(read_run(started.directory), interrupted=False, form=options.format)
        # What a loss prints must not end up in a document.
        aside = contextlib.nullcontext() if options.format == "text" else contextlib.redirect_stdout(sys.stderr)
        with aside:
            stored, interrupted, fleet = _measure(started.options if started else options, given, started, held)
        return _report(stored, interrupted=interrupted, form=options.format, fleet=fleet)


def _measure(
    options: argparse.Namespace, given: Sequence[str], started: Started | None, held: contextlib.ExitStack
) -> tuple[StoredRun, bool, Fleet | None]:
    """Plans, trains and stores.

    Args:
        options: The parsed options.
        given: The arguments of the command.
        started: The run to continue, or None.
        held: Receives the lock of a new run directory, and the connection to a cluster. The caller holds both until
            the run is judged: a cluster that does not let go must not keep the report back.

    Returns:
        The stored run, whether it was interrupted, and its devices if they have been classified.
    """
    request = _parse_request(options)
    out = started.directory if started else _choose_out(options.out)
    with contextlib.ExitStack() as unused:
        if not started:
            held.enter_context(begun(out))
            # If the planning fails, nothing of the new directory stays.
            unused.callback(discard, out)
        # Before the plan, since "auto" and --each depend on what the executor has.
        executor, nodes = held.enter_context(_executor(options, request.data))
        trials = _plan_trials(options, request, executor, nodes, started)
        phases.enter("plan")
        info = _describe(options, given, trials, request.data, executor)
        if started:
            check_same(started, info)
            # As it was stored: the date and the command are those with which the run began.
            info = started.info
        else:
            # Before the first step, so that --resume finds the run from here on.
            write_json(out / "run.json", info)
        unused.pop_all()  # from here on the directory holds something worth keeping
        interrupt.keep(out)
        interrupted = train(trials, executor, request.data, out)
        stored, fleet = read_run(out), None
        if not interrupted:
            fleet = Fleet(stored.trials, stored.traces)
            stored, interrupted = repeat_odd_trials(stored, trials, executor, request.data, fleet)
    # An interrupted run stays unsealed and keeps its journal, from which --resume continues.
    if not interrupted:
        seal_run(out, info)
    return stored, interrupted, fleet


def _parse_request(options: argparse.Namespace) -> _Request:
    """Parses and checks what the options ask for, and loads the task's data; starts nothing.

    Raises:
        Trouble: A task, loss, device or option is wrong, or the data cannot be loaded.
    """
    task = parse_task(options.task)
    shipped = shipped_losses(task)
    losses = parse_losses(options.loss or (shipped[:1] if options.quick else shipped), shipped=shipped)
    devices = options.device or [EACH.get(options.each, "auto")]
    # A wrong device is reported now, before a cluster is started or waited for.
    _check_cluster_options(options, parse_devices([text for text in devices if text != "auto"]))
    data = load_task_data(task, options.data)
    settings = make_settings(
        task=task,
        rows=len(next(iter(data.values()))),
        batch_size=options.batch_size,
        epochs=options.epochs,
        steps=options.steps,
        lr=options.lr,
        audit_every=0 if options.quick else options.audit_every,
        save_every_s=options.save_every,
    )
    return _Request(losses, tuple(devices), data, settings)


@contextlib.contextmanager
def _executor(options: argparse.Namespace, data: dict[str, np.ndarray]) -> Iterator[tuple[Executor, tuple[Node, ...]]]:
    """Where the trials will run: this process (`--inline`), or a Ray cluster; and the nodes of that cluster."""
    if options.inline:
        phases.enter("imports", "importing torch")
        yield Inline(), ()
        return
    with _connected(options, sum(array.nbytes for array in data.values())) as cluster:
        yield cluster, cluster.nodes


@contextlib.contextmanager
def _connected(options: argparse.Namespace, data_bytes: int) -> Iterator[Cluster]:
    """The cluster that the options name, or one that is started for the run."""
    address = _address(options)
    phases.enter("Ray", "starting Ray" if address == "local" else f"joining the Ray cluster at {address}")
    with connect(address, data_bytes=data_bytes, step_timeout_s=options.step_timeout) as cluster:
        if options.wait_for_nodes:
            cluster.wait_for_nodes(options.wait_for_nodes, gpu=options.each == "gpu", limit_s=options.wait_limit)
        if address != "local":
            # On this machine alone there are no other nodes to compare with; each trial reports the facts of its own.
            cluster.probe()
        yield cluster


def _address(options: argparse.Namespace) -> str:
    """Address of the cluster to join; "local" for one of the run's own."""
    # Without an address Ray would join any cluster that it finds on this machine.
    return options.address or os.environ.get("RAY_ADDRESS") or "local"


def _plan_trials(
    options: argparse.Namespace,
    request: _Request,
    executor: Executor,
    nodes: tuple[Node, ...],
    started: Started | None,
) -> tuple[Trial, ...]:
    """The trials of the run, on devices that there are; of a run that is continued, on those that it was begun on.

    Raises:
        Trouble: A trial cannot run there.
    """
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
        settings=request.settings,
        noise=options.noise,
        equals=lambda device: placement.equals(device, nodes),
        quick=options.quick,
    )
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
    if isinstance(executor, Cluster) and _address(options) != "local":
        asked["cluster"] = {"address": _address(options), **as_stored(executor.nodes)}
    return asked | fingerprint(trials, data)


def _report(stored: StoredRun, *, interrupted: bool, form: str, fleet: Fleet | None = None) -> int:
    """Judges what was stored, stores the verdicts, prints them and writes the page; returns the exit status."""
    out = stored.directory
    judgement = judge_run(stored, fleet)
    print_report(stored, judgement, form=form)
    page = write_page(stored, judgement)
    message = f"Stored in {out}; report: {page}"
    if interrupted:
        message = f"Interrupted. What was trained is kept: continue it with\n  python -m parity.run --resume {out}"
    elif len(message) > WIDTH:
        message = f"Stored in {out}; report:\n  {page}"
    if form == "text":
        print(f"\n{message}")
    else:
        print(message, file=sys.stderr)
    # Whatever the steps so far say, the question that the run was to answer is still open.
    return 2 if interrupted else judgement.exit_status


def _check_cluster_options(options: argparse.Namespace, devices: Sequence[Device]) -> None:
    """Raises `Trouble` if an option needs a cluster and `--inline` rules it out."""
    needs = [f"--{name.replace('_', '-')}" for name in ("each", "wait_for_nodes") if getattr(options, name)]
    needs += [f"--device {device.name}" for device in devices if device.node]
    if options.inline and needs:
        raise Trouble(f"{needs[0]} needs a Ray cluster, and --inline trains in this process. Leave out one of them.")


def _check_text(given: Sequence[str]) -> None:
    """Raises `Trouble` for an argument that run.json cannot store: a file name that is not valid UTF-8."""
    for text in given:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Trouble(f"{text!r} is not valid UTF-8, so it cannot be stored. Rename the file.") from error


def _choose_out(given: str | None) -> StoragePath:
    """The new run directory: `--out`, or a folder below runs/ named after the time in UTC."""
    if ray_job.inside_job():
        ray_job.check_out(given)
    if given is None:
        # With microseconds, since two runs may be started within a second.
        return Path("runs") / datetime.now(timezone.utc).strftime("%Y-%m-%dT%H%M%S.%fZ")
    return parse_path(given)


def _expand_auto(devices: Sequence[str], accelerators: Callable[[], list[str]]) -> list[str]:
    """Replaces "auto" with the CPU and each kind of accelerator that there is; each device then appears once."""
    expanded = [device for text in devices for device in (["cpu", *accelerators()] if text == "auto" else [text])]
    # "auto" may repeat a device that was also named. A name that the user gave twice is left for `parse_devices` to
    # refuse.
    return list(dict.fromkeys(expanded)) if "auto" in devices else expanded


if __name__ == "__main__":
    sys.exit(main())
