"""One plain training loop with a hook at each place where two loops may differ; recorded with `parity.Recorder`."""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_map_only

import parity

from .models import normed, points


@dataclass
class Training:
    """What the hooks of a loop see, and may change.

    Attributes:
        model: What is trained.
        called: What is called: the model, or a wrapper of it.
        optimizer: Its optimizer.
        batches: Inputs and target of each step.
        step: Optimizer step, from 0.
        inputs: What the model is called with.
        target: What the loss is given.
        factor: What the loss is multiplied by before backward.
        output: What the model returned.
        loss: The loss of this batch.
        scheduler: Of the learning rate, or None.
        scaler: Of mixed precision, or None.
        ema: An average of the model, or None.
        kept: Whatever a hook keeps from step to step.
    """

    model: nn.Module
    called: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Sequence[tuple[Any, torch.Tensor]]
    step: int = 0
    inputs: Any = None
    target: Any = None
    factor: float = 1.0
    output: Any = None
    loss: Any = None
    scheduler: Any = None
    scaler: Any = None
    ema: nn.Module | None = None
    kept: dict[str, Any] = field(default_factory=dict)


Hook = Callable[[Training], None]
Micro = tuple[Any, Any, float]


def nothing(t: Training) -> None:
    """Does nothing."""


def of(loss: Callable[[Any, Any], torch.Tensor]) -> Callable[[Training], torch.Tensor]:
    """The hook that calls a loss of output and target."""
    return lambda t: loss(t.output, t.target)


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), 1e-3, foreach=False)


def _clear(t: Training) -> None:
    t.optimizer.zero_grad()


def _forward(t: Training) -> Any:
    return t.called(t.inputs)


def _backward(t: Training) -> None:
    (t.loss if t.factor == 1.0 else t.loss * t.factor).backward()


def _update(t: Training) -> None:
    t.optimizer.step()


def _whole(t: Training) -> Iterator[Micro]:
    yield t.inputs, t.target, 1.0


CROSS_ENTROPY = of(F.cross_entropy)


@dataclass(frozen=True)
class Loop:
    """A training loop: its hooks, in the order in which a step calls them.

    Attributes:
        model: Makes the model.
        wrap: Makes what is called of it.
        batches: Makes inputs and target of this number of steps.
        optimizer: Makes the optimizer of a model.
        begin: Called once, before the first step.
        before: Called at the start of each step.
        clear: Clears the gradients.
        split: The micro-batches of a step: inputs, target and the factor of the loss.
        forward: Calls the model.
        loss: Calls the loss.
        backward: Calls backward.
        ready: Called between backward and the optimizer's step: clipping.
        update: Takes the optimizer's step.
        after: Called after it: schedulers, averages.
        criterion: What the Recorder is given, or None.
        steps: Number of steps.
        threads: Threads of an operation.
        first_step: Where the recorded part begins: the steps before it are trained, saved and restored by `restore`.
        restore: Takes a saved training up again; None where the loop is not resumed.
        rank_share: The part of a batch that a rank takes, of (tensor, rank, ranks); None for a loop of one process.
    """

    model: Callable[[], nn.Module] = normed
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    batches: Callable[[int], Sequence[tuple[Any, torch.Tensor]]] = points
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = _adamw
    begin: Hook = nothing
    before: Hook = nothing
    clear: Hook = _clear
    split: Callable[[Training], Iterator[Micro]] = _whole
    forward: Callable[[Training], Any] = _forward
    loss: Callable[[Training], torch.Tensor] = CROSS_ENTROPY
    backward: Hook = _backward
    ready: Hook = nothing
    update: Hook = _update
    after: Hook = nothing
    criterion: Callable[[Any, Any], torch.Tensor] | None = F.cross_entropy
    steps: int = 16
    threads: int = 1
    first_step: int = 0
    restore: Callable[[dict[str, Any], Training], None] | None = None
    rank_share: Callable[[torch.Tensor, int, int], torch.Tensor] | None = None


@dataclass(frozen=True)
class History:
    """What a loop left, to be compared without parity.

    Attributes:
        first_step: The step of the first of them.
        losses: float64[], of each step, as it enters the step.
        parameters: float64[P], after each step.
        buffers: float64[B], after each step; those of the average of the model among them.
    """

    first_step: int
    losses: tuple[float, ...]
    parameters: tuple[np.ndarray, ...]
    buffers: tuple[np.ndarray, ...]


class _Unrecorded:
    """A recorder that records nothing."""

    def forward(self, inputs: Any, **_: Any) -> None: ...

    def backward(self) -> None: ...

    def step(self) -> None: ...


def train(loop: Loop, out: Path | None = None, device: str = "cpu") -> History:
    """Trains a loop on a device, and records it into a new directory if one is given."""
    threads = torch.get_num_threads()
    torch.set_num_threads(loop.threads)
    try:
        t = _resumed(loop, device) if loop.restore else _begun(loop, device)
        rows: list[tuple[float, np.ndarray, np.ndarray]] = []
        with _recorder(loop, t, out) as recorder:
            for t.step in range(loop.first_step, loop.steps):
                loss = _take_step(loop, t, recorder)
                rows.append((loss, _flat(t.model.parameters()), _flat(_buffers(t))))
    finally:
        torch.set_num_threads(threads)
    return History(loop.first_step, *zip(*rows, strict=True))


def _begun(loop: Loop, device: str) -> Training:
    _seed(0)
    # Made on the CPU, so that every device begins with the same numbers.
    model = loop.model().to(device)
    batches = tree_map_only(torch.Tensor, lambda each: each.to(device), loop.batches(loop.steps))
    t = Training(model, loop.wrap(model), loop.optimizer(model), batches)
    # Again: models of other code draw more or fewer numbers, on which those of the training must not depend.
    _seed(1)
    loop.begin(t)
    return t


def _resumed(loop: Loop, device: str) -> Training:
    """The training after its first steps, saved and taken up again by a new one."""
    old = _begun(loop, device)
    for old.step in range(loop.first_step):
        _take_step(loop, old, _Unrecorded())
    saved = {
        "model": old.model.state_dict(),
        "optimizer": old.optimizer.state_dict(),
        "generator": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        "scheduler": old.scheduler and old.scheduler.state_dict(),
        "scaler": old.scaler and old.scaler.state_dict(),
    }
    saved = copy.deepcopy(saved)
    t = _begun(loop, device)
    assert loop.restore is not None
    loop.restore(saved, t)
    return t


def _take_step(loop: Loop, t: Training, recorder: Any) -> float:
    t.inputs, t.target = t.batches[t.step]
    if loop.rank_share:
        rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        t.inputs, t.target = (loop.rank_share(each, rank, ranks) for each in (t.inputs, t.target))
    loop.before(t)
    loop.clear(t)
    total = 0.0
    for inputs, target, factor in loop.split(t):
        t.inputs, t.target, t.factor = inputs, target, factor
        t.output = loop.forward(t)
        t.loss = loop.loss(t)
        recorder.forward(t.inputs, output=t.output, target=t.target, loss=t.loss, factor=t.factor)
        loop.backward(t)
        total += t.factor * t.loss.item()
    recorder.backward()
    loop.ready(t)
    loop.update(t)
    loop.after(t)
    recorder.step()
    return total


def _recorder(loop: Loop, t: Training, out: Path | None) -> AbstractContextManager[Any]:
    if out is None:
        return nullcontext(_Unrecorded())
    # Keywords that a Recorder has only lately are given only where they say something: see `pair.NEEDS`.
    lately: dict[str, Any] = {"first_step": loop.first_step} if loop.first_step else {}
    if t.ema is not None:
        lately["also"] = {"ema": t.ema}
    return parity.Recorder(out, t.called, optimizers=t.optimizer, criterion=loop.criterion, scaler=t.scaler, **lately)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():  # each call keeps its stack for the day when there is a device
        torch.cuda.manual_seed_all(seed)


def _buffers(t: Training) -> Iterator[torch.Tensor]:
    yield from t.model.buffers()
    if t.ema is not None:
        yield from t.ema.parameters()
        yield from t.ema.buffers()


def _flat(tensors: Iterator[torch.Tensor]) -> np.ndarray:
    return np.concatenate([each.detach().double().reshape(-1).cpu().numpy() for each in tensors] or [np.zeros(0)])


@contextmanager
def float64() -> Iterator[None]:
    """Within it models, data and optimizers are made in float64: two loops that mean the same then agree."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
