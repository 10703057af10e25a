"""One trial from its first event to its last: contract, training, steps from shared states."""

import math
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from parity.ground.errors import TrialFailed
from parity.plan.trial import Trial
from parity.store.events import Advanced, Began, Captured, Ended, Event, Found, Saved
from parity.store.position import Position, SharedSteps
from parity.store.trace import DIGESTS, first_difference

CONTRACT_ROWS = 8
# Saving a training's state takes no more than one in so many seconds.
SAVE_SHARE = 50.0


def perform(
    trial: Trial, data: dict[str, np.ndarray], shared: SharedSteps | None = None, position: Position | None = None
) -> Iterator[Event]:
    """Holds the trial's loss to its contract, trains to the end, and takes the baseline device's steps.

    Args:
        trial: What to train.
        data: The task's.
        shared: Of the trial that it has its shared steps from.
        position: Where it goes on from, or None.

    Raises:
        Trouble: As `train`: the trial could not be begun as it was asked for.
    """
    from parity.train import machine  # these import torch: only now is the environment set
    from parity.train.loop import train
    from parity.train.replay import capture
    from parity.train.saved_state import StateNotPortable, pack, unpack
    from parity.train.shared_step import pack_step
    from parity.train.switches import prepare

    began = saved = time.monotonic()
    if position:
        began -= position.wall_s
    state = unpack(position.state) if position else None
    prepare(trial.device)
    yield Began(trial.name, machine.facts(trial.device))
    first_s = position.began_s if position else None
    last_s: float | None = None
    failure: TrialFailed | None = None
    tables: list[pa.Table] = [position.digests] if position else []
    save_every_s = trial.settings.save_every_s
    try:
        if trial.capture:
            yield Captured(trial.name, trial.capture, capture(trial, data))
            return
        if trial.contract and not position:
            yield Found(trial.name, "contract", _contract(trial, data))
        for chunk in train(trial, data, state=state):
            last_s = time.time()
            first_s = chunk.began_s if first_s is None else first_s
            if shared:
                tables.append(chunk.table.select(DIGESTS))
            yield Advanced(trial.name, chunk.table, chunk.facts, tuple(map(pack_step, chunk.shared)))
            if chunk.errors:
                yield Found(trial.name, "step_errors", tuple(asdict(error) for error in chunk.errors))
            if chunk.findings:
                yield Found(trial.name, "findings", tuple(asdict(finding) for finding in chunk.findings))
            now = time.monotonic()
            if now - saved >= save_every_s:
                next_step = int(chunk.table["step"][-1].as_py()) + 1
                try:
                    packed = pack(chunk.take_state())
                except StateNotPortable:  # such a trial can begin again, but not go on
                    save_every_s = math.inf
                    continue
                # A state that is slow to copy is saved less often.
                saved = time.monotonic()
                save_every_s = max(save_every_s, SAVE_SHARE * (saved - now))
                yield Saved(trial.name, next_step, saved - began, packed, first_s)
        if shared and tables:
            yield _shared(trial, data, shared, pa.concat_tables(tables))
    except TrialFailed as error:
        failure = error
    yield Ended(
        trial.name,
        status="failed" if failure else "complete",
        failed_step=failure.step if failure else None,
        failure=failure.kind if failure else None,
        error=failure.reason if failure else None,
        traceback="".join(traceback.format_exception(failure.__cause__)) if failure and failure.__cause__ else None,
        wall_s=time.monotonic() - began,
        began_s=first_s,
        ended_s=last_s,
    )


def _contract(trial: Trial, data: dict[str, np.ndarray]) -> tuple[dict[str, Any], ...]:
    """The items of the contract, on a few rows; from a loss and a model that the training does not see.

    Raises:
        TrialFailed: The training could not begin either.
    """
    from parity.observe.contract.checking import check_contract
    from parity.train.step import begin, forward, make_batch

    few = replace(trial.settings, batch_size=min(CONTRACT_ROWS, trial.settings.batch_size))
    training = begin(replace(trial, settings=few))
    output, target = forward(training, make_batch(training, data, 0), 0)
    items = check_contract(training.loss, training.baseline, training.oracle, output, target)
    return tuple({"item": item.name, "status": item.status, "reason": item.reason} for item in items)


def _shared(trial: Trial, data: dict[str, np.ndarray], shared: SharedSteps, trace: pa.Table) -> Found:
    from parity.train.shared_step import take_shared_steps, unpack_step

    if not shared.steps:
        return Found(trial.name, "shared_steps", (), "the baseline's trial left no steps to take")
    steps = [unpack_step(packed) for packed in shared.steps]
    parting = first_difference(pa.concat_tables(shared.tables), trace)
    errors, reason = take_shared_steps(trial, data, steps, parting=parting, trace=trace)
    return Found(trial.name, "shared_steps", tuple(asdict(error) for error in errors), reason)
