"""A step of a task taken in float64 on the CPU, without an effect on the training."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from parity.ground.errors import OracleUnavailable, TrialFailed
from parity.ground.quoting import explain_error
from parity.observe.audit import gradients
from parity.observe.float64_step import Errors, relative_errors
from parity.observe.generators import generators_restored, restore_generators, take_generators
from parity.observe.same_draws import SameDraws
from parity.observe.taken_step import TakenStep, Values, check_real, on_host, taken_step, widened
from parity.tasks.outputs import learning_parts, map_tensors, parts
from parity.train.state import restore_state
from parity.train.step import StepValues, Training, forward, make_batch, send_back


def exact_step(
    training: Training,
    data: Mapping[str, np.ndarray],
    state: dict[str, Any],
    *,
    within: AbstractContextManager[object] | None = None,
) -> Values:
    """Takes the step in float64 on the CPU; model, optimizer and generators of the training stay as they are.

    Args:
        training: Gives the model, the loss and the optimizer.
        data: The task's data.
        state: State of the training before the step, on the CPU.
        within: What forward and backward run within: something that rounds. None to take the step as it is.

    Returns:
        The tensors of the step by quantity, float64 on the CPU.

    Raises:
        OracleUnavailable: The task or its loss does not work in float64.
    """
    # The step draws what the training's step draws, since `restore_state` sets the generators, which the training still
    # needs.
    generators = take_generators()
    try:
        wide = _widened(training, state)
        model, optimizer = wide.model, wide.optimizer
        before = [parameter.detach().clone() for parameter in model.parameters()]
        batch = tuple(widened(tensor) for tensor in make_batch(wide, data, state["step"]))
        # Forward and backward are rounded, the oracle between them too; the optimizer's step has no products.
        with SameDraws(next(training.model.parameters()).dtype), within or contextlib.nullcontext():
            output, target = forward(wide, batch, state["step"])
            if learning_parts(target):
                raise OracleUnavailable("the target requires a gradient, which a step in float64 does not send back")
            loss, found = wide.oracle(map_tensors(torch.Tensor.detach, output), target)
            grads = [np.asarray(grad) for grad in gradients(found)]
            optimizer.zero_grad()
            # A model that narrows inside is found below; until then its gradients need its dtypes.
            dtypes = [part.dtype for part in parts(output)]
            send_back(
                parts(output),
                # Copies, since from_numpy shares memory with arrays that are returned below.
                [torch.from_numpy(np.array(grad)).to(dtype) for grad, dtype in zip(grads, dtypes, strict=True)],
            )
        optimizer.step()
    # The same checks as in training, whose step is not at fault here: only the float64 run is missing.
    except TrialFailed as error:
        raise OracleUnavailable(f"the task does not train in float64: {error.reason}") from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise OracleUnavailable(f"the task does not train in float64: {explain_error(error)}") from error
    finally:
        restore_generators(generators)
    narrow = next((dtype for dtype in dtypes if dtype != torch.float64), None)
    if narrow:
        raise OracleUnavailable(f"the task's model gives {narrow} for parameters and a batch of float64")
    return {
        # `on_host` copies, so they outlive the model.
        "output": [on_host(part) for part in parts(output)],
        "loss": [np.array(loss)],
        "output_grad": [*grads],
        "param_grad": [on_host(parameter.grad) for parameter in model.parameters()],
        "update": _updates(before, model),
        "param": [on_host(parameter) for parameter in model.parameters()],
    }


def taken_with_errors(
    training: Training, values: StepValues, exact: Values, state: dict[str, Any]
) -> tuple[TakenStep, Errors]:
    """The tensors of a step that was just taken, and their errors; its update beside that of its own gradient.

    Args:
        training: The training, whose model has the gradients and the parameters of the step.
        values: What else the step computed.
        exact: The step in float64.
        state: State of the training before the step, on the CPU.

    Raises:
        ValueError: A tensor has another shape in float64, or a quantity has another number of tensors.
    """
    model = training.model
    step = taken_step(values.output, values.loss, values.output_grad)
    step.keep("param_grad", [parameter.grad for parameter in model.parameters()])
    step.keep("param", list(model.parameters()))
    with generators_restored():
        wide = _widened(training, state)
        before = [parameter.detach().clone() for parameter in wide.model.parameters()]
        # In float64: the difference of two parameters need not be a number of their dtype.
        step.values["update"] = _updates(before, model)
        step.units["update"] = step.units["param"]
        for parameter, own in zip(wide.model.parameters(), model.parameters(), strict=True):
            parameter.grad = None if own.grad is None else widened(own.grad.detach().cpu())
        wide.optimizer.step()
    # An optimizer magnifies what is before it (Adam divides a gradient by its size), so it is judged by itself.
    return step, relative_errors(step, exact | {"update": _updates(before, wide.model)})


def _updates(before: Sequence[torch.Tensor], model: torch.nn.Module) -> list[np.ndarray | None]:
    """Each parameter minus the same parameter before, in float64."""
    return [
        on_host(widened(parameter.detach().cpu()) - old)
        for old, parameter in zip(before, model.parameters(), strict=True)
    ]


def _widened(training: Training, state: dict[str, Any]) -> Training:
    """A copy of the training in float64 on the CPU, in the state. The global generators get the state's, too.

    Raises:
        OracleUnavailable: The model has complex parameters.
    """
    check_real(training.model.parameters())
    # A copy, since cpu() and double() convert a module in place. The optimizer is made anew, over its parameters.
    model = copy.deepcopy(training.model).cpu().double()
    optimizer = training.task.optimizer(model.parameters(), training.trial.settings.lr)
    # Loading converts each tensor to the dtype of what it is loaded into, so the state arrives in float64.
    restore_state(state, model, optimizer)
    return replace(training, model=model, optimizer=optimizer, device=torch.device("cpu"))
