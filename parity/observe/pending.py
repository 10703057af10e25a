"""A batch of a recorded loop on its way from the loss to its gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from parity.observe.batch import Batch
from parity.observe.model_output import Returned
from parity.tasks.outputs import Outputs, parts


@dataclass
class Pending:
    """A batch whose gradient has not arrived yet, or has arrived and has not been observed yet.

    Attributes:
        batch: What was observed of it so far.
        output: What the loss was given, outside of the graph.
        target: What the loss was given, outside of the graph.
        loss: What it returned, outside of the graph.
        factor: What the loss is multiplied by before it enters the step.
        learning: Number of parts of the target that require a gradient, and come after those of the output in `grads`.
        grads: The gradient for each part, by its number, as backward has brought it.
    """

    batch: Batch
    output: Outputs
    target: Outputs
    loss: torch.Tensor
    factor: float
    learning: list[torch.Tensor]
    grads: dict[int, torch.Tensor] = field(default_factory=dict)

    def watch(self, tensors: Sequence[torch.Tensor], changed: Mapping[int, Returned]) -> None:
        """Keeps the gradient for each of these tensors, or for what it was before, when backward brings it."""
        for number, tensor in enumerate(tensors):
            if number in changed:
                changed[number].arrived = self.keeper(number)
            elif tensor.requires_grad:  # a constant part of an output has none
                # A hook sees the gradient on its way and changes nothing; retain_grad() would leave a gradient on the
                # user's tensor.
                tensor.register_hook(self.keeper(number))  # type: ignore[no-untyped-call]

    def keeper(self, number: int) -> Callable[[torch.Tensor | None], None]:
        """Returns what keeps the gradient for the tensor of this number."""

        def keep(grad: torch.Tensor | None) -> None:
            # An operation with several results, such as chunk() or one compiled graph of model and loss, has no
            # gradient for a result that is not used further.
            if grad is None:
                return
            # A second backward through the same graph calls the hook again, and its gradient is added, as torch adds it
            # to the parameters.
            before = self.grads.get(number)
            self.grads[number] = grad.detach() if before is None else before + grad.detach()

        return keep

    @property
    def arrived(self) -> bool:
        """Whether backward has passed this batch."""
        return bool(self.grads)

    def gradients(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The gradients for the parts of the output, and for those of the target; zeros where the loss has none."""
        watched = [*parts(self.output), *self.learning]
        found = [self.grads[number] if number in self.grads else torch.zeros_like(part)
                 for number, part in enumerate(watched)]  # fmt: skip
        count = len(watched) - len(self.learning)
        return found[:count], found[count:]
