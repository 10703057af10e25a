"""The steps of a recorded loop that are compared with float64: a few early ones, and a partial batch."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.modules import module as modules

from parity.ground.errors import OracleUnavailable
from parity.observe.audit import Oracle
from parity.observe.beside_step import added_to_buffers, copies_of_buffers, elsewhere
from parity.observe.called_model import Inputs
from parity.observe.float64_step import Errors, StepError, relative_errors, step_errors, strange, tensor_names
from parity.observe.generators import take_generators
from parity.observe.recorded_step import RecordedStep
from parity.observe.taken_step import TakenStep, taken_step
from parity.observe.untouched import ReachesLoop
from parity.plan import lines
from parity.plan.trial import MEASURED_STEPS, Place
from parity.tasks.outputs import Outputs

# A step in float64 that takes longer is announced, since the loop stands still meanwhile. Only the sentence depends on
# the time; what is measured does not.
ANNOUNCED_S = 5.0
# What a rank of a distributed training computes from its own rows alone.
_OF_THIS_RANK = ("output", "loss", "output_grad")


class MeasuredSteps:
    """Takes some of a loop's steps in float64 too, and measures how far the loop's own steps are from them.

    The calls for a step are `forward`, `loss`, `backward`, `before_update` and `after_update`, in this order. Where a
    step cannot be taken in float64, the loop goes on, and the reason is kept for `take`.

    Args:
        model: The loop's model.
        optimizers: Its optimizers.
        oracle: The criterion in float64; None where there is no criterion, and no step is measured.
        compiled: Whether some of the model is compiled.
        first_step: Number of the loop's first recorded step, from which `MEASURED_STEPS` are counted.

    Attributes:
        facts: Facts of the trial: what the model was seen to compute in float64 beside its first step.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        oracle: Oracle | None,
        compiled: bool,
        first_step: int = 0,
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._oracle = oracle
        self._compiled = compiled
        self._steps = frozenset(first_step + step for step in MEASURED_STEPS)
        self._exact: RecordedStep | None = None
        self._output: Outputs | None = None
        self._taken = TakenStep({}, {})
        self._errors: list[StepError] = []
        self._missing: str | None = None
        self._computed_u = 0.0
        self._saw_partial = False
        self._drops_out = _drops_out(model)
        self.facts: dict[str, Any] = {}
        # As they are before the first step, whose forward pass changes them before anybody looks.
        self._buffers = copies_of_buffers(model) if oracle else None
        self._hook: Any = None
        self.await_step(first_step)

    def await_step(self, step: int) -> None:
        """Notes the state of the global generators from which the next step will draw, if the step will be measured."""
        self._generators: dict[str, Any] | None = None
        if self._oracle is None or step not in self._steps:
            return
        self._generators = take_generators()
        # What loads the data may draw before the model does. The hook is torch's, not the model's, which may be copied
        # or stored meanwhile; it is there for this step alone. A compiled model, which it would compile anew, draws
        # numbers of its own anyway.
        if self._drops_out and not self._compiled:
            self._hook = modules.register_module_forward_pre_hook(self._note_generators)

    def _note_generators(self, module: torch.nn.Module, _: object) -> None:
        if module is self._model:
            self._generators = take_generators()

    def let_go(self) -> None:
        """Removes the hook that waits for the next step, if there is one."""
        hook, self._hook = self._hook, None
        if hook:
            hook.remove()

    def due(self, place: Place) -> bool:
        """Whether to measure the step: it is one of those, or the first with a partial batch."""
        # The state of the generators before a partial batch is not known, since nobody knew that it would come.
        first_partial = place.partial and not self._saw_partial and not self._drops_out
        # Noted at every step, measured or not: only the first partial batch of the loop counts.
        self._saw_partial |= place.partial
        return self._oracle is not None and (place.step in self._steps or first_partial)

    def forward(self, inputs: Inputs, *, output: Outputs, target: Outputs, computed_u: float) -> None:
        """Takes the step in float64 as far as the gradients.

        Args:
            inputs: What the model was called with.
            output: What the loss was given.
            target: What the loss was given.
            computed_u: The unit roundoff of the narrowest dtype in which the model computes.
        """
        self._computed_u = computed_u
        assert self._oracle is not None, "only with a criterion is a step due"
        self.let_go()
        try:
            # Now, from the parameters that the loop's forward pass used. If it raises, the calls that follow do
            # nothing.
            with _announced("a step"):
                self._exact = RecordedStep(
                    self._model,
                    inputs,
                    output=output,
                    target=target,
                    oracle=self._oracle,
                    generators=self._generators,
                )
                before, self._buffers = self._buffers, None
                if before is not None:
                    self.facts = self._ask(self._exact, before)
        except OracleUnavailable as error:
            self._give_up(error)

    def _ask(self, exact: RecordedStep, buffers: Sequence[torch.Tensor | None]) -> dict[str, Any]:
        """What the model computes beside its first step, from the buffers before it and from other parameters."""
        found = {} if shares_gradients() else elsewhere(exact)
        if any(each is not None and each.is_floating_point() for each in buffers):
            found |= added_to_buffers(exact, buffers)
        return found

    def stop(self, reason: str) -> None:
        """Takes no further step in float64."""
        self._missing, self._oracle = reason, None
        self.let_go()

    def _give_up(self, error: OracleUnavailable) -> None:
        """Keeps why something of a step is missing, and takes no further step of a model that its copy reaches."""
        self._missing = str(error)
        if isinstance(error, ReachesLoop):
            self._oracle = None

    def loss(self, output: Outputs, loss: torch.Tensor, output_grad: Sequence[torch.Tensor]) -> None:
        """Keeps the loop's own output, loss and gradient for each part of the output."""
        if self._exact:
            self._output = output
            # Copies on the host: the loop goes on with these tensors before they are compared.
            self._taken = taken_step(output, loss, output_grad)

    def backward(self) -> None:
        """Keeps the loop's own gradient for the parameters."""
        if self._exact:
            self._taken.keep("param_grad", [parameter.grad for parameter in self._model.parameters()])

    @property
    def awaits_update(self) -> bool:
        """Whether the optimizers' steps are still to be taken in float64."""
        return self._exact is not None and self._exact.own_update is None

    def before_update(self, *, unchanged: bool) -> None:
        """Takes the optimizers' steps in float64 too: they are about to take theirs.

        Args:
            unchanged: Whether they are about to be given the gradient of backward as it was.
        """
        if self._exact:
            try:
                self._exact.update(self._optimizers, self._model, unchanged=unchanged)
            except OracleUnavailable as error:
                self._give_up(error)

    def after_update(self, step: int) -> None:
        """Measures how far the loop's own step is from the step in float64."""
        # Forgotten first, so that no return below leaves it for the next step.
        exact, self._exact = self._exact, None
        if exact is None:
            return
        taken, right = self._taken, dict(exact.values)
        if shares_gradients():
            # The gradient of the parameters is that of all ranks, and the step in float64 has the rows of this one.
            right = {quantity: right[quantity] for quantity in _OF_THIS_RANK}
        taken.keep("param", list(self._model.parameters()))
        # Absent where the optimizer could not be copied.
        if exact.own_update is not None and not shares_gradients():
            if unlike := exact.unlike(self._model):
                self._missing = unlike
                right.pop("param", None)
                right.pop("update", None)
            else:
                taken.values["update"], taken.units["update"] = exact.own_difference(self._model), taken.units["param"]
                right["update"] = exact.own_update
        try:
            errors = relative_errors(taken, right)
        except ValueError as error:  # shapes, or numbers of tensors, differ
            self._missing = f"the model in float64 gives another output: {error}"
            return
        missing = strange(errors, taken.units, computed_u=self._computed_u) or _hooked(self._model, errors, taken)
        if missing:
            self._missing = missing
            return
        names = tensor_names(self._model, self._output)
        try:
            with _announced("the spread of a step"):
                self._errors += step_errors(
                    step,
                    names,
                    errors=errors,
                    units=taken.units,
                    exact=exact.values,
                    take=exact.take,
                    computed_u=self._computed_u,
                    inexact=exact.inexact(),
                )
        except OracleUnavailable as error:
            self._give_up(error)

    def take(self) -> tuple[list[StepError], str | None]:
        """Returns what was measured since the last call, and why some of it is missing, or None; and forgets both."""
        found = self._errors, self._missing
        self._errors, self._missing = [], None
        return found


@contextlib.contextmanager
def _announced(what: str) -> Iterator[None]:
    """Says on stderr what the loop waits for, if the block takes long."""

    def announce() -> None:
        sys.stderr.write(
            f"parity: taking {what} of this loop in float64 on the CPU, to see what rounding explains; "
            "the loop goes on after it\n"
        )

    timer = threading.Timer(ANNOUNCED_S, announce)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def shares_gradients() -> bool:
    """Whether this process is one of several that train together, and exchange their gradients."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return distributed and torch.distributed.get_world_size() > 1


def _hooked(model: torch.nn.Module, errors: Errors, taken: TakenStep) -> str | None:
    """Why the gradients in float64 are not those of the same step: a hook that copies lack changes one."""
    gradients = zip(errors.get("param_grad", []), taken.units.get("param_grad", []), strict=False)
    for (name, parameter), (error, unit) in zip(model.named_parameters(), gradients, strict=False):
        if parameter._backward_hooks and not error.own * unit <= lines.STRANGE.value:
            return f"a hook changes the gradient of {name} in backward, which a copy of the model lacks"
    return None


def _drops_out(model: torch.nn.Module) -> bool:
    """Whether a module of the model has a setting for dropout that is not zero."""
    return any(
        isinstance(value, float) and value > 0 and (name == "p" or "drop" in name)
        for module in model.modules()
        for name, value in vars(module).items()
    )
