"""Arithmetic in a lower precision than that of the tensors: bfloat16 and TF32, rounded in software."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
# Operations that multiply matrices, and the positions of their factors. The first argument of addmm and baddbmm is what
# is added to the product; a convolution's backward multiplies the gradient with the input and with the weight.
PRODUCTS = {
    _ATEN.mm.default: (0, 1),
    _ATEN.bmm.default: (0, 1),
    _ATEN.addmm.default: (1, 2),
    _ATEN.baddbmm.default: (1, 2),
    _ATEN.convolution.default: (0, 1),
    _ATEN.convolution_backward.default: (0, 1, 2),
}


def round_to_bfloat16(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's values rounded to bfloat16, in the tensor's dtype."""
    return tensor.bfloat16().to(tensor.dtype)


def round_to_tf32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's values rounded to 10 explicit bits of mantissa, to nearest, as cuBLAS does; in the tensor's dtype.

    Source:
        NVIDIA A100 Tensor Core GPU Architecture, 2020: TF32 has the range of float32 and the precision of float16.
    """
    # Of 23 bits of mantissa 10 stay: half of the last one that stays (2**12) is added, and the 13 below it are cleared.
    # A float's sign is a bit of its own, so this rounds the magnitude; a carry into the exponent gives the next power
    # of two.
    bits = tensor.float().contiguous().view(torch.int32)
    rounded = ((bits + 0x1000) & ~0x1FFF).view(torch.float32)
    # Clearing bits could make an infinity of a NaN, whose mantissa only has to be other than zero.
    return torch.where(tensor.isfinite(), rounded.to(tensor.dtype), tensor)


ROUNDINGS = {"bfloat16": round_to_bfloat16, "tf32": round_to_tf32}


class RoundedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within its `with` block, the factors of matrix products are rounded first."""

    def __init__(self, rounding: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rounding = rounding

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Rounds the factors of a matrix product, and then calls the operation."""
        # Below autograd, so the products of the backward pass are rounded as well.
        if func in PRODUCTS:
            args = tuple(
                self._rounding(value) if index in PRODUCTS[func] else value for index, value in enumerate(args)
            )
        return func(*args, **(kwargs or {}))
