"""`parity.Recorder`: the trace of a training loop of your own, in a run directory like those of `python -m parity.run`.

Two recorded runs are compared by `python -m parity.report A B`. Nothing here changes a bit of the training.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, TypedDict

import pyarrow as pa
import torch

from parity.driver import gathering, recorded_trial, seal_run
from parity.ground.errors import OracleUnavailable
from parity.ground.quoting import explain_error, message_of, traceback_of
from parity.observe.audit import oracle_of
from parity.observe.measured_steps import MeasuredSteps
from parity.observe.members import Members
from parity.observe.model_output import ModelOutputs, as_returned, hook
from parity.observe.observer import CAPACITY, Observer, unscaled
from parity.observe.optimizer_probe import OptimizerProbe
from parity.observe.pending import Pending
from parity.observe.recorder_arguments import check_arguments, check_model
from parity.observe.step_closure import with_closure, works_without
from parity.observe.user_loop import (
    dependence,
    device_of,
    is_compiled,
    name_of,
    only_lr,
    optimizers_of,
    ordinal_of,
    tensors_of,
    unwrapped,
)
from parity.plan.device import Device
from parity.plan.planning import digest_kind
from parity.plan.trial import DigestKind, Place
from parity.store.directory import begun
from parity.store.events import Advanced, Began, Ended, Event, Found
from parity.store.files import write_json
from parity.store.run_info import describe
from parity.store.statuses import EndStatus
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs, learning_parts, map_tensors, parts, rows_of
from parity.train import machine
from parity.train.recording_place import place_recording
from parity.train.state import optimizer_settings, parameter_norms

# The rows of a chunk are stored after this many seconds, or when the observer's buffers are full. On a GPU the loop
# waits meanwhile for all that it has launched: later where this would take more than one part of so many of its time,
# but not later than the last.
CHUNK_S, STORING_PART, LONGEST_CHUNK_S = 0.5, 100, 5.0
NO_CRITERION = "the Recorder was given no criterion"


class RecorderOptions(TypedDict, total=False):
    """The options of `Recorder` that the callbacks of trainers pass on as they are."""

    name: str
    also: Mapping[str, torch.nn.Module] | None
    steps_per_epoch: int | None
    audit_every: int
    seed: int
    replica: int
    digest: Literal["auto", "xxh3", "words"]
    overwrite: bool
    quiet: bool | None


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
        also: Mapping[str, torch.nn.Module] | None = None,
        first_step: int = 0,
        steps_per_epoch: int | None = None,
        audit_every: int = 1,
        seed: int = 0,
        replica: int = 0,
        digest: Literal["auto"] | DigestKind = "auto",
        overwrite: bool = False,
        quiet: bool | None = None,
    ) -> None:
        """Begins a recording.

        Args:
            out: A directory, or a URI. If it holds a run already, the recording goes to the first of `out-2`, `out-3`
                and so on that holds none, and a line on stderr says so.
            model: The model whose parameters are traced, also if it is compiled or wrapped for `torch.distributed`; for
                several models a `torch.nn.ModuleDict`.
            name: What the report calls the loop, for example the name of its loss.
            optimizers: One optimizer or several: their settings are stored, and gradients that change between backward
                and step (clipping) are distinguished from the gradients of backward.
            criterion: The correct loss, (output, target) -> scalar: the loss and the gradient of each audited step are
                compared with it in float64, which is what separates rounding from a bug. None turns this off.
            scaler: The `torch.amp` scaler of the loop; its scale is divided out of what is recorded.
            also: Other models that are to agree, by name, such as an average of the weights: their parameters and
                buffers are recorded after each step, as the buffers of the model are.
            first_step: Number of the first step of a loop that continues an earlier one: `parity.report whole resumed`
                compares the steps that both have.
            steps_per_epoch: Number of steps in an epoch, so that the report names epoch and batch; with None, all steps
                belong to one epoch.
            audit_every: The audit checks every step whose number this divides, and partial batches; 0 turns it off.
            seed: The seed of the loop's generators, which names the trial; the Recorder seeds nothing.
            replica: 0, or the number of the repeat.
            digest: How tensors are digested: "words", which an accelerator does itself while the loop goes on, or
                "xxh3", for which they are copied to the CPU. Only recordings of one kind can be compared: with "auto",
                loops on accelerators have "words" and loops on the CPU "xxh3", so give "words" to a loop on the CPU
                that is to be compared with one on an accelerator.
            overwrite: Whether the recording replaces one that is in `out`: that one is kept beside it, as
                `out-replaced`, until the new one is complete.
            quiet: Whether not to say on stderr where the recording is; None: only under pytest.

        Raises:
            Trouble: The directory holds something else than a run, or cannot be made; the model has no parameters;
                the model or an optimizer is not one of torch's; the criterion is not a loss; or a name, a number or
                `digest` is not allowed.
        """
        given = {"audit_every": audit_every, "seed": seed, "replica": replica, "first_step": first_step, "name": name}
        given |= {"steps_per_epoch": steps_per_epoch, "also": also, "scaler": scaler, "digest": digest}
        given |= {"overwrite": overwrite, "quiet": quiet}
        check_arguments("parity.Recorder", out, criterion=criterion, options=given, known=given, auto=False)
        check_model("parity.Recorder", model)
        # Without their wrappers: parameters then have the same names, and the hooks are on the optimizer that steps.
        self._model, self._compiled = unwrapped(model), is_compiled(model)
        self._optimizers = optimizers_of(optimizers)
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
            "first_step": first_step,
            "digest_kind": digest_kind([device]) if digest == "auto" else digest,
        }
        self._trial = recorded_trial(self._asked)
        self._begin_observers(criterion, also or {}, first_step)
        self._begin_state(first_step)
        # Directory, journal and hooks: whatever has to be let go when the recording ends, however it ends.
        self._held = ExitStack()
        self._recording = place_recording(out, overwrite=overwrite, quiet=quiet)
        self._directory = self._recording.directory
        self._open(device)
        # Time spent in here since the last step; it is taken out of the step's time.
        self._own_s = 0.0
        self._observer.begin()
        # Wall time to be stored, and a clock that never jumps to measure with.
        self._wall_began = time.time()
        self._began = self._step_began = time.perf_counter()
        self._flush_due = self._began + CHUNK_S

    def _begin_observers(self, criterion: Loss | None, also: Mapping[str, torch.nn.Module], first_step: int) -> None:
        """Makes what looks at each step, and at some steps in float64."""
        oracle = oracle_of(criterion) if criterion else None
        # An observer needs an oracle. The one of a recorder without a criterion is never asked, since no step is
        # audited.
        self._observer = Observer(
            self._trial,
            self._model,
            oracle=oracle or _no_oracle,
            baseline=criterion or _no_oracle,
            optimizers=self._optimizers,
            also={each: unwrapped(other) for each, other in also.items()},
        )
        self._members = Members(self._model, self._optimizers)
        self._measured = MeasuredSteps(
            self._model, self._optimizers, oracle=oracle, compiled=self._compiled, first_step=first_step
        )
        self._probe = OptimizerProbe(self._model, self._optimizers)

    def _begin_state(self, first_step: int) -> None:
        """Where the recording stands: nothing of the first step has been seen."""
        self._step = self._first_step = first_step
        self._batch_rows: int | None = None
        self._pending: list[Pending] = []
        self._outputs = ModelOutputs()
        self._scale = 1.0
        self._saw_backward = False
        # Whether an optimizer is in its step, which may call a closure.
        self._stepping = False
        self._closed = False
        # Whether rows are lost that a device did not give back.
        self._unfetched = False
        # Why the recording has ended before the loop, or None.
        self._off: str | None = None

    def _open(self, device: Device) -> None:
        # First: if the directory is made and the rest fails, the recording that was there stays set aside.
        self._recording.say_where()
        try:
            self._begin(device)
        # Ctrl-C included: the lock on the directory must not outlive the recorder.
        except BaseException:
            self._held.close()
            self._recording.put_back()
            raise

    def _begin(self, device: Device) -> None:
        """Makes the run directory, opens its journal, and hooks the optimizers.

        Raises:
            Trouble: The directory exists already, or cannot be made.
        """
        self._held.enter_context(begun(self._directory, option="out", resumable=False))
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
            **self._observer.initial(),
            "first_step": self._first_step,
            "optimizer": optimizer_settings(self._optimizers),
            "lr": only_lr(self._optimizers),
            "batches": self._steps_per_epoch,
        }
        self._send(Began(self._trial.name, machine.facts(device, ordinal=ordinal_of(self._model))))
        # Hooks are removed with everything else that is held: a loop may go on after its recording.
        if not self._compiled:
            self._held.callback(hook(self._model, lambda output: self._guarded("forward", self._outputs.keep, output)))
        self._held.callback(self._measured.let_go)
        for optimizer in self._optimizers:
            self._held.callback(optimizer.register_step_pre_hook(self._before_step).remove)
            self._held.callback(optimizer.register_step_post_hook(self._after_step).remove)

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

        A call that cannot be recorded (an output without a graph, a call out of order) raises nothing in your training:
        the recording ends there with a warning, and keeps the steps before.

        Raises:
            RuntimeError: The recorder is closed.
        """
        self._guarded("forward", lambda: self._forward(inputs, output=output, target=target, loss=loss, factor=factor))

    def forward_from(self, arguments: Callable[[], dict[str, Any]]) -> None:
        """Like `forward`, with arguments that are made here, so that an error in making them ends the recording only.

        Args:
            arguments: Returns the arguments of `forward`, by name.

        Raises:
            RuntimeError: The recorder is closed.
        """
        self._guarded("forward", lambda: self._forward(**{"factor": 1.0} | arguments()))

    def _forward(
        self,
        inputs: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor],
        *,
        output: Outputs,
        target: Outputs,
        loss: torch.Tensor,
        factor: float,
    ) -> None:
        if self._saw_backward:
            # An optimizer such as LBFGS evaluates the loss several times in one step. The first evaluation is recorded:
            # it is the one from the parameters before the step.
            if self._stepping:
                return
            # A batch that came now would be counted to the step that has had its backward already.
            raise RuntimeError("forward() came after backward(): call step() after the optimizer's step first.")
        floating = parts(output)
        _check_graph(floating, loss)
        # Under accumulation the batch before may have had its backward by now. Its gradients are observed at once, so
        # that no more batches are kept than the loop itself keeps.
        self._settle()
        # Asked at each batch: a scaler changes its scale between steps.
        self._scale = float(self._scaler.get_scale()) if self._scaler else 1.0
        tensors = tensors_of(inputs)
        rows = rows_of(tensors[0]) if tensors else 1
        # The first batch decides what a whole batch is; a later one with fewer rows is partial.
        self._batch_rows = self._batch_rows or rows
        place = self._place(rows)
        # Once: the way in which parts depend on each other is that of the model.
        if self._step == self._first_step and self._audit_every:
            self._observer.audit_error = self._observer.audit_error or dependence(output)
        due = self._measured.due(place)
        # The dtype in which the model computes is rarely another one later; where it is, a measured step may show it.
        computed_u = self._observer.graph(output) if due or "computed_dtype" not in self._observer.facts else 0.0
        # A step of one batch alone is taken in float64, and only while nothing has scaled its gradient.
        if due and factor == self._scale == 1.0 and not self._observer.batches:
            self._measured.forward(inputs, output=output, target=target, computed_u=computed_u)
        # Without its graph: what is kept here must not keep the step's memory.
        changed = self._outputs.changed(floating)
        # A target that is the input stays the same object, and is not digested twice.
        detached, fixed = as_returned(output, changed), map_tensors(_without_graph, target)
        learning = learning_parts(target)
        computed = [kept for part, kept in zip(parts(target), parts(fixed), strict=True) if part.requires_grad]
        batch = self._observer.forward(place, tensors, detached, fixed, computed=computed)
        # A loss of shape [1] is a scalar for the trace.
        scalar = loss.detach().reshape(())
        pending = Pending(batch, detached, fixed, scalar, factor, computed)
        pending.watch([*floating, *learning], changed)
        self._pending.append(pending)

    def backward(self) -> None:
        """Records the gradients: call it after the last backward of a step, before unscaling and clipping.

        Raises:
            RuntimeError: The recorder is closed.
        """
        self._guarded("backward", self._backward)

    def _backward(self) -> None:
        if self._stepping and self._saw_backward:  # a further evaluation of a closure, as in `_forward`
            return
        if not self._pending and not self._observer.batches:
            raise RuntimeError("backward() came without forward(): call that between the loss and its backward.")
        self._settle()
        if self._pending:
            raise RuntimeError(
                "backward has not passed the output that forward() was given. Give the tensor that the loss was "
                "computed from; torch.compile may have the model, but not model and loss in one graph."
            )
        self._observer.backward(scale=self._scale)
        self._measured.backward()
        self._saw_backward = True

    def step(self) -> None:
        """Records the parameters, and closes the step: call it after the optimizer's step.

        Raises:
            RuntimeError: The recorder is closed.
            Trouble: The rows cannot be written.
        """
        began = time.perf_counter()
        self._guarded("step", lambda: self._close_step(began))
        now = time.perf_counter()
        if self._off is None and (self._observer.rows == CAPACITY or now > self._flush_due):
            self._flush()
            ended = time.perf_counter()
            longest = LONGEST_CHUNK_S if self._trial.digest_kind == "words" else CHUNK_S
            self._flush_due = ended + min(max(CHUNK_S, STORING_PART * (ended - now)), longest)
        # What storing the rows took belongs to no step.
        self._own_s = 0.0
        self._step_began = time.perf_counter()

    def _close_step(self, began: float) -> None:
        if not self._saw_backward:
            raise RuntimeError("step() came without backward(): call that after loss.backward(), before clipping.")
        # Of the step that is to be closed, which trains what has joined and is not observed.
        if joined := self._members.changed():
            self._observer.joined(joined)
        # Up to the call of step(), less what the calls before it took.
        self._observer.update(step_s=began - self._step_began - self._own_s)
        self._measured.after_update(self._step)
        self._probe.after_update()
        self._step += 1
        self._outputs.end_step()
        self._measured.await_step(self._step)
        self._saw_backward = False
        # The state that the next step starts from: what draws from a generator from here on belongs to that step.
        self._observer.begin()

    def _guarded(self, call: str, record: Callable[..., None], *arguments: object) -> None:
        """Runs what a call of the loop records; an error ends the recording, and not the training.

        Raises:
            RuntimeError: The recorder is closed.
        """
        began = time.perf_counter()
        if self._closed:
            raise RuntimeError("The Recorder is closed.")
        if self._off is None:
            try:
                record(*arguments)
            except Exception as error:  # noqa: BLE001 - whatever it is, the user's training must go on
                self._switch_off(f"Recorder.{call}(): {message_of(error) or type(error).__name__}")
        self._own_s += time.perf_counter() - began

    def _switch_off(self, reason: str) -> None:
        """Ends the recording with the steps that it has."""
        self._off = f"the recording ended before step {self._step}: {reason}"
        # The training may need the memory of what was kept of this step.
        self._pending.clear()
        self._outputs.end_step()
        self._observer.abandon()
        warnings.warn(f"parity: {self._off} The training goes on unrecorded.", RuntimeWarning, stacklevel=4)

    @property
    def ended(self) -> bool:
        """Whether nothing is recorded any more, be it that the recorder is closed or that the recording has ended."""
        return self._closed or self._off is not None

    def stop_audit(self, reason: str) -> None:
        """Compares no further step with the criterion, and says why in the report."""
        if self._audit_every and not self._observer.audit_error:
            self._observer.audit_error = reason
            self._measured.stop(reason)

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

    def _end(self, status: EndStatus, error: BaseException | None = None) -> None:
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
                self._send(self._ended("interrupted" if self._off and not error else status, error))
            self._gatherer.write_tables()
            seal_run(self._directory, self._info | {"steps": self._step - self._first_step})
        ended = self._off
        if status != "complete":
            ended = f"the loop was {status}" if error is None else f"the loop raised {explain_error(error)}"
        self._recording.end(steps=self._step - self._first_step, ended=ended)

    def _ended(self, status: EndStatus, error: BaseException | None) -> Ended:
        return Ended(
            self._trial.name,
            status=status,
            failed_step=self._step if error else None,
            failure="raised" if error else None,
            error=f"the loop raised {explain_error(error)}" if error else self._off,
            traceback=traceback_of(error) if error else None,
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
        """Observes the batches whose gradients have arrived; those of the others may still come."""
        arrived = [each for each in self._pending if each.arrived]
        # Forgotten first: a batch that cannot be observed must not be tried again at the next call.
        self._pending = [each for each in self._pending if not each.arrived]
        for each in arrived:
            output_grads, target_grads = (
                grads if self._scale == 1.0 else [unscaled(grad, self._scale) for grad in grads]
                for grads in each.gradients()
            )
            self._measured.loss(each.output, each.loss, output_grads)
            self._observer.loss(
                each.batch,
                each.output,
                each.target,
                loss=each.loss,
                output_grad=output_grads,
                target_grad=target_grads,
                factor=each.factor,
            )

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Observes state and gradient of an optimizer; a hook that it calls before its step."""
        self._stepping = True
        self._guarded("step", lambda: self._look_before_step(optimizer))
        # The gradient comes from the closure that the optimizer is about to call, if it was given one: Lightning does.
        return None if self._saw_backward else with_closure(args, kwargs, lambda: self._after_closure(optimizer))

    def _after_closure(self, optimizer: torch.optim.Optimizer) -> None:
        if self._stepping and not self._closed:
            self._guarded("step", lambda: self._look_at_gradient(optimizer))

    def _look_before_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._probe.before_update()
        self._observer.before_update(optimizer)
        self._look_at_gradient(optimizer)

    def _look_at_gradient(self, optimizer: torch.optim.Optimizer) -> None:
        """Observes the gradient that an optimizer is given, if it is there."""
        if self._saw_backward:
            # After clipping and unscaling, if the loop does either: this is what the update is computed from. The scale
            # is set on a fused optimizer, which divides by it inside.
            scale = getattr(optimizer, "grad_scale", None)
            self._observer.step_gradient(scale=1.0 if scale is None else float(scale))
            # The float64 step has the gradient of backward, so it goes on only if the loop's own update is from that
            # gradient.
            if self._measured.awaits_update and works_without(optimizer):
                self._measured.before_update(unchanged=self._observer.unchanged)

    def _after_step(self, *_: object) -> None:
        """Notes that an optimizer's step has ended; a hook that it calls then."""
        self._stepping = False

    def _flush(self) -> None:
        """Stores the rows since the last flush, and what was found about them.

        Raises:
            Trouble: They cannot be written.
        """
        if self._observer.rows and (table := self._fetched()) is not None:
            facts = (
                self._facts
                | self._observer.facts
                | self._probe.facts
                | self._measured.facts
                | {
                    "loss_dtype": str(self._observer.loss_dtype).removeprefix("torch."),
                    "audit_error": self._observer.audit_error if self._audit_every else NO_CRITERION,
                    "steps": self._step - self._first_step,
                    "batch_size": self._batch_rows,
                }
            )
            # Rows before what is found about them.
            self._send(Advanced.of(self._trial.name, table, facts))
            errors, missing = self._measured.take()
            if errors or missing:
                self._send(Found(self._trial.name, "step_errors", tuple(vars(error) for error in errors), missing))
            findings = self._observer.take_findings()
            if findings:
                self._send(Found(self._trial.name, "findings", tuple(vars(finding) for finding in findings)))

    def _fetched(self) -> pa.Table | None:
        """The rows since the last flush; None if they cannot be had, which ends the recording."""
        if self._unfetched:
            return None
        try:
            return self._observer.flush()
        except Exception as error:  # noqa: BLE001 - whatever a device reports now, the user's training must go on
            self._unfetched = True
            self._switch_off(f"its last rows cannot be fetched: {message_of(error) or type(error).__name__}")
            return None

    def _send(self, event: Event) -> None:
        self._gatherer.take([event])


def _check_graph(floating: Sequence[torch.Tensor], loss: torch.Tensor) -> None:
    """Refuses an output or a loss whose gradient cannot be observed.

    Raises:
        ValueError: The output or the loss has no graph, or the loss is not a scalar.
    """
    if not floating:
        raise ValueError("no tensor was found that the loss is computed from. Call parity.Recorder with the output.")
    for what, found in (("output", floating), ("loss", [loss])):
        # Some parts of a tree may be constants.
        if not any(tensor.requires_grad for tensor in found):
            raise ValueError(f"the {what} has no graph, so no gradient can be observed. Give it undetached.")
    if loss.numel() != 1:
        raise ValueError(f"the loss has shape {list(loss.shape)}, one element is needed.")


def _without_graph(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach() if tensor.requires_grad else tensor


def _no_oracle(*_: Outputs) -> Any:
    """The oracle of a recorder without a criterion.

    Raises:
        OracleUnavailable: Always.
    """
    raise OracleUnavailable(NO_CRITERION)
