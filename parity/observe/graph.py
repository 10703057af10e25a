"""The autograd graph of a step: which values a value is computed from, and the dtypes of what is computed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch


def nodes_before(nodes: Iterable[torch.autograd.graph.Node]) -> list[torch.autograd.graph.Node]:
    """The nodes of the graph that the values of some nodes are computed from, without these."""
    # A dict for its order: which of several parts a message names must not depend on hashes. A loop rather than a
    # recursion, which a deep model would exhaust.
    found: dict[torch.autograd.graph.Node, None] = {}
    waiting = [*nodes]
    while waiting:
        for before in itertools.chain(each for each, _ in waiting.pop().next_functions if each is not None):
            if before not in found:
                found[before] = None
                waiting.append(before)
    return list(found)


def narrowest_dtype(tensors: Sequence[torch.Tensor]) -> torch.dtype | None:
    """The dtype with the largest unit roundoff of all values that the tensors are computed from, themselves included.

    A model may compute in bfloat16 and return float32, as `logits.float()` under autocast: the dtype of its output does
    not say in which it has rounded. None of a compiled model shows but what goes into and comes out of its one node.

    Args:
        tensors: The floating-point tensors, with their graph.

    Returns:
        None without a floating-point tensor.
    """
    nodes = {each.grad_fn: None for each in tensors if each.grad_fn is not None}
    dtypes = {each.dtype for each in tensors}
    for node in [*nodes, *nodes_before(nodes)]:
        # What comes into a node of the backward pass is a gradient of what the forward pass has computed there.
        # Not documented, and there in each torch from 2.6 on; a torch without it shows the dtypes of the output alone.
        dtypes |= {each.dtype for each in getattr(node, "_input_metadata", ())}
    # Sorted, so that of two dtypes with one roundoff always the same is named.
    return max(
        sorted((each for each in dtypes if each.is_floating_point), key=str),
        key=lambda dtype: torch.finfo(dtype).eps,
        default=None,
    )
