"""The flow that `parity.run`, `parity.check` and `parity.Recorder` share: begin a run, fill it, finish it, judge it.

A run directory is begun with run.json, filled with what its trials report (the journal), and finished: the journal
becomes tables, odd trials are repeated, and run.json is sealed.
"""

import contextlib
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from parity.ground.errors import Trouble
from parity.judge import Judgement, differences_tables, judge, odd_elements
from parity.judge.differences import SCHEMA as DIFFERENCES
from parity.judge.fleet import Fleet
from parity.plan.device import Device
from parity.plan.trial import Settings, Trial
from parity.plan.user_code import CodeSpec
from parity.render.page import html
from parity.render.progress import TrialProgress
from parity.render.summary import summarize
from parity.store.directory import complete, create, hold
from parity.store.events import Event
from parity.store.files import write_json, write_text
from parity.store.gather import Gatherer, forget_journal
from parity.store.parquet import write_table, write_tables
from parity.store.storage import StoragePath
from parity.store.stored_run import StoredRun, read_info
from parity.store.tables import REPLAYS
from parity.train.executor import Executor

# The name of the task in run.json and trials.parquet for a recorded loop.
RECORDED_TASK = "recorded"


@contextlib.contextmanager
def begun(out: StoragePath) -> Iterator[None]:
    """Makes a run directory and locks it until the block ends, so that no other process uses it.

    Raises:
        Trouble: The directory exists already, or cannot be made.
    """
    create(out)
    with hold(out):
        yield


@contextlib.contextmanager
def gathering(trials: Sequence[Trial], out: StoragePath, *, quiet: bool = False) -> Iterator[Gatherer]:
    """Opens the journal of a run, new or existing, and shows the progress of its trials.

    Args:
        trials: The trials of the plan.
        out: The run directory.
        quiet: Whether to show no progress.

    Yields:
        What collects the events of the trials and writes them to the journal.

    Raises:
        Trouble: The journal is damaged, or cannot be written.
    """
    with (
        TrialProgress(
            [trial.name for trial in trials], steps=max(1, trials[0].settings.steps), quiet=quiet
        ) as progress,
        contextlib.closing(Gatherer(trials, out, progress)) as gatherer,
    ):
        yield gatherer


def train(
    trials: Sequence[Trial],
    executor: Executor,
    data: dict[str, np.ndarray],
    out: StoragePath,
    *,
    resumable: bool = True,
    quiet: bool = False,
) -> bool:
    """Trains the trials that have not ended, and stores their events as tables.

    Args:
        trials: The trials of the plan.
        executor: Where they run.
        data: The task's data; dtype[rows, ...] by name.
        out: The run directory.
        resumable: Whether the training can be continued later. An interruption then ends it in good order, and the
            message of an error says how to continue. Otherwise both are raised as they are.
        quiet: Whether to show no progress.

    Returns:
        Whether the training was interrupted.

    Raises:
        Trouble: A trial could not be started, the cluster fails, or the run cannot be written.
    """
    interrupted = False
    with gathering(trials, out, quiet=quiet) as gatherer:
        try:
            gatherer.go_on("the driver was ended")
            unfinished = gatherer.unfinished
            events = executor.train([trial for trial in trials if trial.name in unfinished], data, gatherer)
            with contextlib.closing(events):
                for some in events:
                    gatherer.take(some)
        except KeyboardInterrupt:
            if not resumable:
                raise
            interrupted = True
        except Trouble as trouble:
            if not (resumable and gatherer.rows):
                raise
            raise Trouble(f"{trouble} What was trained is kept: continue it with --resume {out}.") from trouble
        gatherer.write_tables()
    return interrupted


def repeat_odd_trials(
    stored: StoredRun, trials: Sequence[Trial], executor: Executor, data: dict[str, np.ndarray], fleet: Fleet
) -> tuple[StoredRun, bool]:
    """Repeats the trials that differ from those of their class, and stores which elements differ.

    Args:
        stored: The run as it was trained.
        trials: The trials of the plan.
        executor: Where they run.
        data: The task's data; dtype[rows, ...] by name.
        fleet: The devices of the run, in classes.

    Returns:
        The run with the table of differing elements, and whether the repetition was interrupted.

    Raises:
        Trouble: A trial could not be started, the cluster fails, or the table cannot be written.
    """
    replays = odd_elements.plan_replays(stored, trials, fleet)
    if not replays:
        return stored, False
    print(f"{len(replays)} odd: repeated up to the first differing step, to see which elements differ", file=sys.stderr)
    events: Generator[list[Event], None, None] = executor.train(odd_elements.to_train(replays), data)
    try:
        with contextlib.closing(events):
            rows = odd_elements.repeat(replays, events)
    except KeyboardInterrupt:
        return stored, True
    table = pa.Table.from_pylist(rows, schema=REPLAYS)
    write_table(stored.directory / "replays.parquet", table)
    return replace(stored, evidence=stored.evidence | {"replays": table}), False


def seal_run(out: StoragePath, info: Mapping[str, Any]) -> None:
    """Marks the run as complete in run.json, and removes its journal.

    Raises:
        Trouble: run.json cannot be written.
    """
    complete(out, info)
    forget_journal(out)


def judge_run(stored: StoredRun, fleet: Fleet | None = None) -> Judgement:
    """Judges a stored run, and stores the verdicts in differences.parquet and summary.json.

    Args:
        stored: The run.
        fleet: Its devices, where they have been classified already.

    Raises:
        Trouble: A trace is damaged, or a file cannot be written.
    """
    judgement = judge(stored, fleet=fleet)
    write_tables(stored.directory / "differences.parquet", DIFFERENCES, differences_tables(judgement))
    write_json(stored.directory / "summary.json", summarize(judgement))
    return judgement


def write_page(stored: StoredRun, judgement: Judgement) -> StoragePath:
    """Writes report.html; returns its path.

    Raises:
        Trouble: The page cannot be written.
    """
    page = stored.directory / "report.html"
    write_text(page, html.render(stored, judgement))
    return page


def recorded_trial(asked: Mapping[str, Any]) -> Trial:
    """The trial of a recorded loop, as far as it is known before the first step.

    Args:
        asked: The value of "recorded" in run.json.
    """
    settings = Settings(
        task=CodeSpec(name=RECORDED_TASK, attr=RECORDED_TASK),
        rows=1,
        batch_size=1,
        steps=0,
        lr=float("nan"),
        audit_every=asked["audit_every"],
    )
    loss, oracle = (CodeSpec(name=asked[name], attr=asked[name]) for name in ("name", "oracle"))
    device = Device(**asked["device"])
    return Trial(
        loss=loss, oracle=oracle, device=device, seed=asked["seed"], replica=asked["replica"], settings=settings
    )


def finish_recording(directory: StoragePath) -> None:
    """Makes the tables of a recording whose process was killed from its journal; its trial counts as interrupted.

    Raises:
        Trouble: The recording is in use by another process, or damaged.
    """
    with hold(directory):
        info = read_info(directory)
        if info["state"] == "complete":
            return
        with gathering([recorded_trial(info["recorded"])], directory) as gatherer:
            gatherer.write_tables()
            complete(directory, info | {"steps": gatherer.rows})
        forget_journal(directory)
