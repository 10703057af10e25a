"""One optimizer step of a trial: forward, loss, backward and update, with the user's code checked at each boundary."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from parity.ground.errors import TrialFailed, Trouble
from parity.ground.forked import end_copy
from parity.ground.quoting import explain_error
from parity.observe.audit import Oracle, make_oracle
from parity.observe.generators import seed_generators
from parity.observe.observer import Observer
from parity.observe.parameters import lazy_parameter
from parity.plan.trial import Trial
from parity.tasks import Task
from parity.tasks.loading import load_task
from parity.tasks.losses import Loss, is_widened, load_loss
from parity.tasks.outputs import Outputs, cut_off, describe, learning_parts, parts, separated, tensors
from parity.train import surroundings
from parity.train.passing_on import pass_on
from parity.train.planted import planted, spoil_gradient
from parity.train.rounding_noise import round_randomly
from parity.train.switches import prepare


@dataclass(frozen=True)
class Training:
    """Everything that a trial trains with, made and moved to its device.

    Attributes:
        trial: Description of the trial.
        task: What is trained.
        loss: The trial's loss.
        baseline: The loss that it is compared with.
        oracle: The baseline in float64.
        device: Where the model is.
        model: The model.
        optimizer: The optimizer of its parameters.
    """

    trial: Trial
    task: Task
    loss: Loss
    baseline: Loss
    oracle: Oracle
    device: torch.device
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer


@dataclass(frozen=True)
class StepValues:
    """What a step computed, apart from gradients and parameters, which are in the model.

    Attributes:
        output: What the loss was given; dtype[...], or a tree.
        target: What the loss was given.
        loss: What it returned; dtype[].
        output_grad: Its gradient for each part of the output.
    """

    output: Outputs
    target: Outputs
    loss: torch.Tensor
    output_grad: Sequence[torch.Tensor]


def begin(trial: Trial) -> Training:
    """Loads a trial's code, seeds the generators, and makes model and optimizer.

    Raises:
        TrialFailed: The user's code raised, or made nothing that can be trained.
        Trouble: The machine does not have the device, or a loss cannot be called.
    """
    # The seeds come after all loading: code that draws while it is imported must not shift the model's initial numbers.
    with Blamed(None, "loading the task"):
        task = load_task(trial.settings.task)
    with Blamed(None, "loading the loss"):
        loss, baseline = load_loss(trial.loss, task), load_loss(trial.oracle, task)
        oracle = make_oracle(trial.oracle, task)
    device = prepare(trial.device)  # after the user's code is loaded, whose import may have set other switches
    seed_generators(trial.seed)
    with Blamed(None, "the task's model"), surroundings.for_model(float32=trial.settings.task.shipped):
        model = task.model()
    _check_model(model)
    # Made on the CPU and moved, so that every device begins with the same parameters.
    model = model.to(device)
    with Blamed(None, "the task's optimizer"):
        optimizer = task.optimizer(model.parameters(), trial.settings.lr)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TrialFailed(
            None, f"the task's optimizer() returned {_type(optimizer)}, a torch.optim.Optimizer is needed"
        )
    return Training(trial, task, loss, baseline, oracle, device, model, optimizer)


def make_batch(training: Training, data: Mapping[str, np.ndarray], step: int) -> tuple[torch.Tensor, ...]:
    """The step's batch, on the device.

    Raises:
        TrialFailed: The task's `batch` raised, or returned something other than a tuple of tensors.
    """
    with Blamed(step, "the task's batch"):
        batch = training.task.batch(data, *training.trial.settings.row_range(step))
    if not isinstance(batch, tuple) or not all(isinstance(tensor, torch.Tensor) for tensor in batch):
        raise TrialFailed(step, f"the task's batch() returned {_type(batch)}, a tuple of tensors is needed")
    # Made on the CPU by every task, and moved here. A view of the data, which other trials have too, is copied.
    return tuple(
        (tensor.clone() if surroundings.is_view(tensor, data.values()) else tensor).to(training.device)
        for tensor in batch
    )


def forward(training: Training, batch: tuple[torch.Tensor, ...], step: int) -> tuple[Outputs, Outputs]:
    """The output of the model and the target of the batch, as the task's `forward` returns them; dtype[...], or trees.

    Raises:
        TrialFailed: The model raised, or returned something other than a pair of an output with a floating-point part
            that depends on the parameters, and a target.
    """
    with Blamed(step, "the model"):
        pair = training.task.forward(training.model, batch)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TrialFailed(step, f"the task's forward() returned {_type(pair)}, a pair (output, target) is needed")
    output, target = pair
    for name, value in (("output", output), ("target", target)):
        if not tensors(value):
            raise TrialFailed(
                step, f"the task's forward() gave {describe(value)} as {name}, a tensor or a tree of tensors is needed"
            )
    floating = parts(output)
    if not floating:
        found = str(output.dtype) if isinstance(output, torch.Tensor) else describe(output)
        raise TrialFailed(step, f"the task's forward() gave an output of {found}, a floating dtype is needed")
    empty = next((part for part in floating if not part.numel()), None)
    if empty is not None:
        raise TrialFailed(step, f"the task's forward() gave an output of shape {list(empty.shape)}, which is empty")
    if not any(part.requires_grad for part in floating):
        raise TrialFailed(step, "the task's forward() gave an output that does not depend on the model's parameters")
    return output, target


def take_step(
    training: Training, data: Mapping[str, np.ndarray], step: int, observer: Observer | None = None
) -> StepValues:
    """Takes one optimizer step and records it; the observer's work is not in the step's time.

    Args:
        training: What to train; its model and optimizer change.
        data: The task's data; dtype[rows, ...] by name.
        step: Number of the step, from 0.
        observer: Records the step, or None.

    Raises:
        TrialFailed: The loss or the task raised, or broke its protocol.
    """
    trial, model, optimizer = training.trial, training.model, training.optimizer
    plant = trial.device.plant
    # Before the batch, whose making may draw from the generators.
    if observer:
        observer.begin()
    # Outside of the step's time, which is that of forward, loss, backward and optimizer.
    batch = make_batch(training, data, step)
    clock = _Stopwatch(training.device)
    with clock, planted(plant):
        optimizer.zero_grad()
        output, target = forward(training, batch, step)
    # The loss gets a tree whose parts are cut off from each other, so that it has one gradient for each of them.
    given = separated(output)
    # Also for the parts of the target that the model has computed, as the second tower of a contrastive loss.
    sources = learning_parts(target)
    target = cut_off(target)
    # Before the loss is called, which may make a target require a gradient that nobody is waiting for.
    learning = learning_parts(target)
    if observer:
        if "computed_dtype" not in observer.facts:
            observer.graph(output)
        # Before the loss is called: the audit finds by these digests that the loss has written to its output or target.
        observed = observer.forward(trial.settings.place(step), batch, given, target, computed=learning)
        observer.before_loss()
    with Blamed(step, "the loss"), clock:
        loss = training.loss(given, target)
    _check_loss(step, loss, given)
    # loss.backward() in two halves, with the same bits: the audit judges the gradient between loss and model.
    with Blamed(step, "the loss's backward"), clock:
        output_grad, target_grad = _gradients(step, loss, given, learning)
    if trial.noise:
        # The first part gets the seed that a single tensor gets.
        seed = (trial.seed, trial.noise, step)
        output_grad = [
            round_randomly(grad, seed=(*seed, number) if number else seed) for number, grad in enumerate(output_grad)
        ]
    if observer:
        observer.loss(observed, given, target, loss=loss, output_grad=output_grad, target_grad=target_grad)
        if observer.doubt is not None:
            observer.passed_on(pass_on(model, output, observer.doubt))
    with Blamed(step, "the model's backward"), clock, planted(plant):
        send_back([*parts(output), *sources], [*output_grad, *target_grad])
    # Before the observer sees the gradient, as a faulty device would have it.
    spoil_gradient(plant, step, model, replica=trial.replica)
    if observer:
        observer.backward()
        observer.before_update(optimizer)
    with Blamed(step, "the optimizer"), clock:
        optimizer.step()
    if observer:
        # Nothing comes between backward and optimizer here.
        observer.update(step_s=clock.elapsed_s, unchanged=True)
    return StepValues(given, target, loss, output_grad)


def send_back(computed: Sequence[torch.Tensor], grads: Sequence[torch.Tensor]) -> None:
    """Adds the gradient for the parameters, by a backward pass from the gradient for each tensor of the model's."""
    # A part without a graph (a constant of the model) has nowhere to send its gradient.
    learning = [(part, grad) for part, grad in zip(computed, grads, strict=True) if part.requires_grad]
    torch.autograd.backward([part for part, _ in learning], [grad for _, grad in learning])


class Blamed:
    """Turns whatever the user's code raises inside, `sys.exit` included, into `TrialFailed`."""

    # Not contextlib.contextmanager, whose generators cost 40 microseconds a step.
    def __init__(self, step: int | None, phase: str) -> None:
        self._step, self._phase = step, phase

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        end_copy()
        # Not BaseException: Ctrl-C is not the doing of the user's code. Trouble and TrialFailed have been explained.
        if isinstance(error, (Exception, SystemExit)) and not isinstance(error, (Trouble, TrialFailed)):
            raise TrialFailed(self._step, f"{self._phase} raised {explain_error(error)}") from error


def _gradients(
    step: int, loss: torch.Tensor, given: Outputs, targets: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The loss's gradient for each part of the output, and for these parts of the target; zeros for an unused one.

    Raises:
        TrialFailed: The loss does not depend on the output.
    """
    floating = parts(given)
    # allow_unused gives None instead of raising, so that a detached loss gets a message of its own.
    grads = torch.autograd.grad(loss, [*floating, *targets], allow_unused=True)
    if all(grad is None for grad in grads[: len(floating)]):
        raise TrialFailed(step, "loss has no gradient for its output, which it must depend on", kind="detached")
    found = [
        torch.zeros_like(part) if grad is None else grad
        for part, grad in zip([*floating, *targets], grads, strict=True)
    ]
    return found[: len(floating)], found[len(floating) :]


def _check_model(model: object) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TrialFailed(None, f"the task's model() returned {_type(model)}, a torch.nn.Module is needed")
    if lazy := lazy_parameter(model):
        raise TrialFailed(
            None, f"the task's model() has the parameter {lazy} without a shape; let model() call it once on a batch"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrialFailed(None, f"the task's model() has no parameters to train; {_type(model)} has none")


def _check_loss(step: int, loss: object, output: Outputs) -> None:
    """Raises `TrialFailed` unless the loss is a scalar with a gradient, on the output's device and as wide as it."""
    if not isinstance(loss, torch.Tensor):
        raise TrialFailed(step, f"loss returned {_type(loss)}, a tensor is needed", kind="result")
    if loss.shape != ():
        raise TrialFailed(step, f"loss returned shape {list(loss.shape)}, a scalar is needed", kind="result")
    # A dict for its order: the message must not depend on hashes.
    dtypes = list(dict.fromkeys(part.dtype for part in parts(output)))
    if loss.dtype not in dtypes and not is_widened(loss.dtype, dtypes):  # the second is usual in mixed precision
        raise TrialFailed(
            step,
            f"loss returned {loss.dtype}, the output's {' or '.join(map(str, dtypes))} is needed",
            kind="result",
        )
    device = parts(output)[0].device
    if loss.device != device:
        raise TrialFailed(
            step, f"loss returned a tensor on {loss.device}, the output's {device} is needed", kind="result"
        )
    if not loss.requires_grad:
        raise TrialFailed(
            step,
            "loss returned a tensor without a gradient; a detour through NumPy needs a torch.autograd.Function",
            kind="detached",
        )


class _Stopwatch:
    """Adds up the time spent inside its `with` blocks, the device's work included."""

    def __init__(self, device: torch.device) -> None:
        self._waits = device.type != "cpu"
        self.elapsed_s = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        # An accelerator computes asynchronously: without waiting, only the launches would be timed.
        if self._waits:
            torch.accelerator.synchronize()
        self.elapsed_s += time.perf_counter() - self._began


def _type(value: object) -> str:
    return type(value).__name__
