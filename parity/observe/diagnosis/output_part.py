"""A loss as a function of one part of its output: the other parts of a tree are held fixed.

The rules look at one tensor and its gradient; of an output that is a tree they look at one part at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from parity.observe.audit import Oracle, gradients
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs, is_tree, parts, tensors, with_parts

# (part of the output, target), both on the CPU -> loss, and gradient for the part; float64 of the part's shape.
PartOracle = Callable[[torch.Tensor, Outputs], tuple[float, np.ndarray]]


def loss_of_part(loss: Loss, output: Outputs, index: int) -> Loss:
    """Returns the loss as a function of one part of the output, by its number in the order of the tree."""
    if not is_tree(output):
        return loss
    return lambda part, target: loss(_replaced(output, index, part), target)


def oracle_of_part(oracle: Oracle, output: Outputs, index: int) -> PartOracle:
    """Returns the oracle as a function of one part of the output, by its number in the order of the tree."""

    def of_part(part: torch.Tensor, target: Outputs) -> tuple[float, np.ndarray]:
        loss, found = oracle(_replaced(output, index, part) if is_tree(output) else part, target)
        return loss, gradients(found)[index]

    return of_part


def target_of_part(output: Outputs, target: Outputs, index: int) -> torch.Tensor | None:
    """The tensor of the target that belongs to a part of the output, or None.

    It is the target itself if that is one tensor, else the tensor at the same place if both trees have equally many.
    The loss need not compare the part with that tensor; a rule that assumes so then does not fit.
    """
    # All tensors count here, also labels and masks: the parts alone need not stand at the same places in both trees.
    given, due = tensors(output), tensors(target)
    if not is_tree(target):
        return due[0]
    if len(given) != len(due):
        return None
    places = [place for place, tensor in enumerate(given) if tensor.is_floating_point()]
    return due[places[index]]


def _replaced(output: Outputs, index: int, part: torch.Tensor) -> Outputs:
    """The output with one part replaced and all others detached."""
    # Detached, so that the gradient is that of the one part alone.
    kept = [each.detach() for each in parts(output)]
    return with_parts(output, [*kept[:index], part, *kept[index + 1 :]])
