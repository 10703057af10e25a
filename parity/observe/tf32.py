"""TF32, in which CUDA may compute products of float32 numbers: torch's switches for it, and what they apply to.

Torch has two forms of these switches. Where a program has set the newer one, `fp32_precision` of torch 2.9, asking for
the older one (`allow_tf32`) raises an error; setting the older one sets both.

Source:
    docs.pytorch.org/docs/stable/notes/cuda.html, "TensorFloat-32 (TF32) on Ampere (and later) devices".
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterator
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


@functools.cache
def has_tf32(device: torch.device) -> bool:
    """Whether a device can compute in TF32: NVIDIA's GPUs from Ampere on."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device)[0] >= 8


@contextlib.contextmanager
def switches_restored() -> Iterator[None]:
    """Gives the switches back the values that they had before the block, in the form in which they were set."""
    if _newer_form_is_in_use():
        # One that says what the switch above it says may follow that, and must go on following it.
        values = {
            products: "none" if switch.fp32_precision == above.fp32_precision else switch.fp32_precision
            for (products, switch), above in zip(_switches().items(), _above(), strict=True)
        }
        try:
            yield
        finally:
            for products, switch in _switches().items():
                switch.fp32_precision = values[products]
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    precision = _matmul_precision()
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
        if precision is not None:
            torch.set_float32_matmul_precision(precision)


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


def _matmul_precision() -> str | None:
    """The switch of all devices, of which "medium" allows bfloat16 on the CPU as well; None where it cannot be read."""
    try:
        return torch.get_float32_matmul_precision()
    # The newer form is in use for the CPU.
    except RuntimeError:
        return None


def _above() -> list[Any]:
    """The switch that each of `_switches` follows while it has no value of its own."""
    whole, cudnn = torch.backends, torch.backends.cudnn
    return [whole, cudnn, cudnn]


def _newer_form_is_in_use() -> bool:
    """Whether something in this process has set the newer form, so that the older one cannot be asked for."""
    try:
        # Each raises RuntimeError then: "you have used mix of the legacy and new APIs".
        _ = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return True
    return False
