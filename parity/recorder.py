"""`parity.Recorder`: the trace of a training loop of your own, in a run directory like those of `python -m parity.run`.

Two recorded runs are compared by `python -m parity.report A B`. Nothing here changes a bit of the training.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import torch

from parity.driver import begun, gathering, recorded_trial, seal_run
from parity.ground.errors import OracleUnavailable
from parity.observe.audit import oracle_of
from parity.observe.batch import Batch
from parity.observe.measured_steps import MeasuredSteps
from parity.observe.observer import CAPACITY, Observer, unscaled
from parity.observe.user_loop import (
    dependence,
    device_of,
    inner_optimizer,
    name_of,
    only_lr,
    ordinal_of,
    tensors_of,
    unwrapped,
)
from parity.plan.device import Device
from parity.plan.numbers import checked
from parity.plan.trial import Place
from parity.store.events import Advanced, Began, Ended, Event, Found
from parity.store.files import write_json
from parity.store.run_info import describe
from parity.store.statuses import EndStatus
from parity.store.storage import StoragePath, parse_path
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs, map_tensors, parts, rows_of
from parity.train import machine
from parity.train.state import optimizer_settings, parameter_norms

# The rows of a chunk are stored after this many seconds, or when the observer's buffers are full.
CHUNK_S = 0.5
NO_CRITERION = "the Recorder was given no criterion"


@dataclass
class _Pending:
    """A batch whose gradient has not arrived yet, or has arrived and has not been observed yet.

    Attributes:
        batch: What was observed of it so far.
        output: What the loss was given, outside of the graph.
        target: What the loss was given.
        loss: What it returned, outside of the graph.
        factor: What the loss is multiplied by before it enters the step.
        grads: The gradient for each part of the output, by its number, as backward has brought it.
    """

    batch: Batch
    output: Outputs
    target: Outputs
    loss: torch.Tensor
    factor: float
    grads: dict[int, torch.Tensor] = field(default_factory=dict)

    def watch(self, number: int, part: torch.Tensor) -> None:
        """Keeps the gradient for a part of the output when backward brings it."""

        def keep(grad: torch.Tensor) -> None:
            # A second backward through the same graph calls the hook again, and its gradient is added, as torch adds it
            # to the parameters.
            before = self.grads.get(number)
            self.grads[number] = grad.detach() if before is None else before + grad.detach()

        # A hook sees the gradient on its way and changes nothing; retain_grad() would leave a gradient on the user's
        # tensor.
        part.register_hook(keep)  # type: ignore[no-untyped-call]


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
            model: The model whose parameters are traced, also if it is compiled or wrapped for `torch.distributed`; for
                several models a `torch.nn.ModuleDict`.
            name: What the report calls the loop, for example the name of its loss.
            optimizers: One optimizer or several: their settings are stored, and gradients that change between backward
                and step (clipping) are distinguished from the gradients of backward.
            criterion: The correct loss, (output, target) -> scalar: the loss and the gradient of each audited step are
                compared with it in float64, which is what separates rounding from a bug. None turns this off.
            scaler: The `torch.amp` scaler of the loop; its scale is divided out of what is recorded.
            steps_per_epoch: Number of steps in an epoch, so that the report names epoch and batch; with None, all steps
                belong to one epoch.
            audit_every: The audit checks every step whose number this divides, and partial batches; 0 turns it off.
            seed: The seed of the loop's generators, which names the trial; the Recorder seeds nothing.
            replica: 0, or the number of the repeat.

        Raises:
            Trouble: The directory exists already, or cannot be made; the model has no parameters; or a number is not
                allowed.
        """
        audit_every, seed = checked("audit_every", audit_every), checked("seed", seed)
        replica = checked("replica", replica)
        steps_per_epoch = None if steps_per_epoch is None else checked("steps_per_epoch", steps_per_epoch)
        # Without their wrappers: parameters then have the same names, and the hooks are on the optimizer that steps.
        self._model = unwrapped(model)
        several = [optimizers] if isinstance(optimizers, torch.optim.Optimizer) else list(optimizers)
        self._optimizers = [inner_optimizer(optimizer) for optimizer in several]
        self._scaler = scaler
        self._steps_per_epoch = steps_per_epoch
        # Without a criterion there is nothing to audit with.
        self._audit_every = audit_every if criterion else 0
        device = device_of(self._model)
        # Stored in run.json: `recorded_trial` makes the same trial of it when the run is read again.
        self._asked = {
            "name": name,
            "oracle": name_of(criterion) if criterion else "",
            "device": vars(device),
            "seed": seed,
            "replica": replica,
            "audit_every": self._audit_every,
        }
        self._trial = recorded_trial(self._asked)
        oracle = oracle_of(criterion) if criterion else None
        # An observer needs an oracle. The one of a recorder without a criterion is never asked, since no step is
        # audited.
        self._observer = Observer(
            self._trial, self._model, oracle=oracle or _no_oracle, baseline=criterion or _no_oracle
        )
        self._measured = MeasuredSteps(self._model, self._optimizers, oracle)
        self._begin_state()
        # Directory, journal and hooks: whatever has to be let go when the recording ends, however it ends.
        self._held = ExitStack()
        self._directory = _directory(out)
        try:
            self._begin(device)
        # Ctrl-C included: the lock on the directory must not outlive the recorder.
        except BaseException:
            self._held.close()
            raise
        # Time spent in here since the last step; it is taken out of the step's time.
        self._own_s = 0.0
        # Wall time to be stored, and a clock that never jumps to measure with.
        self._wall_began = time.time()
        self._began = self._step_began = self._flushed = time.perf_counter()

    def _begin_state(self) -> None:
        """Where the recording stands: nothing of the first step has been seen."""
        self._step = 0
        self._batch_rows: int | None = None
        self._pending: list[_Pending] = []
        self._scale = 1.0
        self._saw_backward = False
        self._step_grad_norm: torch.Tensor | None = None
        self._closed = False

    def _begin(self, device: Device) -> None:
        """Makes the run directory, opens its journal, and hooks the optimizers.

        Raises:
            Trouble: The directory exists already, or cannot be made.
        """
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
            # torch.compile puts `_orig_mod.` into the names of parameters that are compiled in a submodule.
            "param_names": [name.replace("_orig_mod.", "") for name, _ in self._model.named_parameters()],
            "initial_norms": parameter_norms(self._model),
            "optimizer": optimizer_settings(self._optimizers),
            "lr": only_lr(self._optimizers),
            "batches": self._steps_per_epoch,
        }
        self._send(Began(self._trial.name, machine.facts(device, ordinal=ordinal_of(self._model))))
        # Hooks are removed with everything else that is held: a loop may go on after its recording.
        for optimizer in self._optimizers:
            self._held.callback(optimizer.register_step_pre_hook(self._before_step).remove)

    def forward(
        self,
        inputs: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor],
        *,
        output: Outputs,
        target: Outputs,
        loss: torch.Tensor,
        factor: float = 1.0,
    ) -> None:
        """Records a batch on its way into the step: call it between the loss and its backward.

        Under gradient accumulation call it for each batch, with the factor that you multiply the loss by.

        Args:
            inputs: What the model was called with: a tensor, or a sequence or dict whose tensors count.
            output: What the model returned and the loss was given, with its graph; dtype[...], or a tree of tensors.
            target: What the loss was given as the target; dtype[...], or a tree of tensors.
            loss: What the loss returned, of one element, with its graph; neither scaled nor divided.
            factor: What you multiply the loss by before backward: 1 / k under accumulation over k batches.

        Raises:
            ValueError: The output or the loss has no graph, or the loss is not a scalar.
            RuntimeError: `step` is missing since the last `backward`, or the recorder is closed.
        """
        began = time.perf_counter()
        self._check_open()
        # A batch that came now would be counted to the step that has had its backward already.
        if self._saw_backward:
            raise RuntimeError("Recorder.forward() after backward(): call step() after the optimizer's step first.")
        floating = parts(output)
        _check_graph(floating, loss)
        # Under accumulation the batch before has had its backward by now. Its gradients are observed at once, so that
        # no more than one batch is kept.
        self._settle()
        # Asked at each batch: a scaler changes its scale between steps.
        self._scale = float(self._scaler.get_scale()) if self._scaler else 1.0
        tensors = tensors_of(inputs)
        rows = rows_of(tensors) if tensors else 1
        # The first batch decides what a whole batch is; a later one with fewer rows is partial.
        self._batch_rows = self._batch_rows or rows
        place = self._place(rows)
        # Once: the way in which parts depend on each other is that of the model.
        if self._step == 0 and self._audit_every:
            self._observer.audit_error = self._observer.audit_error or dependence(output)
        # A step of one batch alone is taken in float64, and only while nothing has scaled its gradient.
        if self._measured.due(place) and factor == self._scale == 1.0 and not self._observer.batches:
            self._measured.forward(tensors, target)
        # Without its graph: what is kept here must not keep the step's memory.
        detached = map_tensors(torch.Tensor.detach, output)
        batch = self._observer.forward(place, tensors, detached, target)
        # A loss of shape [1] is a scalar for the trace.
        pending = _Pending(batch, detached, target, loss.detach().reshape(()), factor)
        for number, part in enumerate(floating):
            pending.watch(number, part)
        self._pending.append(pending)
        self._own_s += time.perf_counter() - began

    def backward(self) -> None:
        """Records the gradients: call it after the last backward of a step, before unscaling and clipping.

        Raises:
            RuntimeError: `forward` is missing, backward did not pass the output, or the recorder is closed.
        """
        began = time.perf_counter()
        self._check_open()
        if not self._pending and not self._observer.batches:
            raise RuntimeError("Recorder.backward() without forward(): call that between the loss and its backward.")
        self._settle()
        self._observer.backward(scale=self._scale)
        self._measured.backward()
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
        # Before `update`, which is given the step's time without that of the recorder.
        self._own_s += time.perf_counter() - began
        # Up to the call of step(), less what the calls before it took: the digests of `update` are not in it either.
        self._observer.update(step_s=began - self._step_began - self._own_s, step_grad_norm=self._step_grad_norm)
        self._measured.after_update(self._step)
        self._step += 1
        self._saw_backward, self._step_grad_norm = False, None
        now = time.perf_counter()
        if self._observer.rows == CAPACITY or now - self._flushed > CHUNK_S:
            self._flush()
            self._flushed = time.perf_counter()
        # What storing the rows took belongs to no step.
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

    def _end(self, status: EndStatus | Literal["interrupted"], error: BaseException | None = None) -> None:
        """Stores what is left, writes the tables and closes the recorder; does nothing if it is closed already."""
        # close() in a `with` block, or twice, must not fail.
        if self._closed:
            return
        # First, so that an error below does not run all of this again.
        self._closed = True
        # Everything that is held is let go even if the rows cannot be written.
        with self._held:
            self._flush()
            # Without this last event the trial counts as interrupted.
            if status != "interrupted":
                self._send(self._ended(status, error))
            self._gatherer.write_tables()
            seal_run(self._directory, self._info | {"steps": self._step})

    def _ended(self, status: EndStatus, error: BaseException | None) -> Ended:
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
        """Where the step stands in the loop, with this number of rows in its batch."""
        # Without a number of steps per epoch, all are in one epoch without an end.
        epoch, batch = divmod(self._step, self._steps_per_epoch) if self._steps_per_epoch else (0, self._step)
        assert self._batch_rows is not None, "set from the first batch"
        partial_batch = rows < self._batch_rows
        audited = self._audit_every > 0 and (self._step % self._audit_every == 0 or partial_batch)
        return Place(self._step, epoch, batch, rows, partial=partial_batch, audited=audited)

    def _settle(self) -> None:
        """Observes the batches whose gradients have arrived.

        Raises:
            RuntimeError: Backward has not passed the output of a batch.
        """
        # Forgotten first: a batch that cannot be observed must not be tried again at the next call.
        pending, self._pending = self._pending, []
        for each in pending:
            # No part has had a gradient. (Where some have, the loss does not use the others.)
            if not each.grads:
                raise RuntimeError(
                    "Recorder: backward has not passed the output that forward() was given. Give the tensor that the "
                    "loss was computed from; torch.compile may have the model, but not model and loss in one graph."
                )
            found = [
                each.grads[number] if number in each.grads else torch.zeros_like(part)  # the loss does not use the part
                for number, part in enumerate(parts(each.output))
            ]
            grads = found if self._scale == 1.0 else [unscaled(grad, self._scale) for grad in found]
            self._measured.loss(each.output, each.loss, grads)
            self._observer.loss(
                each.batch, each.output, each.target, loss=each.loss, output_grad=grads, factor=each.factor
            )

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Observes the gradient that the optimizer is given; a hook that the optimizer calls before its step."""
        if self._saw_backward:
            began = time.perf_counter()
            # After clipping and unscaling, if the loop does either: this is what the update is computed from.
            norm = self._observer.gradient_norm()
            scale = getattr(optimizer, "grad_scale", None)  # set on a fused optimizer, which divides by it inside
            self._step_grad_norm = norm if scale is None else norm / scale
            # The float64 step has the gradient of backward, so its update can be compared only if the loop's own is
            # from that gradient. Equal norms show it at the price of one number.
            if self._measured.awaits_update and torch.equal(norm, self._observer.param_grad_norm):
                self._measured.before_update()
            self._own_s += time.perf_counter() - began

    def _flush(self) -> None:
        """Stores the rows since the last flush, and what was found about them.

        Raises:
            Trouble: They cannot be written.
        """
        if self._observer.rows:
            facts = self._facts | {
                "loss_dtype": str(self._observer.loss_dtype).removeprefix("torch."),
                "audit_error": self._observer.audit_error if self._audit_every else NO_CRITERION,
                "steps": self._step,
                "batch_size": self._batch_rows,
            }
            # Rows before what is found about them.
            self._send(Advanced(self._trial.name, self._observer.flush(), facts))
            errors, missing = self._measured.take()
            if errors or missing:
                self._send(Found(self._trial.name, "step_errors", tuple(vars(error) for error in errors), missing))
            findings = self._observer.take_findings()
            if findings:
                self._send(Found(self._trial.name, "findings", tuple(vars(finding) for finding in findings)))

    def _send(self, event: Event) -> None:
        self._gatherer.take([event])

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("The Recorder is closed.")


def _directory(out: str | os.PathLike[str]) -> StoragePath:
    """The run directory; under `torch.distributed` that of this rank."""
    path = parse_path(os.fspath(out))
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1:
        # A directory has one writer.
        return path / f"rank-{torch.distributed.get_rank()}"
    return path


def _check_graph(floating: Sequence[torch.Tensor], loss: torch.Tensor) -> None:
    """Refuses an output or a loss whose gradient cannot be observed.

    Raises:
        ValueError: The output or the loss has no graph, or the loss is not a scalar.
    """
    for what, found in (("output", floating), ("loss", [loss])):
        if not found or not all(tensor.requires_grad for tensor in found):
            raise ValueError(
                f"Recorder.forward(): the {what} has no graph, so no gradient can be observed. Give it undetached."
            )
    if loss.numel() != 1:
        raise ValueError(f"Recorder.forward(): the loss has shape {list(loss.shape)}, one element is needed.")


def _no_oracle(*_: Outputs) -> Any:
    """The oracle of a recorder without a criterion.

    Raises:
        OracleUnavailable: Always.
    """
    raise OracleUnavailable(NO_CRITERION)
