"""`parity.Recorder`: the trace of a training loop of your own, in a run directory like those of `python -m parity.run`.

Two recorded runs are compared by `python -m parity.report A B`. Nothing here changes a bit of the training.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from parity.driver import begun, gathering, recorded_trial, seal_run
from parity.ground.errors import OracleUnavailable, Trouble
from parity.observe.audit import oracle_of
from parity.observe.float64_step import (
    StepError,
    Values,
    on_host,
    relative_errors,
    spread_of,
    step_errors,
    strange,
    unit_of,
)
from parity.observe.observer import CAPACITY, Batch, Observer, unscaled
from parity.observe.recorded_step import RecordedStep
from parity.plan.device import Device
from parity.plan.trial import Place
from parity.store.events import Advanced, Began, Ended, Event, Found
from parity.store.files import write_json
from parity.store.run_info import describe
from parity.store.storage import StoragePath, parse_path
from parity.tasks.losses import Loss
from parity.train import machine
from parity.train.state import optimizer_settings, parameter_norms

# The rows of a chunk are durable after so long, or when the observer's buffers are full.
CHUNK_S = 0.5
NO_CRITERION = "the Recorder was given no criterion"


@dataclass
class _Pending:
    """A batch whose gradient is still to come, or has come and is still to be looked at.

    Attributes:
        batch: What was observed of it.
        output: What the loss got, outside of the graph.
        target: What the loss got.
        loss: What it returned, outside of the graph.
        factor: What the loss goes into the step with.
        output_grad: Of the output; None until backward has come by.
    """

    batch: Batch
    output: torch.Tensor
    target: torch.Tensor
    loss: torch.Tensor
    factor: float
    output_grad: torch.Tensor | None = None

    def take(self, grad: torch.Tensor) -> None:
        """Keeps a gradient for the output: a hook, so it returns nothing."""
        self.output_grad = grad.detach() if self.output_grad is None else self.output_grad + grad.detach()


class Recorder:
    """Records a training loop: `forward` before backward, `backward` after it, `step` after the optimizer's step.

        with parity.Recorder("runs/mine", model, optimizers=optimizer, criterion=nn.MSELoss()) as recorder:
            for inputs, target in batches:
                optimizer.zero_grad()
                output = model(inputs)
                loss = my_loss(output, target)
                recorder.forward(inputs, output=output, target=target, loss=loss)
                loss.backward()
                recorder.backward()
                optimizer.step()
                recorder.step()

    Under `torch.distributed` each rank records in a directory of its own, `rank-0`, `rank-1` and so on in `out`.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        model: torch.nn.Module,
        *,
        name: str = "loop",
        optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] = (),
        criterion: Loss | None = None,
        scaler: torch.amp.GradScaler | None = None,
        steps_per_epoch: int | None = None,
        audit_every: int = 1,
        seed: int = 0,
        replica: int = 0,
    ) -> None:
        """Begins a recording.

        Args:
            out: A new directory, or a URI.
            model: Whose parameters are traced, compiled or wrapped for `torch.distributed` or as it is; of several
                models a `torch.nn.ModuleDict`.
            name: Of what the loop tries, as it is to stand in the report: the loss's name, say.
            optimizers: One or several: their settings are stored, and gradients that change between backward and step
                (clipping) are told from the gradients of backward.
            criterion: The loss (output, target) -> scalar that is right: each step's loss and gradient are held against
                it in float64, which is what tells rounding from a bug. None leaves that out.
            scaler: Of `torch.amp`, whose scale is taken out of what is recorded.
            steps_per_epoch: So that the report names epoch and batch; None is one epoch without an end.
            audit_every: The audit takes every step that this divides, and partial batches.
            seed: Of the loop's generators, as the trial is named; it seeds nothing.
            replica: 0, or the number of the repeat.

        Raises:
            Trouble: The directory is there already, or cannot be made.
        """
        self._model = _unwrapped(model)
        several = [optimizers] if isinstance(optimizers, torch.optim.Optimizer) else list(optimizers)
        self._optimizers = [_inner(optimizer) for optimizer in several]
        self._scaler = scaler
        self._steps_per_epoch = steps_per_epoch
        self._audit_every = audit_every if criterion else 0
        device = _device(self._model)
        self._asked = {
            "name": name,
            "oracle": _name_of(criterion) if criterion else "",
            "device": vars(device),
            "seed": seed,
            "replica": replica,
            "audit_every": self._audit_every,
        }
        self._trial = recorded_trial(self._asked)
        self._oracle = oracle_of(criterion) if criterion else None
        self._observer = Observer(
            self._trial,
            self._model,
            oracle=self._oracle or _no_oracle,
            baseline=criterion or _no_oracle,
        )
        self._step = 0
        self._batch_rows: int | None = None
        self._pending: list[_Pending] = []
        self._scale = 1.0
        self._saw_backward = False
        self._step_grad_norm: torch.Tensor | None = None
        self._exact: RecordedStep | None = None
        self._own: Values = {}
        self._errors: list[StepError] = []
        self._missing: str | None = None
        self._saw_partial = False
        self._closed = False
        self._held = ExitStack()
        self._directory = _directory(out)
        try:
            self._begin(device)
        except BaseException:
            self._held.close()
            raise
        self._own_s = 0.0
        self._wall_began = time.time()
        self._began = self._step_began = self._flushed = time.perf_counter()

    def _begin(self, device: Device) -> None:
        self._held.enter_context(begun(self._directory))
        self._info = describe("parity.Recorder", [self._trial], data=None) | {
            "data": None,
            "lr": None,
            "quick": False,
            "recorded": self._asked,
        }
        write_json(self._directory / "run.json", self._info)
        self._gatherer = self._held.enter_context(gathering([self._trial], self._directory, quiet=True))
        self._facts: dict[str, Any] = {
            "param_names": [name.replace("_orig_mod.", "") for name, _ in self._model.named_parameters()],
            "initial_norms": parameter_norms(self._model),
            "optimizer": optimizer_settings(self._optimizers),
            "lr": _only_lr(self._optimizers),
            "batches": self._steps_per_epoch,
        }
        self._tell(Began(self._trial.name, machine.facts(device, ordinal=_ordinal(self._model))))
        for optimizer in self._optimizers:
            self._held.callback(optimizer.register_step_pre_hook(self._before_step).remove)

    def forward(
        self,
        inputs: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor],
        *,
        output: torch.Tensor,
        target: torch.Tensor,
        loss: torch.Tensor,
        factor: float = 1.0,
    ) -> None:
        """Records a batch on its way into the step: call it between the loss and its backward.

        Under gradient accumulation call it for each batch, with the factor that you multiply the loss by.

        Args:
            inputs: What the model got.
            output: What it gave and the loss gets, dtype[...], with its graph.
            target: What the loss gets.
            loss: What it returned, of one element, with its graph; neither scaled nor divided.
            factor: What you multiply it by before backward: 1 / k under accumulation over k batches.

        Raises:
            ValueError: The output or the loss has no graph, or the loss is no scalar.
            RuntimeError: `step` is missing since the last `backward`, or the recorder is closed.
        """
        began = time.perf_counter()
        self._check_open()
        if self._saw_backward:
            raise RuntimeError("Recorder.forward() after backward(): call step() after the optimizer's step first.")
        for what, tensor in (("output", output), ("loss", loss)):
            if not tensor.requires_grad:
                raise ValueError(
                    f"Recorder.forward(): the {what} has no graph, so no gradient can come by. Give it as is."
                )
        if loss.numel() != 1:
            raise ValueError(f"Recorder.forward(): the loss has shape {list(loss.shape)}, one element is needed.")
        self._settle()
        self._scale = float(self._scaler.get_scale()) if self._scaler else 1.0
        tensors = _tensors(inputs)
        rows = len(tensors[0]) if tensors and tensors[0].dim() else 1
        self._batch_rows = self._batch_rows or rows
        place = self._place(rows)
        if self._measured(place) and factor == self._scale == 1.0 and not self._observer.batches:
            self._take_exact(tensors, target)
        batch = self._observer.forward(place, tensors, output.detach(), target)
        pending = _Pending(batch, output.detach(), target, loss.detach().reshape(()), factor)
        output.register_hook(pending.take)  # type: ignore[no-untyped-call]
        self._pending.append(pending)
        self._own_s += time.perf_counter() - began

    def backward(self) -> None:
        """Records the gradients: call it after the last backward of a step, before unscaling and clipping.

        Raises:
            RuntimeError: `forward` is missing, backward has not come by the output, or the recorder is closed.
        """
        began = time.perf_counter()
        self._check_open()
        if not self._pending and not self._observer.batches:
            raise RuntimeError("Recorder.backward() without forward(): call that between the loss and its backward.")
        self._settle()
        self._observer.backward(scale=self._scale)
        if self._exact:
            self._own["param_grad"] = [on_host(parameter.grad) for parameter in self._model.parameters()]
        self._saw_backward = True
        self._own_s += time.perf_counter() - began

    def step(self) -> None:
        """Records the parameters, and closes the step: call it after the optimizer's step.

        Raises:
            RuntimeError: `backward` is missing, or the recorder is closed.
            Trouble: The rows cannot be written.
        """
        began = time.perf_counter()
        self._check_open()
        if not self._saw_backward:
            raise RuntimeError("Recorder.step() without backward(): call that after loss.backward(), before clipping.")
        self._own_s += time.perf_counter() - began
        self._observer.update(step_s=began - self._step_began - self._own_s, step_grad_norm=self._step_grad_norm)
        self._tell_exact()
        self._step += 1
        self._saw_backward, self._step_grad_norm = False, None
        now = time.perf_counter()
        if self._observer.rows == CAPACITY or now - self._flushed > CHUNK_S:
            self._flush()
            self._flushed = time.perf_counter()
        self._own_s = 0.0
        self._step_began = time.perf_counter()

    def close(self) -> None:
        """Ends the recording, and writes its tables.

        Raises:
            Trouble: They cannot be written. What was recorded before is kept.
        """
        self._end("complete")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._end("complete")
        elif isinstance(error, Exception):
            self._end("failed", error)
        else:  # Ctrl-C, sys.exit
            self._end("interrupted")

    def _end(self, status: str, error: BaseException | None = None) -> None:
        if self._closed:
            return
        self._closed = True
        with self._held:
            self._flush()
            if status != "interrupted":
                self._tell(self._ended(status, error))
            self._gatherer.write_tables()
            seal_run(self._directory, self._info | {"steps": self._step})

    def _ended(self, status: str, error: BaseException | None) -> Ended:
        return Ended(
            self._trial.name,
            status=status,
            failed_step=self._step if error else None,
            failure="raised" if error else None,
            error=f"the loop raised {type(error).__name__}: {error}" if error else None,
            traceback="".join(traceback.format_exception(error)) if error else None,
            wall_s=time.perf_counter() - self._began,
            began_s=self._wall_began,
            ended_s=time.time(),
        )

    def _place(self, rows: int) -> Place:
        epoch, batch = divmod(self._step, self._steps_per_epoch) if self._steps_per_epoch else (0, self._step)
        assert self._batch_rows is not None, "set from the first batch"
        partial_batch = rows < self._batch_rows
        audited = self._audit_every > 0 and (self._step % self._audit_every == 0 or partial_batch)
        return Place(self._step, epoch, batch, rows, partial=partial_batch, audited=audited)

    def _settle(self) -> None:
        """Looks at the batches whose gradients have come by."""
        pending, self._pending = self._pending, []
        for each in pending:
            if each.output_grad is None:
                raise RuntimeError(
                    "Recorder: backward has not come by the output that forward() got. Give the tensor that the loss "
                    "was computed from; torch.compile may have the model, but not model and loss in one graph."
                )
            grad = each.output_grad if self._scale == 1.0 else unscaled(each.output_grad, self._scale)
            if self._exact:
                own = {"output": each.output, "loss": each.loss, "output_grad": grad}
                self._own = {quantity: [on_host(tensor)] for quantity, tensor in own.items()}
            self._observer.loss(
                each.batch, each.output, each.target, loss=each.loss, output_grad=grad, factor=each.factor
            )

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """What the optimizer gets: a hook of it."""
        if self._saw_backward:
            began = time.perf_counter()
            norm = self._observer.gradient_norm()
            scale = getattr(optimizer, "grad_scale", None)  # of a fused optimizer, which takes it out by itself
            self._step_grad_norm = norm if scale is None else norm / scale
            if self._exact and "param" not in self._exact.values and torch.equal(norm, self._observer.param_grad_norm):
                try:
                    self._exact.update(self._optimizers, self._model)
                except OracleUnavailable as error:
                    self._missing = str(error)
            self._own_s += time.perf_counter() - began

    def _measured(self, place: Place) -> bool:
        """Whether the step is to be held against float64: the first, one soon after, the first of a partial batch."""
        first_partial = place.partial and not self._saw_partial
        self._saw_partial |= place.partial
        return self._oracle is not None and (place.step in (0, 10) or first_partial)

    def _take_exact(self, inputs: Sequence[torch.Tensor], target: torch.Tensor) -> None:
        assert self._oracle is not None, "measured with a criterion only"
        try:
            self._exact = RecordedStep(self._model, inputs, target, self._oracle)
        except OracleUnavailable as error:
            self._missing = str(error)

    def _tell_exact(self) -> None:
        """Stores how far the step is from the step in float64."""
        exact, self._exact = self._exact, None
        if exact is None:
            return
        if "param" in exact.values:
            self._own["param"] = [on_host(parameter) for parameter in self._model.parameters()]
        try:
            errors = relative_errors(self._own, exact.values)
        except ValueError as error:  # of other shapes
            self._missing = f"the model in float64 gives another output: {error}"
            return
        if missing := strange(errors):
            self._missing = missing
            return
        names = self._facts["param_names"]
        spread = partial(spread_of, exact.take, exact.values, unit=unit_of(self._model))
        try:
            self._errors += step_errors(self._step, names, errors, exact.values, spread)
        except OracleUnavailable as error:
            self._missing = str(error)

    def _flush(self) -> None:
        if self._observer.rows:
            facts = self._facts | {
                "loss_dtype": str(self._observer.loss_dtype).removeprefix("torch."),
                "audit_error": self._observer.audit_error if self._audit_every else NO_CRITERION,
                "steps": self._step,
                "batch_size": self._batch_rows,
            }
            self._tell(Advanced(self._trial.name, self._observer.flush(), facts))
            if self._errors or self._missing:
                rows = tuple(vars(error) for error in self._errors)
                self._tell(Found(self._trial.name, "step_errors", rows, self._missing))
                self._errors, self._missing = [], None
            findings = self._observer.take_findings()
            if findings:
                self._tell(Found(self._trial.name, "findings", tuple(vars(finding) for finding in findings)))

    def _tell(self, event: Event) -> None:
        self._gatherer.take([event])

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("The Recorder is closed.")


def _directory(out: str | os.PathLike[str]) -> StoragePath:
    """Of the run; of each rank one of its own."""
    path = parse_path(os.fspath(out))
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1:
        return path / f"rank-{torch.distributed.get_rank()}"
    return path


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model itself, whose parameters have the same names however it is compiled or distributed."""
    inner = model.module if isinstance(model, DistributedDataParallel) else getattr(model, "_orig_mod", None)
    return _unwrapped(inner) if isinstance(inner, torch.nn.Module) else model


def _inner(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer itself, which a library may have wrapped."""
    inner = getattr(optimizer, "optimizer", None)
    return _inner(inner) if isinstance(inner, torch.optim.Optimizer) else optimizer


def _device(model: torch.nn.Module) -> Device:
    """The device that the model is on, with the settings that change its bits."""
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise Trouble("parity.Recorder: the model has no parameters to trace.")
    kind = parameter.device.type
    if kind == "cpu":
        return Device(kind, threads=torch.get_num_threads())
    return Device(kind, tf32=kind == "cuda" and torch.backends.cuda.matmul.allow_tf32)


def _ordinal(model: torch.nn.Module) -> int:
    """Number of the GPU in this process."""
    return next(model.parameters()).device.index or 0


def _only_lr(optimizers: Sequence[torch.optim.Optimizer]) -> float | None:
    """The learning rate at the beginning, where there is one."""
    rates = {float(group["lr"]) for optimizer in optimizers for group in optimizer.param_groups if "lr" in group}
    return rates.pop() if len(rates) == 1 else None


def _name_of(criterion: Loss) -> str:
    return getattr(criterion, "__name__", type(criterion).__name__)


def _no_oracle(*_: torch.Tensor) -> Any:
    raise OracleUnavailable(NO_CRITERION)


def _tensors(inputs: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The tensors of a batch, in its order."""
    if isinstance(inputs, torch.Tensor):
        return [inputs]
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    return [value for value in values if isinstance(value, torch.Tensor)]
