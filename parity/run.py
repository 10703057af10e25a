"""python -m parity.run: plans trials, trains them, stores their traces, judges and reports."""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from parity.cluster import placement, ray_job
from parity.cluster.connection import connect
from parity.cluster.nodes import Node
from parity.cluster.workers import Cluster
from parity.driver import begun, finish_recording, judge_run, repeat_odd_trials, seal_run, train, write_page
from parity.ground import interrupt
from parity.ground.command import guarded
from parity.ground.errors import Trouble
from parity.judge.fleet import Fleet
from parity.plan.device import Device, parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.options import make_parser
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import parse_task, shipped_losses
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = make_parser().parse_args(given)
    return guarded(lambda: run(options, given))


def run(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Plans, trains, stores, judges and reports; returns the exit status.

    Args:
        options: As `options.make_parser` parses them.
        given: What they were parsed from.

    Raises:
        Trouble: Something keeps it from an answer.
    """
    _check_text(given)
    if options.resume and read_info(parse_path(options.resume)).get("recorded"):
        finish_recording(parse_path(options.resume))
        return _judge(read_run(parse_path(options.resume)), interrupted=False, form=options.format)
    with contextlib.ExitStack() as held:
        started = held.enter_context(reopen(options, make_parser())) if options.resume else None
        if started:
            interrupt.keep(started.directory)
        if started and started.complete:
            forget_journal(started.directory)
            return _judge(read_run(started.directory), interrupted=False, form=options.format)
        # What a loss prints has no place in a document.
        aside = contextlib.nullcontext() if options.format == "text" else contextlib.redirect_stdout(sys.stderr)
        with aside:
            stored, interrupted, fleet = _measure(started.options if started else options, given, started, held)
        return _judge(stored, interrupted=interrupted, form=options.format, fleet=fleet)


def _measure(
    options: argparse.Namespace, given: Sequence[str], started: Started | None, held: contextlib.ExitStack
) -> tuple[StoredRun, bool, Fleet | None]:
    """Plans, trains and stores.

    Args:
        options: Of the run.
        given: What the command was called with.
        started: What to go on with, or None.
        held: Is given what keeps other drivers off a new run.

    Returns:
        The run, whether it was interrupted, and its devices if they have been classified.
    """
    task = parse_task(options.task)
    shipped = shipped_losses(task)
    losses = parse_losses(options.loss or (shipped[:1] if options.quick else shipped), shipped=shipped)
    wanted = options.device or [{"node": "cpu", "gpu": "cuda"}.get(options.each, "auto")]
    # Tell a wrong one before anything is started.
    named = parse_devices([text for text in wanted if text != "auto"])
    _check_cluster_options(options, named)
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
    out = started.directory if started else _choose_out(options.out)
    with contextlib.ExitStack() as cleanup:
        unused = cleanup.enter_context(contextlib.ExitStack())
        if not started:
            held.enter_context(begun(out))
            unused.callback(discard, out)
        executor: Executor = Inline()
        nodes: tuple[Node, ...] = ()
        if not options.inline:
            data_bytes = sum(array.nbytes for array in data.values())
            executor = cluster = cleanup.enter_context(_connected(options, data_bytes))
            nodes = cluster.nodes
        chosen = parse_devices(_expand_auto(wanted, executor.accelerators))
        if not options.inline:
            chosen = placement.expand(chosen, options.each, nodes)
        trials = plan(
            losses,
            chosen,
            seeds=options.seed or [0],
            replicas=options.replicas,
            settings=settings,
            noise=options.noise,
            equals=lambda device: placement.equals(device, nodes),
            quick=options.quick,
        )
        executor.check(trials)
        command = shlex.join(["python", "-m", "parity.run", *given])
        info = describe(command, trials, data=options.data) | {"quick": options.quick, "arguments": [*given]}
        info |= fingerprint(trials, data)
        if started:
            check_same(started, info)
            info = started.info
        else:
            write_json(out / "run.json", info)
        unused.pop_all()  # from here on there is something to keep
        interrupt.keep(out)
        interrupted = train(trials, executor, data, out)
        stored, fleet = read_run(out), None
        if not interrupted:
            fleet = Fleet(stored.trials, stored.traces)
            stored, interrupted = repeat_odd_trials(stored, trials, executor, data, fleet)
    if not interrupted:
        seal_run(out, info)
    return stored, interrupted, fleet


@contextlib.contextmanager
def _connected(options: argparse.Namespace, data_bytes: int) -> Iterator[Cluster]:
    """The cluster that the options name, or one that is started for the run."""
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    with connect(address, data_bytes=data_bytes, step_timeout_s=options.step_timeout) as cluster:
        if options.wait_for_nodes:
            cluster.wait_for_nodes(options.wait_for_nodes, gpu=options.each == "gpu", limit_s=options.wait_limit)
        if address != "local":
            cluster.probe()
        yield cluster


def _judge(stored: StoredRun, *, interrupted: bool, form: str, fleet: Fleet | None = None) -> int:
    """Judges what was stored, stores the verdicts, prints them and makes the page; returns the exit status."""
    out = stored.directory
    judgement = judge_run(stored, fleet)
    print_report(stored, judgement, form=form)
    page = write_page(stored, judgement)
    told = f"Stored in {out}; to look at: {page}"
    if interrupted:
        told = f"Interrupted. What was trained is kept: go on with it by\n  python -m parity.run --resume {out}"
    elif len(told) > WIDTH:
        told = f"Stored in {out}; to look at:\n  {page}"
    if form == "text":
        print(f"\n{told}")
    else:
        print(told, file=sys.stderr)
    return 2 if interrupted else judgement.exit_status


def _check_cluster_options(options: argparse.Namespace, given: Sequence[Device]) -> None:
    """Raises `Trouble` for options that need a cluster where there is none."""
    needs = [f"--{name.replace('_', '-')}" for name in ("each", "wait_for_nodes") if getattr(options, name)]
    needs += [f"--device {device.name}" for device in given if device.node]
    if options.inline and needs:
        raise Trouble(f"{needs[0]} needs a Ray cluster, and --inline trains in this process. Leave out one of them.")


def _check_text(given: Sequence[str]) -> None:
    """Raises `Trouble` for what cannot be stored as text: names of files that are no UTF-8."""
    for text in given:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Trouble(f"{text!r} is no text in UTF-8, and could not be stored. Rename it.") from error


def _choose_out(given: str | None) -> StoragePath:
    if ray_job.inside_job():
        ray_job.check_out(given)
    if given is None:
        return Path("runs") / datetime.now(timezone.utc).strftime("%Y-%m-%dT%H%M%S.%fZ")
    return parse_path(given)


def _expand_auto(wanted: Sequence[str], accelerators: Callable[[], list[str]]) -> list[str]:
    """Puts the CPU and each kind of accelerator that is there in the place of "auto"."""
    expanded = [device for text in wanted for device in (["cpu", *accelerators()] if text == "auto" else [text])]
    return list(dict.fromkeys(expanded)) if "auto" in wanted else expanded


if __name__ == "__main__":
    sys.exit(main())
