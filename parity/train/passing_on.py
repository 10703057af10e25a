"""What the model's backward makes of a difference between two gradients for its output: whether it reaches a parameter.

A model may take a part of its output's gradient away: the backward of log_softmax subtracts from each row a multiple of
the probabilities, so that gradients which differ in that direction alone train alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from parity.observe.generators import restore_generators, take_generators
from parity.tasks.outputs import Outputs, parts


def pass_on(model: torch.nn.Module, output: Outputs, difference: Sequence[torch.Tensor]) -> float:
    """Sends a difference back through the model, and changes nothing: no gradient, buffer or generator.

    Args:
        model: The model.
        output: What it returned, with its graph, which is kept for the step's own backward.
        difference: For each part of the output; of the part's shape and dtype.

    Returns:
        The norm of the gradient for all parameters, each counted in the u of its own dtype or the output's, whichever
        is coarser; NaN where the difference cannot be sent back without a trace, or not at all.
    """
    learning = [(part, each) for part, each in zip(parts(output), difference, strict=True) if part.requires_grad]
    outputs = [part for part, _ in learning]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not _repeatable(outputs, parameters):
        return math.nan
    generators, buffers = take_generators(), [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        # No hook is called on its way to `.grad`, and none of these gradients is kept.
        grads = torch.autograd.grad(
            outputs,
            parameters,
            grad_outputs=[each.to(part.device) for part, each in learning],
            retain_graph=True,
            allow_unused=True,
        )
    except RuntimeError:
        # A graph that can be gone through once only. The step's own backward raises as it would have without this.
        return math.nan
    finally:
        restore_generators(generators)
        _restore(buffers)
    coarsest = max(torch.finfo(part.dtype).eps for part in outputs)
    found = [
        float(grad.double().norm()) / (max(coarsest, torch.finfo(grad.dtype).eps) / 2)
        for grad in grads
        if grad is not None
    ]
    return math.hypot(*found)


def _repeatable(outputs: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor]) -> bool:
    """Whether a backward leaves nothing behind: neither in a hook, nor in a backward that is written in Python.

    A module's backward hooks, `torch.compile` and reentrant checkpoints are functions of Python as well.
    """
    if any(tensor._backward_hooks for tensor in (*outputs, *parameters)):
        return False
    waiting = [part.grad_fn for part in outputs]
    seen = set(waiting)
    # A loop rather than a recursion, which a deep model would exhaust.
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return False
        for before, _ in node.next_functions:
            if before not in seen:
                seen.add(before)
                waiting.append(before)
    return True


def _restore(buffers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Writes back the buffers that a backward changed: a checkpointed forward runs again in it."""
    for buffer, before in buffers:
        if not torch.equal(buffer, before):
            # Through .data, which autograd does not count as a change of what it may have saved.
            buffer.data.copy_(before)
