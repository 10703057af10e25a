"""A step of a recorded loop, taken again in float64 on the CPU; the loop does not notice.

Letters: P parameter tensors of the model.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.audit import Oracle
from parity.observe.float64_step import Perturb, Values, on_host, widened
from parity.observe.generators import restore_generators, take_generators

# Of larger models a copy in float64, and a step of it on a CPU, is too dear to take unasked.
MOST_ELEMENTS = 20_000_000
NO_OPTIMIZER = "the optimizer cannot be copied in float64"
# Settings of optimizers that choose an implementation, not what is computed.
_IMPLEMENTATIONS = {"foreach": False, "fused": False, "capturable": False}


class RecordedStep:
    """A step in float64: made before the loop's own backward, and updated when the optimizers are about to step.

    Attributes:
        values: Its tensors by quantity, one or P; "param" once `update` has been called.
    """

    def __init__(
        self, model: torch.nn.Module, inputs: Sequence[torch.Tensor], target: torch.Tensor, oracle: Oracle
    ) -> None:
        """Takes the step as far as the gradients.

        Args:
            model: Of the loop, as it stands before the step.
            inputs: What it is called with.
            target: What the loss gets.
            oracle: The loss in float64.

        Raises:
            OracleUnavailable: The model is too large, or does not do this in float64.
        """
        elements = sum(parameter.numel() for parameter in model.parameters())
        if elements > MOST_ELEMENTS:
            raise OracleUnavailable(f"the model has {elements:,} elements, and {MOST_ELEMENTS:,} are the most")
        self._oracle = oracle
        self._optimizers: list[Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer]] = []
        with _told("the model cannot be copied"):
            self._model = copy.deepcopy(model).cpu().double()
        self._inputs = [widened(tensor.detach().cpu()) for tensor in inputs]
        self._target = widened(target.detach().cpu())
        self.values = self.take()

    def update(self, optimizers: Sequence[torch.optim.Optimizer], model: torch.nn.Module) -> None:
        """Takes the optimizers' steps too.

        Args:
            optimizers: Of the loop, before their steps.
            model: Of the loop.

        Raises:
            OracleUnavailable: They cannot be copied; the values are what they were.
        """
        places = {parameter: index for index, parameter in enumerate(model.parameters())}
        with _told(NO_OPTIMIZER):
            self._optimizers = [_recipe(optimizer, places) for optimizer in optimizers]
            try:
                self.values = self.take()
            except Exception:
                self._optimizers = []
                raise

    def take(self, perturb: Perturb | None = None) -> Values:
        """Takes the step, after each parameter has been moved.

        Raises:
            OracleUnavailable: The model does not do this in float64.
        """
        generators = take_generators()
        try:
            with _told("the step raised in float64"), torch.enable_grad():
                return self._take(perturb)
        finally:
            restore_generators(generators)

    def _take(self, perturb: Perturb | None) -> Values:
        model = copy.deepcopy(self._model)
        model.zero_grad()
        parameters = list(model.parameters())
        if perturb:
            with torch.no_grad():
                for parameter in parameters:
                    parameter.copy_(perturb(parameter))
        output = model(*self._inputs)
        if not isinstance(output, torch.Tensor) or output.dtype != torch.float64 or not output.requires_grad:
            raise OracleUnavailable(
                "the model, called with the inputs in float64, gave no tensor of float64 with a graph"
            )
        loss, grad = self._oracle(output, self._target)
        output.backward(torch.from_numpy(np.array(grad)).to(output.dtype))  # type: ignore[no-untyped-call]
        values: Values = {
            "output": [on_host(output)],
            "loss": [np.array(loss)],
            "output_grad": [np.asarray(grad)],
            "param_grad": [on_host(parameter.grad) for parameter in parameters],
        }
        for make in self._optimizers:
            with _told(NO_OPTIMIZER):
                optimizer = make(parameters)
            optimizer.step()
        if self._optimizers:
            values["param"] = [on_host(parameter) for parameter in parameters]
        return values


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turns whatever the user's code raises into the reason why there is no such step."""
    try:
        yield
    except OracleUnavailable:
        raise
    except Exception as error:
        raise OracleUnavailable(f"{what}: {type(error).__name__}: {error}") from error


def _recipe(
    optimizer: torch.optim.Optimizer, places: dict[torch.nn.Parameter, int]
) -> Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer]:
    """What makes the optimizer again, as it stands, for other parameters."""
    kind, state = type(optimizer), copy.deepcopy(optimizer.state_dict())
    groups: list[tuple[dict[str, Any], list[int]]] = [
        ({name: value for name, value in group.items() if name not in ("params", "param_names")} | _plain(group),
         [places[parameter] for parameter in group["params"]])
        for group in optimizer.param_groups
    ]  # fmt: skip

    def make(parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        made = kind(  # type: ignore[call-arg]  # each kind has defaults for the rest
            [{**settings, "params": [parameters[index] for index in indices]} for settings, indices in groups]
        )
        made.load_state_dict(copy.deepcopy(state))
        for group in made.param_groups:
            group.update(_plain(group))
        return made

    return make


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in _IMPLEMENTATIONS.items() if name in group}
