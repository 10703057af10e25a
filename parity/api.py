"""`parity.check`: checks a loss or a device from Python, in the calling process and without Ray."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from parity.check_arguments import check_kinds, directory, task_spec
from parity.check_result import CheckResult
from parity.driver import judge_run, repeat_odd_trials, seal_run, train, write_page
from parity.ground import phases
from parity.ground.errors import Trouble
from parity.ground.kept import keep_folder
from parity.judge.fleet import Fleet
from parity.plan.given import parse_given_devices, parse_given_losses
from parity.plan.pinned import imports_restored
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import shipped_losses
from parity.plan.trial import Trial
from parity.render.notebook_bar import NotebookBar, make_bar
from parity.render.progress import in_notebook, is_live
from parity.store.directory import begun
from parity.store.files import write_json
from parity.store.run_info import describe
from parity.store.stored_run import read_run
from parity.tasks.loading import load_task_data
from parity.train.inline import Inline, require_devices

# Two trainings at once would draw from the same generators, and disturb each other's draws. A loss may itself call
# `check`, in the same thread.
_one_at_a_time = threading.RLock()


def _unlocked() -> None:
    """Makes the lock anew in a forked process, in which the thread that has it does not run."""
    global _one_at_a_time
    _one_at_a_time = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlocked)


def check(
    candidate: str | Callable[..., Any] | Sequence[str | Callable[..., Any]] = (),
    *,
    baseline: str | Callable[..., Any] = "builtin",
    task: str | object = "mnist-autoencoder",
    device: str | Sequence[str] = "cpu",
    steps: int = 240,
    seed: int | Sequence[int] = 0,
    replicas: int = 1,
    noise: int = 0,
    epochs: int = 2,
    batch_size: int = 256,
    lr: float = 1e-3,
    audit_every: int = 1,
    out: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> CheckResult:
    """Trains with the baseline and the candidate in this process, and judges where they differ.

    The process's random generators, thread count and torch switches are left as they were; gradients are on and
    autocast is off, whatever surrounds the call. A check in another thread waits until this one has ended.

        >>> import parity
        >>> def half(output, target):  # wrong: the gradient is half of what it should be
        ...     return ((output - target) ** 2).mean() / 2
        >>> result = parity.check(half, steps=3, batch_size=64)
        >>> result.passed, result.verdict, result.onset.step, result.causes[0].kind
        (False, 'diverged', 0, 'scaled')
        >>> result
        diverged: the gradient is scaled by 0.5, 1/2 (step 0); half against builtin

    Args:
        candidate: A loss `(output, target) -> scalar tensor`: a function, an `nn.Module` (class or instance), an
            `autograd.Function` subclass, or a text as for `--loss`. A list has several candidates; with none, only
            devices or replicas are compared.
        baseline: The loss to compare with, in the same form as a candidate.
        task: What to train: a text as for `--task`, or the class or object itself.
        device: A device as for `--device`, except auto; the first of several is the baseline.
        steps: Number of optimizer steps, at most `epochs` passes over the data.
        seed: The seed of the random generators, or several.
        replicas: Number of times that each trial is trained.
        noise: Number of additional baseline trials under random rounding.
        epochs: Number of passes over the data.
        batch_size: Number of rows in a batch.
        lr: Learning rate.
        audit_every: The audit checks every step that this divides; 0 turns it off.
        out: A new directory in which to keep the run and its report.html. By default, only a run that does not pass is
            kept: for seven days, in the temporary folder; `page` of the result says where.
        progress: Whether to show on stderr how far the check is; None shows it on a terminal and in a notebook.

    Returns:
        A `CheckResult`: `passed` and `verdict`; `causes`, `first` and `onset` of the worst pair; `message`, a few lines
        for an assertion; `report`, the text that the command prints; the tables `contract`, `findings`,
        `differences`, `shared_steps` and `traces` as pandas frames; `page`, the path of report.html, and `open()`,
        which shows it. A notebook shows the result as a table.

    Raises:
        Trouble: The check could not be made: an argument is wrong, there is nothing to compare, or the device is
            not available. The message says what to do.
    """
    asked = task_spec(task)
    shipped = shipped_losses(asked)
    # A string is a sequence as well, but of characters.
    candidates = [candidate] if isinstance(candidate, str) or not isinstance(candidate, Sequence) else list(candidate)
    with _one_at_a_time, _progress(progress) as (quiet, bar):
        losses = parse_given_losses([baseline, *candidates], shipped)
        devices, folder = parse_given_devices(device), directory(out)
        # From the loading of the data on: code of the user, which may draw or set switches, runs in here.
        with _process_restored():
            check_kinds(losses)
            data = load_task_data(asked, None)
            settings = make_settings(
                task=asked,
                rows=len(next(iter(data.values()))),
                batch_size=batch_size,
                epochs=epochs,
                steps=steps,
                lr=lr,
                audit_every=audit_every,
            )
            seeds = list(seed) if isinstance(seed, Iterable) else [seed]
            trials = plan(losses, devices, seeds=seeds, replicas=replicas, settings=settings, noise=noise)
            if len(trials) < 2:
                raise Trouble("Nothing to compare: give a candidate, a second device or replicas.")
            return _kept(trials, data, folder, quiet=quiet, bar=bar)


@contextlib.contextmanager
def _progress(asked: bool | None) -> Iterator[tuple[bool, NotebookBar | None]]:
    """Begins to show how far the check is; yields whether to print nothing, and the bar of a notebook."""
    live = is_live(Console(stderr=True)) if asked is None else asked
    bar = make_bar() if live and in_notebook() else None
    # The bar names the phases in the place of lines.
    phases.begin(process=False, quiet=not live or bar is not None)
    with contextlib.ExitStack() as stack:
        if bar:
            stack.enter_context(bar)
            stack.enter_context(phases.shown(bar.enter))
        yield not live, bar


def _kept(
    trials: Sequence[Trial], data: dict[str, np.ndarray], out: Path | None, *, quiet: bool, bar: NotebookBar | None
) -> CheckResult:
    """Trains and judges; keeps the run and its page in `out`, or what did not pass in the temporary folder.

    Args:
        trials: The trials.
        data: The task's data; dtype[rows, ...] by name.
        out: A new directory, or None.
        quiet: Whether to show no progress.
        bar: The bar of a notebook, in which to show it.
    """
    if out:
        result = run_trials(trials, data, out, title="parity.check", quiet=quiet, bar=bar)
        write_page(result.run, result.judgement)
        return replace(result, page=out / "report.html")
    folder = keep_folder(trials[-1].loss.name)
    keep = False
    try:
        result = run_trials(trials, data, folder / "run", title="parity.check", quiet=quiet, bar=bar)
        if not result.passed:
            write_page(result.run, result.judgement)
            result = replace(result, page=folder / "run" / "report.html")
            keep = True
        return result
    finally:
        # Everything that the result needs has been read.
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def run_trials(
    trials: Sequence[Trial],
    data: dict[str, np.ndarray],
    out: Path,
    *,
    title: str,
    quiet: bool = True,
    bar: NotebookBar | None = None,
) -> CheckResult:
    """Trains in this process, stores the run and judges it.

    Args:
        trials: The trials that `planning.plan` made.
        data: The task's data; dtype[rows, ...] by name.
        out: A new directory.
        title: What run.json gives as the command.
        quiet: Whether to show no progress.
        bar: The bar of a notebook, in which to show it.

    Returns:
        The run, read back from the directory, and the judgement of it.

    Raises:
        Trouble: The directory exists already, or a device is not available.
    """
    # In this process, so that losses can be closures and a debugger reaches them.
    executor = Inline()
    require_devices(trials)  # before the directory is made, which could not be used again
    # The command has the same words: it cannot continue a run either.
    with begun(out, option="--out (out= in Python)", resumable=False):
        info = describe(title, trials, data=None)
        write_json(out / "run.json", info)
        # Not resumable: the objects that were passed cannot be found again by another process.
        train(trials, executor, data, out, resumable=False, quiet=quiet, bar=bar)
        stored = read_run(out, own=True)
        stored = replace(stored, traces=dict(stored.traces))  # read now, since the directory may be temporary
        fleet = Fleet(stored.trials, stored.traces)
        # Before the judgement, which uses what the repeats show.
        stored, _ = repeat_odd_trials(stored, trials, executor, data, fleet)
        seal_run(out, info)
        return CheckResult(stored, judge_run(stored, fleet))


@contextlib.contextmanager
def _process_restored() -> Iterator[None]:
    """Restores random generators, torch's settings and switches, and what is imported when the block ends."""
    # These import torch, which `import parity.api` does without.
    from parity.observe.generators import generators_restored
    from parity.observe.settings import settings_restored
    from parity.train.surroundings import as_in_a_new_process
    from parity.train.switches import switches_restored

    with generators_restored(), settings_restored(), switches_restored(), imports_restored(), as_in_a_new_process():
        yield
