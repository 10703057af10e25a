"""The autograd graph of a step: which values a value is computed from, and how precisely these are computed.

u is a unit roundoff.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from parity.observe import tf32

# TF32 has 11 significant bits, the implicit one included.
TF32_U = 2.0**-11


class Precision(NamedTuple):
    """How precisely something is computed.

    Attributes:
        u: Its unit roundoff.
        name: The name of its dtype without "torch.", or "tf32".
    """

    u: float
    name: str


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


def narrowest(tensors: Sequence[torch.Tensor]) -> Precision | None:
    """The lowest precision of all values that the tensors are computed from, themselves included.

    A model may compute in bfloat16 and return float32, as `logits.float()` under autocast: the dtype of its output does
    not say in which it has rounded. None of a compiled model shows but what goes into and comes out of its one node.
    A product of float32 numbers counts as TF32 where CUDA may compute it so: which kernels do is not to be seen.

    Args:
        tensors: The floating-point tensors, with their graph.

    Returns:
        None without a floating-point tensor.
    """
    nodes = {each.grad_fn: None for each in tensors if each.grad_fn is not None}
    before = [*nodes, *nodes_before(nodes)]
    dtypes = {each.dtype for each in tensors}
    for node in before:
        # What comes into a node of the backward pass is a gradient of what the forward pass has computed there.
        # Not documented, and there in each torch from 2.6 on; a torch without it shows the dtypes of the output alone.
        dtypes |= {each.dtype for each in getattr(node, "_input_metadata", ())}
    found = {
        Precision(torch.finfo(each).eps / 2, str(each).removeprefix("torch."))
        for each in dtypes
        if each.is_floating_point
    }
    # The switches mean CUDA's products only, and say yes on GPUs that do not have it.
    products = tf32.allowed() if any(tf32.has_tf32(each.device) for each in tensors) else frozenset()
    if products and any(tf32.applies_to(node, products) for node in before):
        found.add(Precision(TF32_U, "tf32"))
    # Of two with one roundoff always the same is named.
    return max(found, default=None)
