"""The flow that `parity.run`, `parity.check` and `parity.Recorder` share: begin a run, fill it, finish it, judge it.

A run directory is begun with run.json, filled with what its trials report (the journal), and finished: the journal
becomes tables, odd trials are repeated, and run.json is sealed.
"""

import contextlib
import shlex
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeGuard

import numpy as np
import pyarrow as pa

from parity.ground import phases
from parity.ground.errors import Trouble
from parity.judge import Judgement, differences_tables, judge, odd_elements
from parity.judge.differences_table import SCHEMA as DIFFERENCES
from parity.judge.fleet import Fleet
from parity.plan.device import Device
from parity.plan.trial import Settings, Trial
from parity.plan.user_code import CodeSpec
from parity.render.notebook_bar import NotebookBar
from parity.render.page import html
from parity.render.progress import TrialProgress
from parity.render.summary import summarize
from parity.store.directory import complete, hold
from parity.store.events import Event
from parity.store.files import write_json, write_text
from parity.store.gather import Gatherer, forget_journal
from parity.store.parquet import write_table, write_tables
from parity.store.stages import Stages
from parity.store.statuses import run_state
from parity.store.storage import StoragePath
from parity.store.stored_run import StoredRun, read_info
from parity.store.tables import REPLAYS
from parity.train.executor import Executor

# The name of the task in run.json and trials.parquet for a recorded loop.
RECORDED_TASK = "recorded"


@contextlib.contextmanager
def gathering(
    trials: Sequence[Trial], out: StoragePath, *, quiet: bool = False, bar: NotebookBar | None = None
) -> Iterator[Gatherer]:
    """Opens the journal of a run, new or existing, and shows the progress of its trials.

    Args:
        trials: The trials of the plan.
        out: The run directory.
        quiet: Whether to show no progress.
        bar: The bar of a notebook, in which to show it.

    Yields:
        The gatherer, which collects the events of the trials and writes them to the journal.

    Raises:
        Trouble: The journal is damaged, or cannot be written.
    """
    with (
        # A recorded loop has no planned number of steps, so its bar has a length of 1.
        TrialProgress(
            [trial.name for trial in trials], steps=max(1, trials[0].settings.steps), quiet=quiet, bar=bar
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
    bar: NotebookBar | None = None,
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
        bar: The bar of a notebook, in which to show it.

    Returns:
        Whether the training was interrupted.

    Raises:
        Trouble: A trial could not be started, the cluster fails, or the run cannot be written.
    """
    interrupted = False
    phases.enter("workers")
    with gathering(trials, out, quiet=quiet, bar=bar) as gatherer:
        try:
            # No effect on a new run. In a continued one, trials that had begun continue from where they were saved
            # last.
            gatherer.go_on("the driver was ended")
            unfinished = gatherer.unfinished
            phases.announce(f"starting {len(unfinished)} trial{'s' * (len(unfinished) != 1)}")
            events = executor.train([trial for trial in trials if trial.name in unfinished], data, gatherer)
            stages = Stages(trials)
            # Closed at once on an error too, since a generator would otherwise run its cleanup at an unknown time.
            with contextlib.closing(events):
                for some in events:
                    gatherer.take(some)
                    stages.take(some)
        except KeyboardInterrupt:
            if not resumable:
                raise
            # An interruption is not an error: what is stored is judged, and the rest can be trained later.
            interrupted = True
        except Trouble as trouble:
            # Nothing was trained, so there is nothing to continue.
            if not (resumable and gatherer.rows):
                raise
            then = f"What was trained is kept: continue it with --resume {shlex.quote(str(out))}."
            raise Trouble(f"{trouble} {then}") from trouble
        phases.enter("files")
        # Also after an interruption: the trials that did not end are stored with the steps that they have.
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
    # To stderr, as all progress: stdout has the report alone.
    print(f"{len(replays)} odd: repeated up to the first differing step, to see which elements differ", file=sys.stderr)
    events: Generator[list[Event], None, None] = executor.train(odd_elements.to_train(replays), data)
    try:
        with contextlib.closing(events):
            rows = odd_elements.repeat(replays, events)
    except KeyboardInterrupt:
        # Nothing of the repeats is stored; a continued run makes them again.
        return stored, True
    table = pa.Table.from_pylist(rows, schema=REPLAYS)
    write_table(stored.directory / "replays.parquet", table)
    return replace(stored, evidence=stored.evidence | {"replays": table}), False


def seal_run(out: StoragePath, info: Mapping[str, Any]) -> None:
    """Marks the run as complete in run.json, and removes its journal.

    Args:
        out: The run directory.
        info: The content of run.json so far.

    Raises:
        Trouble: run.json cannot be written.
    """
    # In this order: until the tables are sealed, the journal is what a killed run is continued from.
    complete(out, info)
    forget_journal(out)


def judge_run(stored: StoredRun, fleet: Fleet | None = None) -> Judgement:
    """Judges a stored run, and stores the verdicts in differences.parquet and summary.json.

    Args:
        stored: The run.
        fleet: Its devices, where they have been classified already.

    Returns:
        The verdicts.

    Raises:
        Trouble: A trace is damaged, or a file cannot be written.
    """
    phases.enter("judging", "judging")
    judgement = judge(stored, fleet=fleet)
    write_tables(stored.directory / "differences.parquet", DIFFERENCES, differences_tables(judgement))
    write_json(stored.directory / "summary.json", summarize(judgement))
    return judgement


def write_page(stored: StoredRun, judgement: Judgement) -> StoragePath:
    """Writes report.html; returns its path.

    Args:
        stored: The run.
        judgement: Its judgement.

    Raises:
        Trouble: The page cannot be written.
    """
    phases.enter("files")
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
        # Placeholders, which the record of the trial replaces: only the loop knows its data and its length.
        rows=1,
        batch_size=1,
        steps=0,
        # Known from the recorded optimizer only; a NaN cannot be taken for a learning rate.
        lr=float("nan"),
        audit_every=asked["audit_every"],
    )
    loss, oracle = (CodeSpec(name=asked[name], attr=asked[name]) for name in ("name", "oracle"))
    device = Device(**asked["device"])
    return Trial(
        loss=loss,
        oracle=oracle,
        device=device,
        seed=asked["seed"],
        replica=asked["replica"],
        settings=settings,
        # Recordings of earlier versions have none.
        digest_kind=asked.get("digest_kind", "xxh3"),
    )


def is_recorded(asked: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether this is what `Recorder` keeps of a recording in run.json, from which `recorded_trial` makes its trial."""
    if not isinstance(asked, dict) or not isinstance(device := asked.get("device"), dict):
        return False
    kinds = {"name": str, "oracle": str, "seed": int, "replica": int, "audit_every": int, "digest_kind": str}
    known = {"digest_kind": "xxh3", **asked}
    return (
        all(type(known.get(name)) is kind for name, kind in kinds.items())
        and isinstance(device.get("kind"), str)
        and device.keys() <= {field.name for field in fields(Device)}
    )


def finish_recording(directory: StoragePath) -> None:
    """Makes the tables of a recording whose process was killed, from its journal; its trial counts as interrupted.

    Args:
        directory: The directory of the recording.

    Raises:
        Trouble: The recording is in use by another process, or damaged.
    """
    with hold(directory):
        info = read_info(directory)
        if run_state(info) == "complete":
            return
        asked = info.get("recorded")
        # Before the tables, which would be written with what is not known.
        if not is_recorded(asked):
            raise Trouble(f"{directory / 'run.json'} is damaged: its 'recorded' is {asked!r:.200}.")
        trial = recorded_trial(asked)
        with gathering([trial], directory) as gatherer:
            gatherer.write_tables()
            complete(directory, info | {"steps": gatherer.rows})
        forget_journal(directory)
