"""`parity.lightning.ParityCallback`: records the trainings of Lightning's Trainer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from typing_extensions import Unpack

from parity.ground.errors import Trouble
from parity.ground.packages import needs
from parity.observe.outer_calls import OuterCalls, only_loss, target_of
from parity.observe.recorder_arguments import check_arguments, kind_of
from parity.observe.replaced_method import replaced
from parity.recorder import Recorder, RecorderOptions
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs

with needs("parity.lightning"):
    from lightning.pytorch import Callback


class ParityCallback(Callback):  # type: ignore[misc]  # the tests run without Lightning's types
    """Records each training of a Trainer, from its first step on; evaluations are not recorded.

        trainer = lightning.Trainer(callbacks=[ParityCallback("runs/mine")])

    What the loss was computed from is taken from the autograd graph of the loss: the last tensors that the
    LightningModule's children, or the module itself, have returned in `training_step`.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        criterion: Loss | Literal["auto"] | None = "auto",
        target: Callable[[Any], Outputs] | None = None,
        **options: Unpack[RecorderOptions],
    ) -> None:
        """Notes where to record, and how.

        Args:
            out: As for `parity.Recorder`.
            criterion: As for `parity.Recorder`; "auto" is the loss of torch.nn that the LightningModule keeps as an
                attribute, if it keeps exactly one, and else None.
            target: Takes the target from a batch; with None it is what that loss is called with, or the second of a
                pair, or what is named a label or target.
            options: As for `parity.Recorder`.
        """
        known, who = RecorderOptions.__annotations__, "parity.lightning.ParityCallback"
        check_arguments(who, out, criterion=criterion, options=options, known=known, auto=True)
        if target is not None and (isinstance(target, type) or not callable(target)):
            raise Trouble(f"{who}: target is {kind_of(target)}. Give a function of a batch that returns it, or None.")
        self._out, self._criterion, self._target, self._options = out, criterion, target, options
        self._recorder: Recorder | None = None
        self._calls: OuterCalls | None = None
        self._recording: contextlib.ExitStack | None = None
        # Whether backward has passed all batches of a step, and how many steps the Trainer had taken before it.
        self._complete, self._stepped = False, 0

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Begins the recording, before the data loader draws from a generator.

        Raises:
            Trouble: The module optimizes by hand, the strategy keeps its gradients to itself, or as for
                `parity.Recorder`.
        """
        if trainer.ckpt_path is None:
            self._begin(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begins the recording of a training that continues a checkpoint, which has been loaded by now.

        Raises:
            Trouble: As for `on_fit_start`.
        """
        if self._recorder is None:
            self._begin(trainer, pl_module)

    def _begin(self, trainer: Any, pl_module: Any) -> None:
        if not pl_module.automatic_optimization:
            raise Trouble(
                f"ParityCallback: {type(pl_module).__name__} optimizes by hand (automatic_optimization is False), so "
                "only it knows where a step begins and ends. Call parity.Recorder in its training_step instead."
            )
        if trainer.strategy.handles_gradient_accumulation:
            raise Trouble(
                f"ParityCallback: {type(trainer.strategy).__name__} keeps gradients and steps to itself, so they "
                "cannot be recorded. Train with another strategy, such as 'ddp'."
            )
        model = _model_of(pl_module)
        self._recorder = Recorder(
            self._out,
            model,
            optimizers=trainer.optimizers,
            criterion=only_loss(pl_module) if self._criterion == "auto" else self._criterion,
            scaler=getattr(trainer.precision_plugin, "scaler", None),
            first_step=trainer.global_step,
            **self._options,
        )
        self._calls = OuterCalls(pl_module, model)
        self._complete, self._stepped = False, trainer.global_step
        self._recording = contextlib.ExitStack()
        self._recording.callback(self._calls.close)
        # The only place where the loss is seen before Lightning divides and scales it. The module stays as it is, since
        # it may be copied or stored meanwhile.
        self._recording.enter_context(
            replaced(trainer.strategy, "training_step", lambda plain: self._watched(plain, trainer))
        )

    def _watched(self, training_step: Callable[..., Any], trainer: Any) -> Callable[..., Any]:
        """The training step, recorded between its loss and the backward."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._calls is None:
                return training_step(*args, **kwargs)
            self._calls.open()
            try:
                returned = training_step(*args, **kwargs)
                loss = returned.get("loss") if isinstance(returned, Mapping) else returned
                if isinstance(loss, torch.Tensor):
                    batch = args[0] if args else next(iter(kwargs.values()), None)
                    self._record(batch, loss, factor=1 / trainer.accumulate_grad_batches)
                return returned
            finally:
                self._calls.close()

        return watched

    def _record(self, batch: Any, loss: torch.Tensor, *, factor: float) -> None:
        if self._recorder is not None:
            self._recorder.forward_from(lambda: self._arguments(batch, loss, factor=factor))

    def _arguments(self, batch: Any, loss: torch.Tensor, *, factor: float) -> dict[str, Any]:
        assert self._recorder is not None and self._calls is not None, "set together"
        call = self._calls.loss_call()
        if self._criterion == "auto" and (call is None or not _is_returned(call.output, loss)):
            self._recorder.stop_audit("training_step returns something else than the result of its only nn loss")
        inputs = self._calls.inputs()
        output = call.args[0] if call else self._calls.output_of(loss)
        target = self._target(batch) if self._target else call.args[1] if call else target_of(batch, inputs)
        return {
            "inputs": batch if inputs is None else inputs,
            "output": output,
            "target": target,
            "loss": loss,
            "factor": factor,
        }

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Records the gradients after the last backward of a step, before they are unscaled and clipped."""
        if self._recorder and not trainer.fit_loop._should_accumulate():
            self._recorder.backward()
            self._complete = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Records the parameters, if the batch was the last of its step."""
        # A step without a backward, of a training_step that has returned None: the Recorder ends there, with words.
        if self._recorder and (self._complete or trainer.global_step > self._stepped):
            self._complete, self._stepped = False, trainer.global_step
            self._recorder.step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Ends the recording."""
        self._end(None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Ends the recording, which then says that the training failed or was interrupted."""
        self._end(exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Ends the recording of a training without a step."""
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        recorder, self._recorder = self._recorder, None
        recording, self._recording = self._recording, None
        self._calls = None
        if recording:
            recording.close()
        if recorder:
            recorder.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


def _is_returned(loss: Any, returned: torch.Tensor) -> bool:
    """Whether what the strategy returned is a loss itself, or what DistributedDataParallel passes on of it."""
    node = returned.grad_fn
    passed = node is not None and "DDPSink" in node.name() and loss.grad_fn in [each for each, _ in node.next_functions]
    return returned is loss or passed


def _model_of(pl_module: torch.nn.Module) -> torch.nn.Module:
    """The only child with parameters, so that they are named as in a loop without Lightning; else the module itself."""
    if next(pl_module.parameters(recurse=False), None) is None and next(pl_module.buffers(recurse=False), None) is None:
        children = [each for each in pl_module.children() if next(each.parameters(), None) is not None]
        if len(children) == 1:
            return children[0]
    return pl_module
