"""A step of a recorded loop, taken again in float64 on the CPU without an effect on the loop."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.audit import Oracle, gradients
from parity.observe.generators import generators_restored, restore_generators
from parity.observe.norms import l2_norm
from parity.observe.same_draws import SameDraws
from parity.observe.taken_step import Values, on_host, widened
from parity.tasks.outputs import Outputs, describe, map_tensors, parts, with_parts

# What a loop calls its model with: a tensor, or a sequence or dict of arguments.
Inputs = torch.Tensor | Sequence[Any] | Mapping[str, Any]

# Up to 90 bytes of memory for each element of the model (measured: 2.8 GB for 30 million under AdamW), so 18 GB. The
# limit counts elements rather than free memory, so that a loop leaves the same evidence everywhere.
MOST_ELEMENTS = 200_000_000
NO_OPTIMIZER = "the optimizer cannot be copied in float64"
# Settings of optimizers that choose an implementation rather than what is computed.
_IMPLEMENTATIONS = {"foreach": False, "fused": False, "capturable": False}


class RecordedStep:
    """A step in float64: taken before the loop's own backward, and updated when the optimizers are about to step.

    Attributes:
        values: Its tensors by quantity; "update" and "param" once `update` has been called, if the optimizers were
            given the gradient of backward.
        own_update: What the optimizers make of the loop's own gradient in float64, a tensor for each parameter; None
            until `update` has been called.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        inputs: Inputs,
        *,
        output: Outputs,
        target: Outputs,
        oracle: Oracle,
        generators: dict[str, Any] | None,
    ) -> None:
        """Takes the step as far as the gradients.

        Args:
            model: The loop's model, as it is before the step.
            inputs: What it is called with.
            output: What the loss was given.
            target: What the loss was given.
            oracle: The loss in float64.
            generators: The global generators as they were before the model was called; None where that is not known.

        Raises:
            OracleUnavailable: The model is too large, or cannot take the step in float64.
        """
        elements = sum(parameter.numel() for parameter in model.parameters())
        if elements > MOST_ELEMENTS:
            raise OracleUnavailable(f"the model has {elements:,} elements, and {MOST_ELEMENTS:,} are the most")
        if any(hasattr(parameter, "to_local") for parameter in model.parameters()):
            raise OracleUnavailable("each process holds a part of the parameters")
        self._oracle, self._generators = oracle, generators
        self._dtype = next(model.parameters()).dtype
        # A copy, since cpu() and double() convert a module in place.
        with _explained("the model cannot be copied"):
            self._model = copy.deepcopy(model).cpu().double()
        # A step of a model may change its buffers, from which a repeat has to start again.
        self._buffers = [buffer.clone() for buffer in self._model.buffers()]
        # A dict of a class of its own is one leaf to torch's trees.
        inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
        self._inputs, self._output, self._target = (
            map_tensors(lambda tensor: widened(tensor.detach().cpu()), each) for each in (inputs, output, target)
        )
        self._start: list[torch.Tensor] = []
        self.own_update: list[np.ndarray | None] | None = None
        self.values = self.take()

    def update(self, optimizers: Sequence[torch.optim.Optimizer], model: torch.nn.Module, *, unchanged: bool) -> None:
        """Takes the optimizers' steps too.

        Args:
            optimizers: The loop's optimizers, before their steps.
            model: The loop's model, with the gradients that the optimizers are about to be given.
            unchanged: Whether these are the gradients of backward, so that the whole step can be taken in float64.

        Raises:
            OracleUnavailable: They cannot be copied; `values` stays as it was.
        """
        # By number: the copy has parameters of its own, in the same order.
        places = {parameter: index for index, parameter in enumerate(model.parameters())}
        with _explained(NO_OPTIMIZER):
            recipes = [_recipe(optimizer, places) for optimizer in optimizers]
            self._start = [parameter.detach().clone() for parameter in self._model.parameters()]
            own = [None if each.grad is None else widened(each.grad.detach().cpu()) for each in model.parameters()]
            self.own_update, _ = self._updated(recipes, own)
            if unchanged:
                # Copies: an optimizer may change the gradient that it is given.
                exact = [None if grad is None else torch.from_numpy(grad.copy()) for grad in self.values["param_grad"]]
                self.values["update"], self.values["param"] = self._updated(recipes, exact)

    def own_difference(self, model: torch.nn.Module) -> list[np.ndarray | None]:
        """What the loop's own step has added to each parameter, in float64."""
        return [
            on_host(widened(parameter.detach().cpu()) - start)
            for parameter, start in zip(model.parameters(), self._start, strict=True)
        ]

    def take(self, within: AbstractContextManager[object] | None = None) -> Values:
        """Takes the step as far as the gradients, within something that rounds if it is given.

        Raises:
            OracleUnavailable: The model cannot take the step in float64.
        """
        # A model with dropout draws what it drew in the loop, which must not notice.
        with generators_restored(), _explained("the step raised in float64"), torch.enable_grad():
            if self._generators:
                restore_generators(self._generators)
            with SameDraws(self._dtype), within or contextlib.nullcontext():
                return self._take()

    def _take(self) -> Values:
        model = self._model
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        # None rather than zeros: the gradients of the step before are still in use.
        model.zero_grad(set_to_none=True)
        output = _call(model, self._inputs)
        floating = _counterparts(output, self._output)
        if any(part.dtype != torch.float64 or not part.requires_grad for part in floating):
            raise OracleUnavailable(
                "the model, called with the inputs in float64, gave no float64 tensor, or one without a graph"
            )
        given = with_parts(self._output, [part.detach() for part in floating])
        loss, found = self._oracle(given, self._target)
        grads = [np.asarray(grad) for grad in gradients(found)]
        # from_numpy shares memory with its array, hence the copies: `grads` must stay as the oracle returned it.
        # Only for the parameters of the copy: a method that was replaced by a closure (LoRA does it) still calls the
        # user's own layers, whose gradients must not be added to.
        torch.autograd.backward(
            floating,
            [torch.from_numpy(np.array(grad)) for grad in grads],
            inputs=[each for each in model.parameters() if each.requires_grad],
        )
        return {
            "output": [on_host(part) for part in floating],
            "loss": [np.array(loss)],
            "output_grad": [*grads],
            # Not copied: nothing changes the gradients of this model.
            "param_grad": [None if each.grad is None else each.grad.numpy() for each in model.parameters()],
        }

    def _updated(
        self, recipes: Sequence[_Recipe], grads: Sequence[torch.Tensor | None]
    ) -> tuple[list[np.ndarray | None], list[np.ndarray | None]]:
        """What the optimizers add to each parameter for these gradients, and the parameters after it."""
        parameters = list(self._model.parameters())
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        try:
            for make in recipes:
                make(parameters).step()
            after = [on_host(parameter) for parameter in parameters]
        finally:
            with torch.no_grad():
                for parameter, start in zip(parameters, self._start, strict=True):
                    parameter.copy_(start)
                    parameter.grad = None
        updates = [
            None if value is None else value - start.numpy() for value, start in zip(after, self._start, strict=True)
        ]
        return [*updates], after


def _call(model: torch.nn.Module, inputs: Inputs) -> Any:
    """Calls the model as the loop did: with one tensor, with arguments in order, or with arguments by name."""
    if isinstance(inputs, torch.Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def _counterparts(returned: Any, output: Outputs) -> list[torch.Tensor]:
    """The tensors of what the model returned that are the parts of the loop's output.

    A loop may give its loss one tensor of several that its model returns, or the same elements in another shape; the
    nearest in value is meant.

    Raises:
        OracleUnavailable: A part is none of them.
    """
    found, wanted = parts(returned), parts(output)
    if [each.shape for each in found] == [each.shape for each in wanted]:
        return found
    chosen = []
    for part in wanted:
        alike = [each.reshape(part.shape) for each in found if each.numel() == part.numel()]
        if not alike:
            raise OracleUnavailable(
                f"the loop's output, {describe(output)}, is not what the model returns in float64, {describe(returned)}"
            )
        chosen.append(min(alike, key=lambda each: l2_norm((each.detach().double() - part).numpy())))
    return chosen


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


# Makes an optimizer again for other parameters.
_Recipe = Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer]


def _recipe(optimizer: torch.optim.Optimizer, places: dict[torch.nn.Parameter, int]) -> _Recipe:
    """Returns a function that makes the optimizer again, as it is when that is called, for other parameters."""
    # Not copied here: the copies are made before the loop's own step.
    kind, state = type(optimizer), optimizer.state_dict()
    groups: list[tuple[dict[str, Any], list[int]]] = [
        ({name: value for name, value in group.items() if name not in ("params", "param_names")} | _plain(group),
         [places[parameter] for parameter in group["params"]])
        for group in optimizer.param_groups
    ]  # fmt: skip

    def make(parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        made = kind(  # type: ignore[call-arg]  # each kind has defaults for the rest
            [{**settings, "params": [parameters[index] for index in indices]} for settings, indices in groups]
        )
        # Copied, since the step changes it.
        made.load_state_dict(copy.deepcopy(state))
        # load_state_dict has put the settings of the loop's optimizer back, implementations included.
        for group in made.param_groups:
            group.update(_plain(group))
        return made

    return make


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    """Settings of a group of parameters that the float64 step has in another form.

    Those of `_IMPLEMENTATIONS` that the group has, since not every optimizer has each of them; and a rate that is a
    tensor as a number, since arithmetic on it would be in its own dtype.
    """
    numbers = {
        name: float(value)
        for name, value in group.items()
        if isinstance(value, torch.Tensor) and value.numel() == 1 and value.is_floating_point()
    }
    return numbers | {name: value for name, value in _IMPLEMENTATIONS.items() if name in group}
