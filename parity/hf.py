"""`parity.hf.ParityCallback`: records the trainings of transformers' Trainer."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy
from typing_extensions import Unpack

from parity.accelerate import refuse_engines
from parity.ground.errors import Trouble
from parity.ground.packages import needs
from parity.observe.outer_calls import OuterCalls, target_of
from parity.observe.recorder_arguments import check_arguments
from parity.observe.replaced_method import replaced
from parity.recorder import Recorder, RecorderOptions
from parity.tasks.losses import Loss

with needs("parity.hf"):
    from transformers import Trainer, TrainerCallback

# Labels of tokens that do not count.
IGNORED = -100
# What the model is called with, beside its batch.
_NOT_OF_THE_BATCH = ("num_items_in_batch",)
# Models with the loss of the next token and no name for it. XLNetLMHeadModel and others do not shift the labels.
_CAUSAL = ("BertLMHeadModel", "CTRLLMHeadModel", "GPT2LMHeadModel", "OpenAIGPTLMHeadModel")


class ParityCallback(TrainerCallback):  # type: ignore[misc]  # the tests run without transformers' types
    """Records each training of a Trainer: a step is one of its optimizer; evaluations are not recorded.

        trainer = transformers.Trainer(..., callbacks=[ParityCallback("runs/mine")])

    Where the Trainer divides the loss by the number of items (tokens) in all batches of a step, the mean over the items
    of one batch is recorded, with its share of the items as its factor: the product is what backward is called on.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        criterion: Loss | Literal["auto"] | None = "auto",
        **options: Unpack[RecorderOptions],
    ) -> None:
        """Notes where to record, and how.

        Args:
            out: As for `parity.Recorder`.
            criterion: The correct loss, (logits, labels) -> mean over a batch; "auto" is the cross-entropy of models
                whose loss is that of causal or masked language modelling, if neither `compute_loss_func` nor label
                smoothing replaces it, and else None.
            options: As for `parity.Recorder`.
        """
        known = RecorderOptions.__annotations__
        check_arguments("parity.hf.ParityCallback", out, criterion=criterion, options=options, known=known, auto=True)
        self._out, self._criterion, self._options = out, criterion, options
        self._recording: contextlib.ExitStack | None = None
        # What watches the callbacks that begin after this one.
        self._beginning = contextlib.ExitStack()
        self._recorder: Recorder | None = None
        self._trainer: Any = None
        self._calls: OuterCalls | None = None
        # Loss, number of items in the step (a tensor, not read yet) and inputs of the batch between `compute_loss` and
        # backward.
        self._given: tuple[torch.Tensor, Any, dict[str, Any]] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins the recording, after a checkpoint was loaded.

        Raises:
            Trouble: The training is not one of a Trainer, an engine keeps the gradients to itself, or as for
                `parity.Recorder`.
        """
        # One whose end was not seen.
        self._end(RuntimeError("the training before did not end"))
        trainer = _trainer_of(self)
        refuse_engines(trainer.accelerator, "parity.hf.ParityCallback")
        options = self._options.copy()
        options.setdefault("steps_per_epoch", _steps_per_epoch(args, kwargs.get("train_dataloader")))
        self._recorder = Recorder(
            self._out,
            trainer.model,
            optimizers=trainer.optimizer,
            criterion=_criterion_of(trainer) if self._criterion == "auto" else self._criterion,
            scaler=trainer.accelerator.scaler,
            first_step=state.global_step,
            **options,
        )
        self._trainer = trainer
        self._calls = OuterCalls(trainer.model_wrapped, trainer.model)
        self._recording = contextlib.ExitStack()
        self._recording.callback(self._calls.close)
        for owner, name, made in (
            (trainer, "compute_loss", self._compute_loss),
            (trainer.accelerator, "backward", self._backward),
            # What runs the rest of the training and all callbacks, so that no error passes unseen.
            # With `eval_on_start`, before the first epoch.
            (trainer, "_evaluate", self._ended_by_error),
            (trainer, "_run_epoch", self._ended_by_error),
            (trainer, "_finalize_training", self._ended_by_error),
            (trainer.callback_handler, "call_event", self._ended_by_error),
        ):
            self._recording.enter_context(replaced(owner, name, made))
        # The event that is going on was called before it was replaced.
        callbacks = trainer.callback_handler.callbacks
        place = next(place for place, each in enumerate(callbacks) if each is self)
        for later in callbacks[place + 1 :]:
            self._beginning.enter_context(replaced(later, "on_train_begin", self._ended_by_error))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leaves the other callbacks as they were: all of them have begun."""
        self._beginning.close()

    def _ended_by_error(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return plain(*args, **kwargs)
            except BaseException as error:
                self._end(error)
                raise

        return call

    def _compute_loss(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def compute_loss(model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            if self._calls is None or not (model.training and torch.is_grad_enabled()):  # an evaluation
                return plain(model, inputs, *args, **kwargs)
            # The Trainer takes the labels out of its dictionary if it computes the loss itself.
            batch = dict(inputs)
            self._calls.open()
            returned = plain(model, inputs, *args, **kwargs)
            loss = returned[0] if isinstance(returned, tuple) else returned
            self._given = loss, kwargs.get("num_items_in_batch"), batch
            return returned

        return compute_loss

    def _backward(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def backward(loss: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            recorder, given, self._given = self._recorder, self._given, None
            if recorder is None or given is None:
                return plain(loss, *args, **kwargs)
            recorder.forward_from(lambda: self._arguments(*given, entering=loss))
            if self._calls is not None:
                self._calls.close()
            found = plain(loss, *args, **kwargs)
            if self._trainer.accelerator.sync_gradients:
                recorder.backward()
            return found

        return backward

    def _arguments(
        self,
        loss: torch.Tensor,
        items: Any,
        batch: dict[str, Any],
        *,
        entering: torch.Tensor,
    ) -> dict[str, Any]:
        """What the Recorder is given for a loss that enters backward as it is, or divided by the number of batches."""
        trainer, calls = self._trainer, self._calls
        assert calls is not None, "there is one while there is a recorder"
        factor = 1.0
        if entering is not loss:
            factor = 1 / trainer.current_gradient_accumulation_steps
        elif share := _share(trainer, batch, items):
            loss, factor = loss / share, share
        call = calls.inputs()
        output, inputs = calls.output_of(loss), batch if not isinstance(call, Mapping) else call
        labels = {name: batch[name] for name in trainer.label_names if name in batch}
        return {
            "inputs": {name: value for name, value in inputs.items() if name not in _NOT_OF_THE_BATCH},
            "output": output,
            "target": next(iter(labels.values())) if len(labels) == 1 else labels or target_of(batch, batch),
            "loss": loss,
            "factor": factor / trainer.accelerator.gradient_accumulation_steps,
        }

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Records the parameters after the optimizer's step, before the scheduler's."""
        # Without a backward that was seen, of a Trainer that does not call accelerator.backward, the Recorder says so.
        if self._recorder:
            self._recorder.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends the recording."""
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        recording, self._recording = self._recording, None
        recorder, self._recorder = self._recorder, None
        self._trainer = self._calls = self._given = None
        self._beginning.close()
        if recording:
            recording.close()
        if recorder:
            recorder.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


def _trainer_of(callback: ParityCallback) -> Any:
    """The Trainer that is calling: it gives its callbacks the model and the optimizer, but not itself.

    Raises:
        Trouble: None of the callers is a Trainer that has this callback.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer) and any(each is callback for each in caller.callback_handler.callbacks):
            return caller
        frame = frame.f_back
    raise Trouble(
        "parity.hf.ParityCallback records trainings of transformers.Trainer and its subclasses, and was called by "
        "something else. Call parity.Recorder in your loop instead."
    )


def _criterion_of(trainer: Any) -> Loss | None:
    """The loss of the Trainer in a form that can be evaluated in float64; None where it is not known."""
    if trainer.compute_loss_func is not None or trainer.label_smoother is not None:
        return None
    if type(trainer).compute_loss is not Trainer.compute_loss:
        return None
    config = getattr(trainer.model, "config", None)
    if any(getattr(each, "output_router_logits", False) for each in (config, getattr(config, "text_config", None))):
        return None  # the loss has another part, which balances the experts
    if _is_causal(trainer.model):
        return next_token_cross_entropy
    return token_cross_entropy if getattr(trainer.model, "loss_type", None) == "ForMaskedLM" else None


def _is_causal(model: torch.nn.Module) -> bool:
    """Whether the model's loss is the cross-entropy of each next token."""
    kind = getattr(model, "loss_type", None)
    return kind == "ForCausalLM" or (kind is None and type(model).__name__ in _CAUSAL)


def token_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of the cross-entropies of logits[..., V] and labels[...] over the labels that are not -100."""
    return cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORED)


def next_token_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The same for logits[B, T, V] that predict the next of labels[B, T]."""
    return token_cross_entropy(logits[..., :-1, :], labels[..., 1:])


def _share(trainer: Any, batch: Mapping[str, Any], items: Any) -> float | None:
    """The share that a batch has in the items of its step; None where the loss is not divided by these."""
    if items is None or not (trainer.model_accepts_loss_kwargs or trainer.compute_loss_func):
        return None
    labels = batch.get("shift_labels", batch.get("labels"))
    if not isinstance(labels, torch.Tensor):
        return None
    # Those that the loss of the batch has: the Trainer may count others too, which the factor shows then.
    if "shift_labels" not in batch and trainer.compute_loss_func is None and _is_causal(trainer.model):
        labels = labels[..., 1:]
    own = labels.ne(IGNORED).sum()
    # Together, since the host waits for a GPU that they are read from.
    own, items = torch.stack([own, torch.as_tensor(items, device=own.device).sum()]).tolist()
    if trainer.args.average_tokens_across_devices:
        own *= trainer.accelerator.num_processes
    return own / items if own and items else None


def _steps_per_epoch(args: Any, loader: Any) -> int | None:
    """The number of optimizer steps in an epoch; None where the loader does not know its length."""
    try:
        return max(1, math.ceil(len(loader) / int(args.gradient_accumulation_steps)))
    except TypeError:
        return None
