"""One trial's training, as a plain call that knows nothing of Ray; yields the trace in chunks, resumes from any."""

from __future__ import annotations

import contextlib
import copy
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from parity import devices
from parity.audit import make_oracle
from parity.errors import Trouble
from parity.losses import Loss, load_loss
from parity.recorder import CAPACITY, Recorder, TrialFailed
from parity.tasks import Task, load_task
from parity.trial import Trial

# A chunk is as long as this, or as many steps as the recorder holds: often enough for a live progress bar.
CHUNK_S = 0.5


@dataclass(frozen=True)
class Chunk:
    """Some steps of a trial, and where it stands after them.

    Attributes:
        table: A row per step, in the columns of `trace.SCHEMA`.
        take_state: Copies what `train` resumes from: next step, parameters, optimizer, generators. It raises
            RuntimeError once the next chunk has been asked for.
        facts: Of the trial: "loss_dtype", "param_names" and "audit_error" (why there is no audit, or None).
        began_s: When its first step began, in seconds since 1970.
    """

    table: pa.Table
    take_state: Callable[[], dict[str, Any]]
    facts: dict[str, Any]
    began_s: float


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
    task = load_task(trial.settings.task)
    with _blamed(None, "loading the loss"):
        loss, oracle = load_loss(trial.loss), make_oracle(trial.oracle)
    device = devices.prepare(trial.device)  # after the user's code is loaded, so that this has the last word
    _seed(trial.seed)
    model = task.model().to(device)
    optimizer = task.optimizer(model.parameters(), trial.settings.lr)
    if state is not None:
        _restore(state, model, optimizer)
    recorder = Recorder(trial, model, oracle=oracle)
    names = [name for name, _ in model.named_parameters()]

    at_step = -1  # where the trial stands still, so that its state can be taken

    def chunk(next_step: int) -> Chunk:
        nonlocal at_step
        at_step = next_step

        def take_state() -> dict[str, Any]:
            if at_step != next_step:
                raise RuntimeError("The training has gone on; take a chunk's state before you ask for the next chunk.")
            return _snapshot(next_step, model, optimizer)

        dtype = str(recorder.loss_dtype).removeprefix("torch.")
        facts = {"loss_dtype": dtype, "param_names": names, "audit_error": recorder.audit_error}
        return Chunk(recorder.flush(), take_state, facts, began_s)

    began_s = time.time()
    for step in range(state["step"] if state else 0, trial.settings.steps):
        try:
            _step(step, task, loss, model, optimizer, recorder, trial=trial, data=data, device=device)
        except TrialFailed:
            if recorder.rows:
                yield chunk(step)
            raise
        if recorder.rows == chunk_steps or step == trial.settings.steps - 1 or time.time() - began_s > chunk_s:
            yield chunk(step + 1)
            at_step = -1
            began_s = time.time()


def _step(
    step: int,
    task: Task,
    loss_function: Loss,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    recorder: Recorder,
    *,
    trial: Trial,
    data: dict[str, np.ndarray],
    device: torch.device,
) -> None:
    """Takes one optimizer step and records it; the recorder's work is not in the step's time."""
    batch = tuple(tensor.to(device) for tensor in task.batch(data, *trial.settings.row_range(step)))
    clock = _Stopwatch(device)
    with _blamed(step, "the model"), clock:
        optimizer.zero_grad()
        output, target = task.forward(model, batch)
    recorder.forward(batch, output, target)
    with _blamed(step, "the loss"), clock:
        loss = loss_function(output, target)
    _check_loss(step, loss, output)
    # loss.backward() in two halves, with the same bits: the gradient between loss and model is what the audit judges.
    with _blamed(step, "the loss's backward"), clock:
        (output_grad,) = torch.autograd.grad(loss, output, allow_unused=True)
    if output_grad is None:
        raise TrialFailed(step, "loss has no gradient for its output, which it must depend on")
    recorder.loss(step, output, target, loss=loss, output_grad=output_grad)
    with _blamed(step, "the model's backward"), clock:
        output.backward(output_grad)  # type: ignore[no-untyped-call]
    recorder.backward()
    with _blamed(step, "the optimizer"), clock:
        optimizer.step()
    recorder.update(step, step_s=clock.elapsed_s)


def _check_loss(step: int, loss: object, output: torch.Tensor) -> None:
    """Raises `TrialFailed` unless the loss is a scalar with a gradient, of the output's dtype and on its device."""
    if not isinstance(loss, torch.Tensor):
        raise TrialFailed(step, f"loss returned {type(loss).__name__}, a tensor is needed")
    if loss.shape != ():
        raise TrialFailed(step, f"loss returned shape {list(loss.shape)}, a scalar is needed")
    if loss.dtype != output.dtype:
        raise TrialFailed(step, f"loss returned {loss.dtype}, the output's {output.dtype} is needed")
    if loss.device != output.device:
        raise TrialFailed(step, f"loss returned a tensor on {loss.device}, the output's {output.device} is needed")
    if not loss.requires_grad:
        raise TrialFailed(
            step, "loss returned a tensor without a gradient; a detour through NumPy needs a torch.autograd.Function"
        )


class _Stopwatch:
    """Adds up the time spent inside its `with` blocks, the device's work included."""

    def __init__(self, device: torch.device) -> None:
        self._waits = device.type != "cpu"
        self.elapsed_s = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._waits:
            torch.accelerator.synchronize()
        self.elapsed_s += time.perf_counter() - self._began


@contextlib.contextmanager
def _blamed(step: int | None, phase: str) -> Iterator[None]:
    """Turns whatever the user's code raises, `sys.exit` included, into `TrialFailed`."""
    try:
        yield
    except (Trouble, TrialFailed):
        raise
    except (Exception, SystemExit) as error:
        raise TrialFailed(step, f"{phase} raised {type(error).__name__}: {error}") from error


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _snapshot(next_step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "step": next_step,
        "model": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "python_rng": random.getstate(),
        "numpy_rng": np.random.get_state(),
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps_rng": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def _restore(state: dict[str, Any], model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    random.setstate(state["python_rng"])
    np.random.set_state(state["numpy_rng"])
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"]:
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    if state["mps_rng"] is not None:
        torch.mps.set_rng_state(state["mps_rng"])
