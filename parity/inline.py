"""Trials in the calling process, without Ray: what `--inline` does, and what each Ray worker does with its trial."""

import os
import time
import traceback
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from parity import devices
from parity.errors import Trouble
from parity.events import Advanced, Began, Ended, Event
from parity.trial import Trial


def set_environment(trials: Sequence[Trial]) -> None:
    """Sets the environment variables that the trials' devices need before torch is imported.

    Raises:
        Trouble: The trials need different ones, which one process cannot have.
    """
    # Threads are set by value in `devices.prepare`, so that they may differ; the instruction set may not.
    isas = {trial.device.isa for trial in trials if trial.device.kind == "cpu"}
    if len(isas) > 1:
        names = ", ".join(sorted({trial.device.name for trial in trials if trial.device.kind == "cpu"}))
        raise Trouble(
            f"--inline trains in this process, which can have only one instruction set; found {names}. "
            "Leave out --inline, or give one isa=."
        )
    needs_gpu = any(trial.device.kind != "cpu" for trial in trials)
    for trial in trials:
        for name, value in devices.environment(trial.device).items():
            if name != "CUDA_VISIBLE_DEVICES" or not needs_gpu:
                os.environ[name] = value


def train_inline(trials: Sequence[Trial], data: dict[str, np.ndarray]) -> Generator[Event, None, None]:
    """Trains the trials one after the other in this process."""
    for trial in trials:
        yield from perform(trial, data)


def perform(trial: Trial, data: dict[str, np.ndarray]) -> Iterator[Event]:
    """Trains one trial in this process, to its end.

    Raises:
        Trouble: As `train`: the trial could not be begun as it was asked for.
    """
    from parity import machine  # these import torch: only now is the environment set
    from parity.recorder import TrialFailed
    from parity.train import train

    began = time.monotonic()
    devices.prepare(trial.device)
    yield Began(trial.name, machine.facts(trial.device))
    first_s: float | None = None
    last_s: float | None = None
    failure: TrialFailed | None = None
    try:
        for chunk in train(trial, data):
            last_s = time.time()
            first_s = chunk.began_s if first_s is None else first_s
            yield Advanced(trial.name, chunk.table, chunk.facts)
    except TrialFailed as error:
        failure = error
    yield Ended(
        trial.name,
        status="failed" if failure else "complete",
        failed_step=failure.step if failure else None,
        error=failure.reason if failure else None,
        traceback="".join(traceback.format_exception(failure.__cause__)) if failure and failure.__cause__ else None,
        wall_s=time.monotonic() - began,
        began_s=first_s,
        ended_s=last_s,
    )
