"""`parity.accelerate.record`: records a loop that is written with Accelerate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from typing_extensions import Unpack

from parity.ground.errors import Trouble
from parity.ground.packages import needs
from parity.observe.outer_calls import OuterCalls, nearest, target_of
from parity.observe.recorder_arguments import check_arguments, check_model, kind_of
from parity.observe.replaced_method import replaced
from parity.recorder import Recorder, RecorderOptions
from parity.tasks.losses import Loss

with needs("parity.accelerate"):
    from accelerate import Accelerator, DistributedType
    from accelerate.optimizer import AcceleratedOptimizer

# What keeps backward, accumulation and steps inside of an engine of its own.
ENGINES = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA)


@contextlib.contextmanager
def record(
    out: str | os.PathLike[str],
    accelerator: Accelerator,
    model: torch.nn.Module,
    *,
    optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    criterion: Loss | None = None,
    first_step: int = 0,
    **options: Unpack[RecorderOptions],
) -> Iterator[Loss]:
    """Records the steps that the block takes; a step is what `accelerator.sync_gradients` says is one.

        with parity.accelerate.record("runs/mine", accelerator, model, optimizers=optimizer, criterion=mse) as mse:
            for inputs, target in batches:
                with accelerator.accumulate(model):
                    loss = mse(model(inputs), target)
                    accelerator.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()

    Args:
        out: As for `parity.Recorder`.
        accelerator: What calls backward.
        model: The model, prepared.
        optimizers: The optimizer, prepared, or several that step once each in a step.
        criterion: The loss, which is also what each step is audited against; None for a model that computes its loss
            itself.
        first_step: As for `parity.Recorder`.
        options: As for `parity.Recorder`.

    Yields:
        The loss to call in the loop in place of `criterion`: it returns what `criterion` returns.

    Raises:
        Trouble: An optimizer is not prepared, an engine keeps the gradients to itself, or as for `parity.Recorder`.
    """
    who, known = "parity.accelerate.record", RecorderOptions.__annotations__
    check_arguments(who, out, criterion=criterion, options=options, known=known, auto=False)
    check_model(who, model)
    if not isinstance(accelerator, Accelerator):
        raise Trouble(f"{who}: accelerator is {kind_of(accelerator)}. Give the accelerate.Accelerator of the loop.")
    given = list(optimizers) if isinstance(optimizers, Sequence) else [optimizers]
    if not all(isinstance(each, AcceleratedOptimizer) for each in given):
        raise Trouble(f"{who}: an optimizer has not been prepared. Give what accelerator.prepare(...) returned.")
    refuse_engines(accelerator, who)
    recorder = Recorder(
        out,
        model,
        optimizers=given,
        criterion=criterion,
        scaler=accelerator.scaler,
        first_step=first_step,
        **options,
    )
    with recorder, contextlib.ExitStack() as held:
        calls = OuterCalls(model, model)
        held.callback(calls.close)
        calls.open()
        loop = _Loop(recorder, calls, criterion, optimizers=len(given))
        held.enter_context(replaced(accelerator, "backward", lambda plain: loop.backward(accelerator, plain)))
        for each in given:
            held.enter_context(replaced(each, "step", lambda plain: loop.step(accelerator, plain)))
        yield loop.loss


def refuse_engines(accelerator: Accelerator, who: str) -> None:
    """Refuses what keeps backward, accumulation and steps to itself.

    Raises:
        Trouble: It is one of these.
    """
    if accelerator.distributed_type in ENGINES:
        raise Trouble(
            f"{who}: {accelerator.distributed_type.value} keeps gradients and steps to itself, so they cannot be "
            "recorded. Train on one device, with DistributedDataParallel or with FSDP2."
        )


class _Loop:
    """What a loop calls while it is recorded."""

    def __init__(self, recorder: Recorder, calls: OuterCalls, criterion: Loss | None, *, optimizers: int) -> None:
        self._recorder, self._calls, self._criterion = recorder, calls, criterion
        # Output, target, result and the node of the result in the graph, which an operation in place replaces; None
        # while a call is compiled, which asking for the node would break up.
        self._given: list[tuple[Any, Any, torch.Tensor, Any]] = []
        self._optimizers, self._waiting = optimizers, 0

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Calls the criterion, and notes what it was given.

        Raises:
            Trouble: There is none.
        """
        if self._criterion is None:
            raise Trouble(
                "parity.accelerate.record was called without criterion=, so it has no loss function to call. Pass "
                "criterion=, or use the model's own loss."
            )
        found = self._criterion(output, target)
        if torch.is_grad_enabled() and found.requires_grad and not self._recorder.ended:
            node = None if torch.compiler.is_compiling() else found.grad_fn
            self._given.append((output, target, found, node))
        return found

    def backward(self, accelerator: Accelerator, plain: Callable[..., Any]) -> Callable[..., Any]:
        """Backward, recorded before and after."""

        def backward(loss: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self._recorder.forward_from(
                lambda: self._arguments(loss, factor=1 / accelerator.gradient_accumulation_steps)
            )
            self._forget()
            found = plain(loss, *args, **kwargs)
            if accelerator.sync_gradients:
                self._recorder.backward()
                self._waiting = self._optimizers
            return found

        return backward

    def _arguments(self, loss: torch.Tensor, *, factor: float) -> dict[str, Any]:
        """What the Recorder is given for a loss that enters backward.

        Raises:
            ValueError: The loss is not computed from a call of the criterion, so that the target is not known.
        """
        # The criterion may have been called for a log too.
        given = {
            (node or found.grad_fn, found.output_nr): (output, target) for output, target, found, node in self._given
        }
        own = loss.grad_fn, loss.output_nr
        reached = {own} if own in given else nearest(loss, given)
        calls = [call for result, call in given.items() if result in reached]
        inputs = self._calls.inputs()
        if len(calls) == 1:
            output, target = calls[0]
        elif calls:
            self._recorder.stop_audit("the loss is computed from several calls of the criterion")
            output, target = self._calls.output_of(loss), tuple(target for _, target in calls)
        elif self._criterion is not None:
            raise ValueError(
                "the loss that parity.accelerate.record yields was not called for what enters backward. Call it for "
                "the loss."
            )
        else:
            output, target = self._calls.output_of(loss), target_of(inputs, inputs)
        return {
            "inputs": (output,) if inputs is None else inputs,
            "output": output,
            "target": target,
            "loss": loss,
            "factor": factor,
        }

    def step(self, accelerator: Accelerator, plain: Callable[..., Any]) -> Callable[..., Any]:
        """An optimizer's step, recorded after the last of the step."""

        def step(*args: Any, **kwargs: Any) -> Any:
            found = plain(*args, **kwargs)
            if accelerator.sync_gradients:
                self._waiting -= 1
                # Also without a backward that was seen, of a loop that calls loss.backward(): the Recorder says so.
                if self._waiting <= 0:
                    self._recorder.step()
            if self._recorder.ended:
                self._forget()
            return found

        return step

    def _forget(self) -> None:
        """Forgets the calls before, which keep the memory of the step, and notes those to come if they are recorded."""
        self._given.clear()
        if self._recorder.ended:
            self._calls.close()
        else:
            self._calls.open()
