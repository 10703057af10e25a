"""python -m parity.run: plans trials, trains them, stores their traces, judges and reports."""

import argparse
import contextlib
import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from parity import __version__, devices, inline, interrupt, odd_elements, placement, ray_job, workers
from parity.data import mnist
from parity.devices import Device
from parity.differences import SCHEMA as DIFFERENCES
from parity.errors import Trouble
from parity.events import Event
from parity.evidence import REPLAYS
from parity.gather import Gatherer, forget_journal
from parity.judge import differences_tables, judge
from parity.loss_spec import parse_losses
from parity.options import make_parser
from parity.progress import TrialProgress
from parity.recording import finish
from parity.render import html
from parity.render.wrapping import WIDTH
from parity.report import guarded, print_report
from parity.resume import Started, check_same, fingerprint, reopen
from parity.storage import StoragePath, parse_path
from parity.store import (
    SCHEMA_NUMBER,
    StoredRun,
    complete,
    create,
    discard,
    hold,
    read_info,
    read_run,
    write_json,
    write_table,
    write_tables,
    write_text,
)
from parity.summary import summarize
from parity.tasks import load_data, parse_task, shipped_losses
from parity.trial import Trial, make_settings, plan
from parity.user_code import CodeSpec

PACKAGES = ("numpy", "pandas", "pyarrow", "ray", "torch")


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
        finish(parse_path(options.resume))
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
            stored, interrupted = _measure(started.options if started else options, given, started, held)
        return _judge(stored, interrupted=interrupted, form=options.format)


def _measure(
    options: argparse.Namespace, given: Sequence[str], started: Started | None, held: contextlib.ExitStack
) -> tuple[StoredRun, bool]:
    """Plans, trains and stores.

    Args:
        options: Of the run.
        given: What the command was called with.
        started: What to go on with, or None.
        held: Is given what keeps other drivers off a new run.

    Returns:
        The run, and whether it was interrupted.
    """
    task = parse_task(options.task)
    shipped = shipped_losses(task)
    losses = parse_losses(options.loss or (shipped[:1] if options.quick else shipped), shipped=shipped)
    wanted = options.device or [{"node": "cpu", "gpu": "cuda"}.get(options.each, "auto")]
    # Tell a wrong one before anything is started.
    named = devices.parse_devices([text for text in wanted if text != "auto"])
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
            create(out)
            held.enter_context(hold(out))
            unused.callback(discard, out)
        cluster = None
        if not options.inline:
            address = options.address or os.environ.get("RAY_ADDRESS") or "local"
            cluster = cleanup.enter_context(
                workers.connect(address, data_bytes=sum(array.nbytes for array in data.values()))
            )
            if options.wait_for_nodes:
                cluster.wait_for_nodes(options.wait_for_nodes, gpu=options.each == "gpu", limit_s=options.wait_limit)
            if address != "local":
                cluster.probe()
        chosen = devices.parse_devices(
            _expand_auto(wanted, cluster.accelerators if cluster else devices.available_accelerators)
        )
        nodes = cluster.nodes if cluster else ()
        if cluster:
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
        if cluster:
            cluster.check(trials)
        else:
            inline.set_environment(trials)
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
        train = partial(cluster.train, step_timeout_s=options.step_timeout) if cluster else inline.train_inline
        interrupted = _train(trials, partial(train, data=data), out)
        stored = read_run(out)
        if not interrupted:
            stored, interrupted = repeat_odd_trials(stored, trials, lambda again: train(again, data))
    if not interrupted:
        complete(out, info)
        forget_journal(out)
    return stored, interrupted


def _train(trials: Sequence[Trial], train: Callable[..., Generator[list[Event], None, None]], out: StoragePath) -> bool:
    """Trains what has not ended, and stores what the trials tell; returns whether they were interrupted."""
    with (
        TrialProgress([trial.name for trial in trials], steps=trials[0].settings.steps) as progress,
        contextlib.closing(Gatherer(trials, out, progress)) as gatherer,
    ):
        interrupted = False
        try:
            gatherer.go_on("the driver was ended")
            unfinished = gatherer.unfinished
            events = train([trial for trial in trials if trial.name in unfinished], past=gatherer)
            with contextlib.closing(events):
                for some in events:
                    gatherer.take(some)
        except KeyboardInterrupt:
            interrupted = True
        except Trouble as trouble:
            if not gatherer.rows:
                raise
            raise Trouble(f"{trouble} What was trained is kept: go on with it by --resume {out}.") from trouble
        gatherer.write_tables()
    return interrupted


def repeat_odd_trials(
    stored: StoredRun, trials: Sequence[Trial], train: Callable[[Sequence[Trial]], Generator[list[Event], None, None]]
) -> tuple[StoredRun, bool]:
    """Repeats trials that part from their class, and stores which elements differ.

    Args:
        stored: The run.
        trials: Of the plan.
        train: What trains trials.

    Returns:
        The run with what was found, and whether it was interrupted.
    """
    replays = odd_elements.plan_replays(stored, trials)
    if not replays:
        return stored, False
    print(f"{len(replays)} odd: repeated up to where they part, to see which elements differ", file=sys.stderr)
    events = train(odd_elements.to_train(replays))
    try:
        with contextlib.closing(events):
            rows = odd_elements.repeat(replays, events)
    except KeyboardInterrupt:
        return stored, True
    table = pa.Table.from_pylist(rows, schema=REPLAYS)
    write_table(stored.directory / "replays.parquet", table)
    return replace(stored, evidence=stored.evidence | {"replays": table}), False


def _judge(stored: StoredRun, *, interrupted: bool, form: str) -> int:
    """Judges what was stored, stores the verdicts, prints them and makes the page; returns the exit status."""
    out = stored.directory
    judgement = judge(stored)
    write_tables(out / "differences.parquet", DIFFERENCES, differences_tables(judgement))
    write_json(out / "summary.json", summarize(judgement))
    print_report(stored, judgement, form=form)
    page = out / "report.html"
    write_text(page, html.render(stored, judgement))
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


def load_task_data(task: CodeSpec, root: Path | None) -> dict[str, np.ndarray]:
    """The task's data as read-only arrays.

    Raises:
        Trouble: It is not there, or not as the protocol wants it.
    """
    if task.shipped:
        return mnist.load_torchvision(root) if root else mnist.load()
    if root:
        raise Trouble(
            f"--data {root} is a place for MNIST, and the task {task.name} has data of its own. Leave it out."
        )
    try:
        return load_data(task)
    except Trouble:
        raise
    except (Exception, SystemExit) as error:
        raise Trouble(f"Task {task.name}: loading its data raised {type(error).__name__}: {error}") from error


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


def describe(command: str, trials: Sequence[Trial], *, data: Path | None) -> dict[str, Any]:
    """The content of run.json while the run goes on.

    Args:
        command: What was asked for.
        trials: Of the run.
        data: The folder that MNIST came from, or None.
    """
    settings = trials[0].settings
    return {
        "schema": SCHEMA_NUMBER,
        "state": "running",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "folder": str(Path.cwd()),
        "task": settings.task.name,
        "data": str(data) if data else "embedded",
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "lr": settings.lr,
        "audit_every": settings.audit_every,
        "trials": [trial.name for trial in trials],
        "host": platform.node(),
        "versions": {"python": platform.python_version(), "training-parity": __version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    sys.exit(main())
