"""A step of a task taken in float64 on the CPU, without an effect on the training."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from parity.ground.errors import OracleUnavailable, TrialFailed
from parity.observe.audit import gradients
from parity.observe.float64_step import Errors, Values, on_host, spread_of, unit_of, widened
from parity.observe.generators import restore_generators, take_generators
from parity.observe.low_precision import RoundedProducts
from parity.tasks.outputs import Outputs, map_tensors, parts
from parity.train.state import restore_state
from parity.train.step import StepValues, Training, forward, make_batch, send_back


def exact_step(
    training: Training,
    data: Mapping[str, np.ndarray],
    state: dict[str, Any],
    *,
    perturb: Callable[[torch.Tensor], torch.Tensor] | None = None,
    rounding: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Values:
    """Takes the step in float64 on the CPU; model, optimizer and generators of the training stay as they are.

    Args:
        training: Gives the model, the loss and the optimizer.
        data: The task's data.
        state: State of the training before the step, on the CPU.
        perturb: Moves each parameter before the step, or None.
        rounding: Rounds the factors of matrix products, or None.

    Returns:
        The tensors of the step by quantity, float64 on the CPU.

    Raises:
        OracleUnavailable: The task or its loss does not work in float64.
    """
    # The step draws what the training's step draws, since `restore_state` sets the generators, which the training still
    # needs.
    generators = take_generators()
    try:
        wide = _widened(training, state, perturb)
        model, optimizer = wide.model, wide.optimizer
        batch = tuple(widened(tensor) for tensor in make_batch(wide, data, state["step"]))
        # Forward and backward are rounded, the oracle between them too; the optimizer's step has no products.
        with RoundedProducts(rounding) if rounding else contextlib.nullcontext():
            output, target = forward(wide, batch, state["step"])
            loss, found = wide.oracle(map_tensors(torch.Tensor.detach, output), target)
            grads = [np.asarray(grad) for grad in gradients(found)]
            optimizer.zero_grad()
            # A model that narrows inside is found below; until then its gradients need its dtypes.
            dtypes = [part.dtype for part in parts(output)]
            send_back(
                output,
                # Copies, since from_numpy shares memory with arrays that are returned below.
                [torch.from_numpy(np.array(grad)).to(dtype) for grad, dtype in zip(grads, dtypes, strict=True)],
            )
        optimizer.step()
    # The same checks as in training, whose step is not at fault here: only the float64 run is missing.
    except TrialFailed as error:
        raise OracleUnavailable(f"the task does not train in float64: {error.reason}") from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise OracleUnavailable(f"the task does not train in float64: {type(error).__name__}: {error}") from error
    finally:
        restore_generators(generators)
    narrow = next((dtype for dtype in dtypes if dtype != torch.float64), None)
    if narrow:
        raise OracleUnavailable(f"the task's model gives {narrow} for parameters and a batch of float64")
    return _values(model, output, loss, grads)


def _values(model: torch.nn.Module, output: Outputs, loss: float, grads: list[np.ndarray]) -> Values:
    """The tensors of the step by quantity. `on_host` copies, so they outlive the model."""
    return {
        "output": [on_host(part) for part in parts(output)],
        "loss": [np.array(loss)],
        "output_grad": [*grads],
        "param_grad": [on_host(parameter.grad) for parameter in model.parameters()],
        "param": [on_host(parameter) for parameter in model.parameters()],
    }


def _widened(
    training: Training, state: dict[str, Any], perturb: Callable[[torch.Tensor], torch.Tensor] | None
) -> Training:
    """A copy of the training in float64 on the CPU, in the state, its parameters moved by `perturb`."""
    # A copy, since cpu() and double() convert a module in place. The optimizer is made anew, over its parameters.
    model = copy.deepcopy(training.model).cpu().double()
    optimizer = training.task.optimizer(model.parameters(), training.trial.settings.lr)
    # Loading converts each tensor to the dtype of what it is loaded into, so the state arrives in float64.
    restore_state(state, model, optimizer)
    if perturb:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(perturb(parameter))
    return replace(training, model=model, optimizer=optimizer, device=torch.device("cpu"))


def step_values(values: StepValues, model: torch.nn.Module) -> Values:
    """The tensors of a step that was just taken, as arrays on the CPU."""
    return {
        "output": [on_host(part) for part in parts(values.output)],
        "loss": [on_host(values.loss)],
        "output_grad": [on_host(grad) for grad in values.output_grad],
        "param_grad": [on_host(parameter.grad) for parameter in model.parameters()],
        "param": [on_host(parameter) for parameter in model.parameters()],
    }


def exact_spread(training: Training, data: Mapping[str, np.ndarray], state: dict[str, Any], exact: Values) -> Errors:
    """What rounding alone can do to the step, in u: the spread of float64 steps from slightly moved parameters."""
    take = partial(exact_step, training, data, state)
    return spread_of(lambda perturb: take(perturb=perturb), exact, unit=unit_of(training.model))
