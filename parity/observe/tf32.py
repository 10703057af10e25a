"""TF32, in which CUDA may compute products of float32 numbers: torch's switches for it, and what they apply to.

Torch has two forms of these switches. Where a program has set the newer one, `fp32_precision` of torch 2.9, asking for
the older one (`allow_tf32`) raises an error; setting the older one sets both.

Source:
    docs.pytorch.org/docs/stable/notes/cuda.html, "TensorFloat-32 (TF32) on Ampere (and later) devices".
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import torch

Products = Literal["matmul", "conv", "rnn"]
ALL: frozenset[Products] = frozenset({"matmul", "conv", "rnn"})
# Parts of the names of nodes in the backward pass. A compiled model is one node, and may have any of them inside.
_NODES: dict[Products, tuple[str, ...]] = {
    "matmul": ("MmBackward", "AddmmBackward", "BmmBackward", "BaddbmmBackward", "Linear", "Attention", "Compiled"),
    "conv": ("Convolution", "Compiled"),
    "rnn": ("CudnnRnn", "Compiled"),
}


def allowed() -> frozenset[Products]:
    """The products that CUDA may compute in TF32."""
    if switches := _switches():
        return frozenset(products for products, switch in switches.items() if switch.fp32_precision == "tf32")
    found: set[Products] = {"matmul"} if torch.backends.cuda.matmul.allow_tf32 else set()
    return frozenset(found | ({"conv", "rnn"} if torch.backends.cudnn.allow_tf32 else set()))


def set_allowed(products: Collection[Products]) -> None:
    """Allows TF32 in these products, and in no others; convolutions and recurrent layers have one switch before 2.9."""
    if not _newer_form_is_in_use():
        torch.backends.cuda.matmul.allow_tf32 = "matmul" in products
        torch.backends.cudnn.allow_tf32 = "conv" in products
        return
    for each, switch in _switches().items():
        switch.fp32_precision = "tf32" if each in products else "ieee"


def applies_to(node: torch.autograd.graph.Node, products: frozenset[Products]) -> bool:
    """Whether a node of the backward pass stands for one of these products of float32 numbers on a GPU."""
    name = node.name()
    if not any(part in name for each in products for part in _NODES[each]):
        return False
    # Not documented, see `graph.narrowest`.
    metadata = getattr(node, "_input_metadata", ())
    return any(each.dtype == torch.float32 and each.device.type == "cuda" for each in metadata)


def _switches() -> dict[Products, Any]:
    """The switches in their newer form; empty where torch does not have it."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return {}
    cudnn = torch.backends.cudnn
    return {"matmul": torch.backends.cuda.matmul, "conv": cudnn.conv, "rnn": cudnn.rnn}  # type: ignore[attr-defined]


def _newer_form_is_in_use() -> bool:
    """Whether something in this process has set the newer form, so that the older one cannot be asked for."""
    try:
        # Each raises RuntimeError then: "you have used mix of the legacy and new APIs".
        _ = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return True
    return False
