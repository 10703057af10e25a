"""One trial's training, as a plain call that knows nothing of Ray; yields the trace in chunks, and resumes from any."""

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
from parity.train import switches
from parity.train.shared_step import SharedStep, own_errors, take_shared_step
from parity.train.state import optimizer_settings, parameter_norms, restore_state, take_state
from parity.train.step import Training, begin, take_step

# A chunk lasts this long, or has as many steps as the observer holds: often enough for a live progress bar.
CHUNK_S = 0.5


@dataclass(frozen=True)
class Chunk:
    """Some steps of a trial, and its state after them.

    Attributes:
        table: A row per step, in the columns of `trace.SCHEMA`.
        take_state: Copies what `train` resumes from: next step, parameters, optimizer, generators, the loss's own state
            if it is an `nn.Module`, and how far the audit has looked. It raises RuntimeError once the next chunk has
            been asked for.
        facts: Facts of the trial: "loss_dtype", "param_names", "optimizer", "audit_error" (why the trial was not
            audited, or None), those of `Observer.facts`; and "initial_norms" and "initial_digests" if the trial began
            with step 0.
        began_s: When the first step of the chunk began, in seconds since 1970.
        shared: The steps that other devices are to take from the same state.
        errors: Errors of the steps that were compared with float64.
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

    Python's, NumPy's and torch's generators are seeded, and belong to the trial until it ends.

    Args:
        trial: What to train, and where.
        data: The task's data; dtype[rows, ...] by name, never written to.
        state: State that a chunk of an equal trial took, to continue from there with bit-identical results.
        chunk_s: Seconds after which a chunk ends; the first one ends with its first step.
        chunk_steps: Steps after which a chunk ends, at most `CAPACITY`.

    Yields:
        The chunks in order; together they have every step.

    Raises:
        TrialFailed: The loss (or the task) raised, or returned something other than a scalar with a gradient. The steps
            before have been yielded.
        Trouble: The machine does not have the device, or a loss cannot be called.
    """
    chunks = _Chunks(begin(trial), state)
    # Wall time to be stored, monotonic time to measure with: the first may jump. The first step is a chunk of its own:
    # whoever waits for the trial hears that from here on it takes steps.
    chunks.began_s, due_s = time.time(), time.monotonic()
    for step in range(state["step"] if state else 0, trial.settings.steps):
        try:
            with switches.BlamedForDevice(trial.device, step, "in the training"):
                chunks.take(step, data)
        except TrialFailed:
            # The steps before the failure are part of the trace, where the device still gives them back.
            if chunks.rows and switches.unusable(trial.device) is None:
                yield chunks.make(step)
            raise
        # The buffers of the observer end at `CAPACITY`, which is the largest `chunk_steps`.
        if chunks.rows == chunk_steps or step == trial.settings.steps - 1 or time.monotonic() > due_s:
            with switches.BlamedForDevice(trial.device, step, "in the training"):
                chunk = chunks.make(step + 1)
            yield chunk
            # The consumer has come back: from here on the training runs, and its state is no longer that of the chunk.
            chunks.standing_at = None
            chunks.began_s, due_s = time.time(), time.monotonic() + chunk_s


class _Chunks:
    """A training, and the chunk that is being filled with its steps.

    Attributes:
        began_s: When the first step of the chunk began, in seconds since 1970.
        standing_at: The next step while the training pauses, so that its state can be taken; None while it runs.
    """

    def __init__(self, training: Training, state: dict[str, Any] | None) -> None:
        self._training = training
        model, optimizer = training.model, training.optimizer
        self._observer = Observer(
            training.trial, model, oracle=training.oracle, baseline=training.baseline, optimizers=[optimizer]
        )
        # A loss that is a module may have buffers or parameters; the state of another loss cannot be stored.
        self._module = training.loss if isinstance(training.loss, torch.nn.Module) else None
        if state is not None:
            if self._module:
                self._module.load_state_dict(state["loss"])
            self._observer.restore(state["observer"])
            # Last, since it sets the generators: what is above must not draw from them afterwards.
            restore_state(state, model, optimizer)
        self._facts: dict[str, Any] = {
            "param_names": [name for name, _ in model.named_parameters()],
            "optimizer": optimizer_settings([optimizer]),
        }
        # Norms of the initial parameters, which a training that continues no longer has.
        if state is None:
            self._facts |= {"initial_norms": parameter_norms(model), **self._observer.initial()}
        self._shared: list[SharedStep] = []
        self._errors: list[StepError] = []
        self.began_s = 0.0
        self.standing_at: int | None = None

    @property
    def rows(self) -> int:
        """Number of steps in the chunk so far."""
        return self._observer.rows

    def take(self, step: int, data: dict[str, np.ndarray]) -> None:
        """Takes a step; for some steps, keeps what other devices and later runs are compared with."""
        trial, settings = self._training.trial, self._training.trial.settings
        shares = trial.shares and settings.shared(step)
        if not shares and not (trial.measured and settings.measured(step)):
            take_step(self._training, data, step, self._observer)
            return
        taken = take_shared_step(self._training, data, step, self._observer)
        self._shared += [taken] if shares else []
        self._errors += own_errors(self._training, data, taken) if trial.measured else []

    def make(self, next_step: int) -> Chunk:
        """The chunk; the next one begins empty."""
        self.standing_at = next_step

        # A function rather than the state itself: few chunks are saved, and a copy of the state costs time and memory.
        def take() -> dict[str, Any]:
            if self.standing_at != next_step:
                raise RuntimeError("The training has gone on; take a chunk's state before you ask for the next chunk.")
            module = self._module
            loss = {name: tensor.clone() for name, tensor in module.state_dict().items()} if module else {}
            state = take_state(next_step, self._training.model, self._training.optimizer)
            return state | {"loss": loss, "observer": self._observer.state()}

        dtype = str(self._observer.loss_dtype).removeprefix("torch.")
        # These two are not known before the first step.
        facts = self._facts | self._observer.facts | {"loss_dtype": dtype, "audit_error": self._observer.audit_error}
        # Copies, since the lists are cleared for the next chunk.
        shared, errors = tuple(self._shared), tuple(self._errors)
        self._shared.clear()
        self._errors.clear()
        return Chunk(self._observer.flush(), take, facts, self.began_s, shared, errors, self._observer.take_findings())
