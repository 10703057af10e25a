"""One trial's training, as a plain call that knows nothing of Ray; yields the trace in chunks, resumes from any."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from parity.ground.errors import TrialFailed
from parity.observe.diagnosis.rules import Finding
from parity.observe.float64_step import StepError
from parity.observe.observer import CAPACITY, Observer
from parity.plan.trial import Trial
from parity.train.shared_step import SharedStep, own_errors, take_shared_step
from parity.train.state import optimizer_settings, parameter_norms, restore_state, take_state
from parity.train.step import begin, take_step

# A chunk is as long as this, or as many steps as the observer holds: often enough for a live progress bar.
CHUNK_S = 0.5


@dataclass(frozen=True)
class Chunk:
    """Some steps of a trial, and where it stands after them.

    Attributes:
        table: A row per step, in the columns of `trace.SCHEMA`.
        take_state: Copies what `train` resumes from: next step, parameters, optimizer, generators, the loss's own state
            if it is an `nn.Module`, and how far the audit has looked. It raises RuntimeError once the next chunk has
            been asked for.
        facts: Of the trial: "loss_dtype", "param_names", "optimizer", "audit_error" (why there is none, or None); and
            "initial_norms" if it began with step 0.
        began_s: When its first step began, in seconds since 1970.
        shared: The steps that other devices are to take from the same state.
        errors: Of the steps that were held against float64.
        findings: What was found wrong with the gradient.
    """

    table: pa.Table
    take_state: Callable[[], dict[str, Any]]
    facts: dict[str, Any]
    began_s: float
    shared: tuple[SharedStep, ...]
    errors: tuple[StepError, ...]
    findings: tuple[Finding, ...]


def train(
    trial: Trial,
    data: dict[str, np.ndarray],
    *,
    state: dict[str, Any] | None = None,
    chunk_s: float = CHUNK_S,
    chunk_steps: int = CAPACITY,
) -> Iterator[Chunk]:
    """Trains one trial.

    Python's, NumPy's and torch's generators are seeded, and stand at the trial's disposal until it ends.

    Args:
        trial: What to train, where.
        data: The task's data; never written to.
        state: Of an earlier chunk of an equal trial, to go on from there with bit-identical results.
        chunk_s: Seconds after which a chunk ends.
        chunk_steps: Steps after which it ends, at most `CAPACITY`.

    Yields:
        The chunks in order; together they have every step.

    Raises:
        TrialFailed: The loss (or the task) raised, or returned something that is no scalar with a gradient. The steps
            before have been yielded.
        Trouble: The machine lacks the device, or a loss is nothing that can be called.
    """
    training = begin(trial)
    model, optimizer = training.model, training.optimizer
    observer = Observer(trial, model, oracle=training.oracle, baseline=training.baseline)
    module = training.loss if isinstance(training.loss, torch.nn.Module) else None
    if state is not None:
        if module:
            module.load_state_dict(state["loss"])
        observer.restore(state["observer"])
        restore_state(state, model, optimizer)
    begun: dict[str, Any] = {"param_names": [name for name, _ in model.named_parameters()]}
    begun |= {"optimizer": optimizer_settings([optimizer])}
    if state is None:
        begun |= {"initial_norms": parameter_norms(model)}
    shared: list[SharedStep] = []
    errors: list[StepError] = []

    at_step = -1  # where the trial stands still, so that its state can be taken

    def chunk(next_step: int) -> Chunk:
        nonlocal at_step
        at_step = next_step

        def take() -> dict[str, Any]:
            if at_step != next_step:
                raise RuntimeError("The training has gone on; take a chunk's state before you ask for the next chunk.")
            loss = {name: tensor.clone() for name, tensor in module.state_dict().items()} if module else {}
            return take_state(next_step, model, optimizer) | {"loss": loss, "observer": observer.state()}

        dtype = str(observer.loss_dtype).removeprefix("torch.")
        facts = begun | {"loss_dtype": dtype, "audit_error": observer.audit_error}
        told = (tuple(shared), tuple(errors))
        shared.clear()
        errors.clear()
        return Chunk(observer.flush(), take, facts, began_s, *told, observer.take_findings())

    began_s, due_s = time.time(), time.monotonic() + chunk_s
    for step in range(state["step"] if state else 0, trial.settings.steps):
        try:
            shares = trial.shares and trial.settings.shared(step)
            if shares or (trial.measured and trial.settings.measured(step)):
                taken = take_shared_step(training, data, step, observer)
                shared += [taken] if shares else []
                errors += own_errors(training, data, taken) if trial.measured else []
            else:
                take_step(training, data, step, observer)
        except TrialFailed:
            if observer.rows:
                yield chunk(step)
            raise
        if observer.rows == chunk_steps or step == trial.settings.steps - 1 or time.monotonic() > due_s:
            yield chunk(step + 1)
            at_step = -1
            began_s, due_s = time.time(), time.monotonic() + chunk_s
