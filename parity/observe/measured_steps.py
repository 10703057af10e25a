"""The steps of a recorded loop that are compared with float64: a few early ones, and a partial batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.audit import Oracle
from parity.observe.float64_step import (
    StepError,
    Values,
    on_host,
    relative_errors,
    spread_of,
    step_errors,
    strange,
    tensor_names,
    unit_of,
)
from parity.observe.recorded_step import RecordedStep
from parity.plan.trial import MEASURED_STEPS, Place
from parity.tasks.outputs import Outputs, parts


class MeasuredSteps:
    """Takes some of a loop's steps in float64 too, and measures how far the loop's own steps are from them.

    The calls for a step are `forward`, `loss`, `backward`, `before_update` and `after_update`, in this order. Where a
    step cannot be taken in float64, the loop goes on, and the reason is kept for `take`.

    Args:
        model: The loop's model.
        optimizers: Its optimizers.
        oracle: The criterion in float64; None where there is no criterion, and no step is measured.
    """

    def __init__(
        self, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], oracle: Oracle | None
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._oracle = oracle
        self._exact: RecordedStep | None = None
        self._output: Outputs | None = None
        self._values: Values = {}
        self._errors: list[StepError] = []
        self._missing: str | None = None
        self._saw_partial = False

    def due(self, place: Place) -> bool:
        """Whether to measure the step: it is one of `MEASURED_STEPS`, or the first with a partial batch."""
        first_partial = place.partial and not self._saw_partial
        # Noted at every step, measured or not: only the first partial batch of the loop counts.
        self._saw_partial |= place.partial
        return self._oracle is not None and (place.step in MEASURED_STEPS or first_partial)

    def forward(self, inputs: Sequence[torch.Tensor], target: Outputs) -> None:
        """Takes the step in float64 as far as the gradients."""
        assert self._oracle is not None, "only with a criterion is a step due"
        try:
            # Now, from the parameters that the loop's forward pass used. If it raises, the calls that follow do
            # nothing.
            self._exact = RecordedStep(self._model, inputs, target, self._oracle)
        except OracleUnavailable as error:
            self._missing = str(error)

    def loss(self, output: Outputs, loss: torch.Tensor, output_grad: Sequence[torch.Tensor]) -> None:
        """Keeps the loop's own output, loss and gradient for each part of the output."""
        if self._exact:
            self._output = output
            # Copies on the host: the loop goes on with these tensors before they are compared.
            self._values = {
                "output": [on_host(part) for part in parts(output)],
                "loss": [on_host(loss)],
                "output_grad": [on_host(grad) for grad in output_grad],
            }

    def backward(self) -> None:
        """Keeps the loop's own gradient for the parameters."""
        if self._exact:
            self._values["param_grad"] = [on_host(parameter.grad) for parameter in self._model.parameters()]

    @property
    def awaits_update(self) -> bool:
        """Whether the optimizers' steps are still to be taken in float64."""
        return self._exact is not None and "param" not in self._exact.values

    def before_update(self) -> None:
        """Takes the optimizers' steps in float64 too: they are about to be given the gradient of backward unchanged."""
        if self._exact:
            try:
                self._exact.update(self._optimizers, self._model)
            except OracleUnavailable as error:
                self._missing = str(error)

    def after_update(self, step: int) -> None:
        """Measures how far the loop's own step is from the step in float64."""
        # Forgotten first, so that no return below leaves it for the next step.
        exact, self._exact = self._exact, None
        if exact is None:
            return
        # Absent where the optimizer could not be copied, or was given another gradient than that of backward.
        if "param" in exact.values:
            self._values["param"] = [on_host(parameter) for parameter in self._model.parameters()]
        try:
            errors = relative_errors(self._values, exact.values)
        except ValueError as error:  # shapes, or numbers of tensors, differ
            self._missing = f"the model in float64 gives another output: {error}"
            return
        if missing := strange(errors):
            self._missing = missing
            return
        # torch.compile puts `_orig_mod.` into the names of parameters: without it a compiled loop has the names of a
        # plain one.
        names = {
            quantity: [name and name.replace("_orig_mod.", "") for name in each]
            for quantity, each in tensor_names(self._model, self._output).items()
        }
        spread = partial(spread_of, exact.take, exact.values, unit=unit_of(self._model))
        try:
            self._errors += step_errors(step, names, errors, exact.values, spread)
        except OracleUnavailable as error:
            self._missing = str(error)

    def take(self) -> tuple[list[StepError], str | None]:
        """Returns what was measured since the last call, and why some of it is missing, or None; and forgets both."""
        found = self._errors, self._missing
        self._errors, self._missing = [], None
        return found
