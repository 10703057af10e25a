"""A step of a recorded loop, taken again in float64 on the CPU without an effect on the loop."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.audit import Oracle, gradients
from parity.observe.called_model import Inputs, call, counterparts
from parity.observe.generators import generators_restored, restore_generators
from parity.observe.narrow_rounding import NarrowRounding
from parity.observe.norms import l2_norm
from parity.observe.repeated_update import NO_OPTIMIZER, RepeatedUpdate, explained, stepped
from parity.observe.same_draws import SameDraws
from parity.observe.taken_step import Values, check_real, on_host, widened
from parity.observe.untouched import PLAIN, left_alone
from parity.tasks.outputs import Outputs, map_tensors, with_parts

# Up to 90 bytes of memory for each element of the model (measured: 2.8 GB for 30 million under AdamW), so 18 GB. The
# limit counts elements rather than free memory, so that a loop leaves the same evidence everywhere.
MOST_ELEMENTS = 200_000_000
# Of the repeats that show what rounding in narrower dtypes does: the larger of two distances.
SEEDS = (0, 1)


class RecordedStep:
    """A step in float64: taken before the loop's own backward, and updated when the optimizers are about to step.

    Attributes:
        model: The copy of the model that takes it.
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
        check_real(model.parameters())
        if any(hasattr(parameter, "to_local") for parameter in model.parameters()):
            raise OracleUnavailable("each process holds a part of the parameters")
        self._oracle, self._generators, self._loops = oracle, generators, model
        self._dtype = next(model.parameters()).dtype
        # A copy, since cpu() and double() convert a module in place.
        with explained("the model cannot be copied"):
            self.model = copy.deepcopy(model).cpu().double()
        # A step of a model may change its buffers, from which a repeat has to start again.
        self._buffers = [None if each is None else each.clone() for each in buffers_of(self.model)]
        # Or numbers that a module keeps, as one that counts its calls does.
        self._plain = [
            (vars(each), {name: value for name, value in vars(each).items() if type(value) in PLAIN})
            for each in self.model.modules()
        ]
        # A dict of a class of its own is one leaf to torch's trees.
        inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
        self._inputs, self._output, self._target = (
            map_tensors(lambda tensor: widened(tensor.detach().cpu()), each) for each in (inputs, output, target)
        )
        self._start: list[torch.Tensor] = []
        self._repeated: RepeatedUpdate | None = None
        self.own_update: list[np.ndarray | None] | None = None
        noted = NarrowRounding()
        self.values = self.take(noted)
        # The same step, if some of it is computed in a narrower dtype, with other roundings there.
        self._moved = [self.take(NarrowRounding(seed)) for seed in SEEDS] if noted.seen else []

    def update(self, optimizers: Sequence[torch.optim.Optimizer], model: torch.nn.Module, *, unchanged: bool) -> None:
        """Takes the optimizers' steps too.

        Args:
            optimizers: The loop's optimizers, before their steps.
            model: The loop's model, with the gradients that the optimizers are about to be given.
            unchanged: Whether these are the gradients of backward, so that the whole step can be taken in float64.

        Raises:
            OracleUnavailable: They cannot be copied; `values` stays as it was.
        """
        # Of all its calls: what the optimizers' code reaches, it may change.
        with explained(NO_OPTIMIZER), left_alone(model, optimizers):
            mine = list(model.parameters())
            self._start = [parameter.detach().clone() for parameter in self.model.parameters()]
            own = [None if each.grad is None else each.grad.detach().cpu() for each in mine]
            # In the loop's own dtypes first: `unlike` compares it with what the loop's optimizers do.
            self._repeated = RepeatedUpdate(optimizers, model)
            wide = [None if grad is None else widened(grad) for grad in own]
            after = self._exactly(optimizers, mine, wide)
            self.own_update = self._from_start(after)
            if unchanged:
                exact = [None if grad is None else torch.from_numpy(grad) for grad in self.values["param_grad"]]
                noted = NarrowRounding()
                self.values["param"] = self._exactly(optimizers, mine, exact, within=noted)
                self.values["update"] = self._from_start(self.values["param"])
                self._move_update(optimizers, mine, narrow=noted.seen)

    def _move_update(
        self, optimizers: Sequence[torch.optim.Optimizer], mine: Sequence[torch.nn.Parameter], *, narrow: bool
    ) -> None:
        """Takes the optimizers' steps from the gradients of the moved steps, too.

        Args:
            optimizers: The loop's optimizers.
            mine: The parameters of the loop's model.
            narrow: Whether some of their own steps is computed in a narrower dtype.
        """
        if narrow and not self._moved:
            self._moved = [{"param_grad": self.values["param_grad"]} for _ in SEEDS]
        for seed, moved in zip(SEEDS, self._moved, strict=False):
            grads = [None if grad is None else torch.from_numpy(grad) for grad in moved["param_grad"]]
            after = self._exactly(optimizers, mine, grads, within=NarrowRounding(seed))
            moved |= {"param": after, "update": self._from_start(after)}

    @property
    def narrow(self) -> bool:
        """Whether some of it is computed in dtypes narrower than float64."""
        return bool(self._moved)

    def inexact(self) -> dict[str, list[float]]:
        """How far each tensor of `values` is moved by the rounding of what is computed in narrower dtypes.

        Returns:
            The largest distance seen, for each tensor of a quantity; nothing where all of it is computed in float64.
        """
        found: dict[str, list[float]] = {}
        for moved in self._moved:
            for quantity, values in moved.items():
                distances = [
                    0.0 if value is None or right is None else l2_norm(value - right)
                    for value, right in zip(values, self.values[quantity], strict=True)
                ]
                found[quantity] = list(map(max, distances, found.get(quantity, distances)))
        return {quantity: distances for quantity, distances in found.items() if any(distances)}

    def unlike(self, model: torch.nn.Module) -> str | None:
        """Why the copied optimizers' steps are not those that the loop has taken since `update`; None if they are."""
        return None if self._repeated is None else self._repeated.unlike(model)

    def own_difference(self, model: torch.nn.Module) -> list[np.ndarray | None]:
        """What the loop's own step has added to each parameter, in float64."""
        return [
            on_host(widened(parameter.detach().cpu()) - start)
            for parameter, start in zip(model.parameters(), self._start, strict=True)
        ]

    def take(
        self,
        within: AbstractContextManager[object] | None = None,
        *,
        buffers: Sequence[torch.Tensor | None] | None = None,
    ) -> Values:
        """Takes the step as far as the gradients.

        Args:
            within: Something that rounds, or None.
            buffers: What the model's buffers are before it, as `buffers_of`; None for what they were in the loop when
                this step was made.

        Raises:
            OracleUnavailable: The model cannot take the step in float64.
        """
        # A model with dropout draws what it drew in the loop, which must not notice.
        with generators_restored(), explained("the step raised in float64"), torch.enable_grad():
            if self._generators:
                restore_generators(self._generators)
            with left_alone(self._loops), SameDraws(self._dtype), within or contextlib.nullcontext():
                return self._take(self._buffers if buffers is None else buffers)

    def _take(self, buffers: Sequence[torch.Tensor | None]) -> Values:
        model = self.model
        with torch.no_grad():
            for buffer, before in zip(buffers_of(model), buffers, strict=True):
                if buffer is not None and before is not None:
                    buffer.copy_(before)
        for attributes, plain in self._plain:
            attributes |= plain
        # None rather than zeros: the gradients of the step before are still in use.
        model.zero_grad(set_to_none=True)
        output = call(model, self._inputs)
        floating = counterparts(output, self._output)
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

    def _exactly(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        mine: Sequence[torch.nn.Parameter],
        grads: Sequence[torch.Tensor | None],
        *,
        within: AbstractContextManager[object] | None = None,
    ) -> list[np.ndarray | None]:
        """The parameters after the optimizers' steps with these gradients, in float64, within something that rounds."""
        with SameDraws(self._dtype), within or contextlib.nullcontext():
            return stepped(optimizers, mine, self._start, grads, exact=True)

    def _from_start(self, after: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
        """What was added to each parameter."""
        return [
            None if value is None else value - start.numpy() for value, start in zip(after, self._start, strict=True)
        ]


def buffers_of(model: torch.nn.Module) -> list[torch.Tensor | None]:
    """The buffers of a model in the order of `StepState.buffer_names`; None where one is registered as None."""
    return [each for module in model.modules() for each in module._buffers.values()]
