"""One trial from its first event to its last: contract, training, steps from shared states.

Torch is imported inside the functions: a Ray worker imports this module before its environment is set, and the driver,
which only sends trials to workers, does without torch.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from parity.ground.errors import TrialFailed
from parity.ground.forked import claim
from parity.ground.quoting import traceback_of
from parity.plan.trial import Trial
from parity.store.events import Advanced, Began, Captured, Ended, Event, Found, Saved
from parity.store.position import Position, SharedSteps
from parity.store.trace import DIGESTS, first_difference

# Rows that the loss is checked on: few, since it is called some 300 times, and more than one, so that it shows if rows
# are mixed up.
CONTRACT_ROWS = 8
# Seconds of the contract after which its progress is reported, as often as that of the training.
CONTRACT_LINE_S = 10.0
# Saving the state takes at most one second in this many.
SAVE_SHARE = 50.0


def perform(
    trial: Trial, data: dict[str, np.ndarray], shared: SharedSteps | None = None, position: Position | None = None
) -> Iterator[Event]:
    """Checks the trial's loss against its contract, trains to the end, and takes the baseline device's steps.

    Args:
        trial: What to train.
        data: The task's data; dtype[rows, ...] by name.
        shared: The shared steps and digests left by the trial `shared_from`, or None.
        position: Where the trial continues, or None to begin with step 0.

    Yields:
        The trial's events in order. A failure of the trial is an event, too: the last one.

    Raises:
        Trouble: As `loop.train`: the trial could not be started as it was asked for.
    """
    from parity.train import machine
    from parity.train.replay import capture
    from parity.train.switches import prepare

    claim()
    began = time.monotonic() - (position.wall_s if position else 0.0)
    # Before the facts, which include the number of threads.
    prepare(trial.device)
    yield Began(trial.name, machine.facts(trial.device))
    clock = _Clock(began, first_s=position.began_s if position else None)
    try:
        if trial.capture:
            yield Captured(trial.name, trial.capture, capture(trial, data))
            return
        # A trial that continues has reported its contract before.
        if trial.contract and not position:
            yield from _contract(trial, data)
        yield from _train(trial, data, shared, position, clock)
    except TrialFailed as failure:
        # What the user's code raised; a failed check of ours has no cause, and a traceback would only show our own
        # code.
        cause = failure.__cause__
        yield clock.ended(
            trial,
            cause,
            status="failed",
            failed_step=failure.step,
            failure=failure.kind,
            error=failure.reason,
            traceback=traceback_of(cause) if cause else None,
            **_lacks(cause),
        )
    else:
        yield clock.ended(trial, status="complete")


class _Clock:
    """When the training of a trial began and ended.

    Attributes:
        began: When the trial was loaded, on the monotonic clock; earlier by the time that it had trained before, if it
            continues.
        first_s: When its first step began, in seconds since 1970, or None.
        last_s: When its last step ended, in seconds since 1970, or None.
    """

    def __init__(self, began: float, *, first_s: float | None) -> None:
        self.began = began
        self.first_s = first_s
        self.last_s: float | None = None

    def ended(self, trial: Trial, cause: BaseException | None = None, **how: Any) -> Ended:
        """The last event of the trial; `cause` is what ended it."""
        from parity.train.imported import imported_files

        wall_s = time.monotonic() - self.began
        how |= {"wall_s": wall_s, "began_s": self.first_s, "ended_s": self.last_s}
        return Ended(trial.name, imported=imported_files(cause), **how)


def _lacks(error: BaseException | None) -> dict[str, str]:
    """The module or file that the user's code did not find, as a field of `Ended`; empty if it failed otherwise."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return {"lacks_module": error.name}
        if isinstance(error, FileNotFoundError) and isinstance(error.filename, str):
            return {"lacks_file": error.filename}
        seen.append(error)
        # What it was handling when it raised another one, too.
        error = error.__cause__ or error.__context__
    return {}


def _train(
    trial: Trial, data: dict[str, np.ndarray], shared: SharedSteps | None, position: Position | None, clock: _Clock
) -> Iterator[Event]:
    """The events of the training, and of the steps from shared states after it."""
    from parity.train.loop import train
    from parity.train.saved_state import StateNotPortable, pack, unpack
    from parity.train.shared_step import pack_step

    saved, save_every_s = time.monotonic(), trial.settings.save_every_s
    # A trial that continues compares its steps from step 0 on, those before its saved state included.
    tables: list[pa.Table] = [position.digests] if position else []
    for chunk in train(trial, data, state=unpack(position.state) if position else None):
        clock.last_s = time.time()
        clock.first_s = chunk.began_s if clock.first_s is None else clock.first_s
        # Kept only where another trace is to be compared with them.
        if shared:
            tables.append(chunk.table.select(DIGESTS))
        # The rows first: what is found about a step refers to them, and so does a state that is saved after them.
        yield Advanced.of(trial.name, chunk.table, chunk.facts, tuple(map(pack_step, chunk.shared)))
        if chunk.errors:
            yield Found(trial.name, "step_errors", tuple(asdict(error) for error in chunk.errors))
        if chunk.findings:
            yield Found(trial.name, "findings", tuple(asdict(finding) for finding in chunk.findings))
        # After the yields above, during which the chunk was stored.
        now = time.monotonic()
        if now - saved >= save_every_s:
            # The state is that after the chunk's last step.
            next_step = int(chunk.table["step"][-1].as_py()) + 1
            try:
                packed = pack(chunk.take_state())
            except StateNotPortable:  # such a trial can begin again, but cannot continue
                save_every_s = math.inf
                continue
            # A state that is slow to copy is saved less often.
            saved = time.monotonic()
            save_every_s = max(save_every_s, SAVE_SHARE * (saved - now))
            yield Saved(trial.name, next_step, saved - clock.began, packed, clock.first_s)
    if shared and tables:
        yield _shared(trial, data, shared, pa.concat_tables(tables))


def _contract(trial: Trial, data: dict[str, np.ndarray]) -> Iterator[Found]:
    """The items of the contract, on a few rows; with a loss and a model of their own, apart from the training.

    Yields:
        All items at once, or, of a slow loss, those that were checked since the last event, with a line of progress.

    Raises:
        TrialFailed: The training could not begin either.
    """
    from parity.observe.contract.checking import ITEMS, iterate_contract
    from parity.train import switches
    from parity.train.step import begin, forward, make_batch

    # A training of its own: the loss may keep state between calls, and must not bring it into the real one.
    few = replace(trial.settings, batch_size=min(CONTRACT_ROWS, trial.settings.batch_size))
    training = begin(replace(trial, settings=few))
    output, target = forward(training, make_batch(training, data, 0), 0)
    rows: list[dict[str, Any]] = []
    reported = time.monotonic()
    items = iterate_contract(training.loss, training.baseline, training.oracle, output, target)
    when = "while its contract was checked"
    with switches.BlamedForDevice(trial.device, None, when):
        for done, item in enumerate(items, start=1):
            rows.append({"item": item.name, "status": item.status, "reason": item.reason})
            # Only what is shown depends on the time; the events together have the same rows.
            if time.monotonic() - reported > CONTRACT_LINE_S and done < len(ITEMS):
                line = f"{done} of {len(ITEMS)} items of the loss contract checked; the loss is slow"
                yield Found(trial.name, "contract", tuple(rows), progress=line)
                rows, reported = [], time.monotonic()
    yield Found(trial.name, "contract", tuple(rows))
    # An item may have caught what the loss raised. Now, since the training would blame the model.
    if blame := switches.blame_for(trial.device, None, when):
        raise blame


def _shared(trial: Trial, data: dict[str, np.ndarray], shared: SharedSteps, trace: pa.Table) -> Found:
    """The baseline's steps taken on this device, and the first step that differs."""
    from parity.train.candidate_step import take_shared_steps
    from parity.train.shared_step import unpack_step

    # Its baseline trial may have failed before the first of them.
    if not shared.steps:
        return Found(trial.name, "shared_steps", (), "the baseline's trial left no steps to take")
    steps = [unpack_step(packed) for packed in shared.steps]
    differs_at = first_difference(pa.concat_tables(shared.tables), trace)
    errors, reason = take_shared_steps(trial, data, steps, differs_at=differs_at, trace=trace)
    return Found(trial.name, "shared_steps", tuple(asdict(error) for error in errors), reason)
