"""A step of a recorded loop, taken again in float64 on the CPU without an effect on the loop."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.audit import Oracle, gradients
from parity.observe.float64_step import Perturb, Values, on_host, widened
from parity.observe.generators import restore_generators, take_generators
from parity.tasks.outputs import Outputs, map_tensors, parts

# A copy of a larger model in float64, and a step of it on a CPU, costs too much to be taken without being asked for:
# 20 million elements are 160 MB, and their step takes about a second.
MOST_ELEMENTS = 20_000_000
NO_OPTIMIZER = "the optimizer cannot be copied in float64"
# Settings of optimizers that choose an implementation rather than what is computed.
_IMPLEMENTATIONS = {"foreach": False, "fused": False, "capturable": False}


class RecordedStep:
    """A step in float64: taken before the loop's own backward, and updated when the optimizers are about to step.

    Attributes:
        values: Its tensors by quantity; "param" once `update` has been called.
    """

    def __init__(self, model: torch.nn.Module, inputs: Sequence[torch.Tensor], target: Outputs, oracle: Oracle) -> None:
        """Takes the step as far as the gradients.

        Args:
            model: The loop's model, as it is before the step.
            inputs: What it is called with.
            target: What the loss is given.
            oracle: The loss in float64.

        Raises:
            OracleUnavailable: The model is too large, or cannot take the step in float64.
        """
        elements = sum(parameter.numel() for parameter in model.parameters())
        if elements > MOST_ELEMENTS:
            raise OracleUnavailable(f"the model has {elements:,} elements, and {MOST_ELEMENTS:,} are the most")
        self._oracle = oracle
        self._optimizers: list[Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer]] = []
        # A copy, since cpu() and double() convert a module in place.
        with _explained("the model cannot be copied"):
            self._model = copy.deepcopy(model).cpu().double()
        self._inputs = [widened(tensor.detach().cpu()) for tensor in inputs]
        self._target = map_tensors(lambda tensor: widened(tensor.detach().cpu()), target)
        self.values = self.take()

    def update(self, optimizers: Sequence[torch.optim.Optimizer], model: torch.nn.Module) -> None:
        """Takes the optimizers' steps too.

        Args:
            optimizers: The loop's optimizers, before their steps.
            model: The loop's model.

        Raises:
            OracleUnavailable: They cannot be copied; `values` stays as it was.
        """
        # By number: the copy has parameters of its own, in the same order.
        places = {parameter: index for index, parameter in enumerate(model.parameters())}
        with _explained(NO_OPTIMIZER):
            self._optimizers = [_recipe(optimizer, places) for optimizer in optimizers]
            try:
                self.values = self.take()
            except Exception:
                self._optimizers = []
                raise

    def take(self, perturb: Perturb | None = None) -> Values:
        """Takes the step, with each parameter moved first if `perturb` is given.

        Returns:
            The tensors of the step by quantity; "param" only once `update` has been given optimizers.

        Raises:
            OracleUnavailable: The model cannot take the step in float64.
        """
        # A model with dropout draws in float64 too, and the loop must not notice.
        generators = take_generators()
        try:
            with _explained("the step raised in float64"), torch.enable_grad():
                return self._take(perturb)
        finally:
            restore_generators(generators)

    def _take(self, perturb: Perturb | None) -> Values:
        # A new copy each time: the step is taken with and without the optimizers, and from moved parameters.
        model = copy.deepcopy(self._model)
        # A copied parameter has a copy of its gradient, to which backward would add.
        model.zero_grad()
        parameters = list(model.parameters())
        if perturb:
            with torch.no_grad():
                for parameter in parameters:
                    parameter.copy_(perturb(parameter))
        output = model(*self._inputs)
        floating = parts(output)
        if not floating or any(part.dtype != torch.float64 or not part.requires_grad for part in floating):
            raise OracleUnavailable(
                "the model, called with the inputs in float64, gave no float64 tensor, or one without a graph"
            )
        loss, found = self._oracle(map_tensors(torch.Tensor.detach, output), self._target)
        grads = [np.asarray(grad) for grad in gradients(found)]
        # from_numpy shares memory with its array, hence the copies: `grads` must stay as the oracle returned it.
        torch.autograd.backward(floating, [torch.from_numpy(np.array(grad)) for grad in grads])
        values: Values = {
            "output": [on_host(part) for part in floating],
            "loss": [np.array(loss)],
            "output_grad": [*grads],
            "param_grad": [on_host(parameter.grad) for parameter in parameters],
        }
        for make in self._optimizers:
            with _explained(NO_OPTIMIZER):
                optimizer = make(parameters)
            optimizer.step()
        # Without optimizers there is no update to compare, rather than one that changes nothing.
        if self._optimizers:
            values["param"] = [on_host(parameter) for parameter in parameters]
        return values


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns whatever the user's code raises in the block into `OracleUnavailable`, with the reason."""
    try:
        yield
    # It gives its reason already.
    except OracleUnavailable:
        raise
    except Exception as error:
        raise OracleUnavailable(f"{what}: {type(error).__name__}: {error}") from error


def _recipe(
    optimizer: torch.optim.Optimizer, places: dict[torch.nn.Parameter, int]
) -> Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer]:
    """Returns a function that makes the optimizer again, as it is now, for other parameters."""
    # Copied now, before the loop's own step changes it; and once more for each optimizer that is made, whose step
    # changes it too.
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
        # load_state_dict has put the settings of the loop's optimizer back, implementations included.
        for group in made.param_groups:
            group.update(_plain(group))
        return made

    return make


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    """Those of `_IMPLEMENTATIONS` that a group of parameters has: not every optimizer has each of them."""
    return {name: value for name, value in _IMPLEMENTATIONS.items() if name in group}
