"""`parity.check`: checks a loss or a device from Python, in the calling process and without Ray."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from parity.driver import judge_run, repeat_odd_trials, seal_run, train, write_page
from parity.ground import phases
from parity.ground.errors import Trouble
from parity.judge import Judgement, PairVerdict, differences_tables
from parity.judge.differences_table import SCHEMA as DIFFERENCES
from parity.judge.fleet import Fleet
from parity.judge.verdict import rank
from parity.plan.given import parse_given, parse_given_devices, parse_given_losses
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import parse_task, shipped_losses
from parity.plan.trial import Trial
from parity.render import terminal
from parity.render.progress import is_live
from parity.render.summary import summarize
from parity.store.directory import begun
from parity.store.files import write_json
from parity.store.run_info import describe
from parity.store.storage import StoragePath, parse_path
from parity.store.stored_run import StoredRun, read_run
from parity.tasks.loading import load_task_data
from parity.train.inline import Inline

if TYPE_CHECKING:
    import pandas as pd

    from parity.judge.causes import Cause
    from parity.judge.differences import Difference
    from parity.judge.verdict import Onset


@dataclass(frozen=True)
class CheckResult:
    """What `parity.check` found. `print(result.report)` shows it as the command does.

        result = parity.check("my_losses.py:mse", steps=20)
        assert result.passed, result.line
        print(result.verdict, result.onset, result.causes)
        result.traces[["trial", "step", "loss"]]

    Attributes:
        run: The stored run: trials, traces, contract and findings as Arrow tables.
        judgement: The verdict on each pair.
    """

    run: StoredRun
    judgement: Judgement

    @property
    def verdict(self) -> str:
        """The worst verdict of all pairs: identical, report-only, rounding, inconclusive, diverged or failed."""
        return self.judgement.verdict

    @property
    def passed(self) -> bool:
        """Whether the verdict is identical, report-only or rounding, and the baseline itself did not fail.

        A pair of which no step was compared does not pass, whatever its verdict.
        """
        compared = bool(self.pairs) and all(pair.steps for pair in self.pairs)
        return compared and self.judgement.meaning.passing and self.judgement.trouble is None

    @property
    def pairs(self) -> tuple[PairVerdict, ...]:
        """Each pair of trials and what was found about it."""
        return self.judgement.pairs

    @property
    def worst(self) -> PairVerdict:
        """The pair that the verdict comes from."""
        # Of pairs with the same verdict max() takes the first.
        return max(self.judgement.pairs, key=lambda pair: rank(pair.verdict))

    @property
    def first(self) -> Difference | None:
        """The worst pair's first difference of any size, or None if all bits are equal."""
        return self.worst.first

    @property
    def onset(self) -> Onset | None:
        """The worst pair's first difference that rounding cannot explain, or None if there is none."""
        return self.worst.onset

    @property
    def causes(self) -> tuple[Cause, ...]:
        """What is wrong with the worst pair's candidate, the most serious cause first."""
        return self.worst.causes

    @property
    def line(self) -> str:
        """One line on the worst pair, as in the report, or why no verdict was reached."""
        return self.judgement.trouble or terminal.pair_line(self.worst).plain

    @property
    def report(self) -> str:
        """The report as the command prints it, 120 columns wide."""
        # A fixed width: in a terminal of another width the text would be wrapped otherwise.
        console = Console(file=io.StringIO(), width=120)
        terminal.render(self.run, self.judgement, console)
        return str(console.file.getvalue())  # type: ignore[attr-defined]  # it is the StringIO above

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json, as the command would write it."""
        return summarize(self.judgement)

    @property
    def contract(self) -> pd.DataFrame:
        """The loss contract, with a row for each item: trial, item, status, reason."""
        return self.run.evidence["contract"].to_pandas()

    @property
    def findings(self) -> pd.DataFrame:
        """The diagnosis, with a row for each step whose gradient was examined: trial, step, kind, value, detail."""
        return self.run.evidence["findings"].to_pandas()

    @property
    def shared_steps(self) -> pd.DataFrame:
        """The shared steps, with a row for each tensor of a step that a device took from the first device's state."""
        return self.run.evidence["shared_steps"].to_pandas()

    @property
    def differences(self) -> pd.DataFrame:
        """The differences, with a row for each pair and step: how large they are, and which quantities differ."""
        # The empty table gives its columns to a result without pairs.
        return pa.concat_tables([DIFFERENCES.empty_table(), *differences_tables(self.judgement)]).to_pandas()

    @property
    def traces(self) -> pd.DataFrame:
        """The traces, with a row for each trial and step: loss, norms, digests, audit errors, step time."""
        import pandas as pd

        return pd.concat([table.to_pandas() for table in self.run.traces.values()], ignore_index=True)

    def __str__(self) -> str:
        return self.line


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

    The process's random generators, thread count and torch switches are left as they were.

        import parity

        def mse(output, target):
            return ((output - target) ** 2).mean()

        result = parity.check(mse, steps=20)
        assert result.passed, result.line

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
        out: A new directory in which to keep the run and its report.html; by default nothing is kept.
        progress: Whether to show on stderr how far the check is; None shows it on a terminal and in a notebook.

    Returns:
        The verdict, its causes, and the tables behind it.

    Raises:
        Trouble: The check could not be made: an argument is wrong, there is nothing to compare, or the device is
            not available. The message says what to do.
    """
    quiet = not (is_live(Console(stderr=True)) if progress is None else progress)
    phases.begin(process=False, quiet=quiet)
    task_spec = parse_task(task) if isinstance(task, str) else parse_given(task, "task")
    shipped = shipped_losses(task_spec)
    # A string is a sequence as well, but of characters.
    candidates = [candidate] if isinstance(candidate, str) or not isinstance(candidate, Sequence) else list(candidate)
    losses = parse_given_losses([baseline, *candidates], shipped)
    kept = None if out is None else parse_path(os.fspath(out))
    # From the loading of the data on: code of the user, which may draw or set switches, runs in here.
    with _process_restored():
        data = load_task_data(task_spec, None)
        settings = make_settings(
            task=task_spec,
            rows=len(next(iter(data.values()))),
            batch_size=batch_size,
            epochs=epochs,
            steps=steps,
            lr=lr,
            audit_every=audit_every,
        )
        trials = plan(
            losses,
            parse_given_devices(device),
            seeds=list(seed) if isinstance(seed, Iterable) else [seed],
            replicas=replicas,
            settings=settings,
            noise=noise,
        )
        if len(trials) < 2:
            raise Trouble("Nothing to compare: give a candidate, a second device or replicas.")
        # The temporary directory is removed on leaving, when everything that the result needs has been read.
        with contextlib.ExitStack() as stack:
            folder = kept or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
            result = run_trials(trials, data, folder, title="parity.check", quiet=quiet)
            if kept:
                write_page(result.run, result.judgement)
            return result


def run_trials(
    trials: Sequence[Trial], data: dict[str, np.ndarray], out: StoragePath, *, title: str, quiet: bool = True
) -> CheckResult:
    """Trains in this process, stores the run and judges it.

    Args:
        trials: The trials that `planning.plan` made.
        data: The task's data; dtype[rows, ...] by name.
        out: A new directory.
        title: What run.json gives as the command.
        quiet: Whether to show no progress.

    Returns:
        The run, read back from the directory, and the judgement of it.

    Raises:
        Trouble: The directory exists already, or a device is not available.
    """
    # In this process, so that losses can be closures and a debugger reaches them.
    executor = Inline()
    with begun(out):
        info = describe(title, trials, data=None)
        write_json(out / "run.json", info)
        # Not resumable: the objects that were passed cannot be found again by another process.
        train(trials, executor, data, out, resumable=False, quiet=quiet)
        stored = read_run(out)
        stored = replace(stored, traces=dict(stored.traces))  # read now, since the directory may be temporary
        fleet = Fleet(stored.trials, stored.traces)
        # Before the judgement, which uses what the repeats show.
        stored, _ = repeat_odd_trials(stored, trials, executor, data, fleet)
        seal_run(out, info)
        return CheckResult(stored, judge_run(stored, fleet))


@contextlib.contextmanager
def _process_restored() -> Iterator[None]:
    """Restores random generators, thread count and torch's switches when the block ends."""
    # These import torch, which `import parity.api` does without.
    from parity.observe.generators import generators_restored
    from parity.train.switches import switches_restored

    with generators_restored(), switches_restored():
        yield
