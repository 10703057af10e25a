"""Random rounding: what rounding alone can do to a step, measured by rounding each operation of it at random."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Standard deviation of the errors. An elementwise operation is off by 1 u at most. A sum or a dot product of some
# hundred terms, rounded in each, is off by a few u of its result, and the order of the sum is up to each library:
# with 2 u, right gradients of convolutions in channels_last were seen at 3.4 to 10.8 times this spread (2.4 to 5.4
# times with 4 u), outputs at 0.4 to 0.6 times.
POINTWISE_U = 1.0
SUM_U = 4.0
# A sum of n terms in their order rounds n partial sums, which moves it by some sqrt(n) u (N. J. Higham and T. Mary,
# 2019, as `lines.LOSS_PER_ROOT`). The bias of a batch norm in channels_last, a sum of 4,096 terms, was seen off by
# 103 u, which is 1.6 sqrt(n) u; in the default layout, which sums in pairs, by 2 u.
ROOT_U = 0.5

# Operations that move elements and compute nothing.
MOVES = {
    torch.ops.aten._to_copy,
    torch.ops.aten.cat,
    torch.ops.aten.clone,
    torch.ops.aten.constant_pad_nd,
    torch.ops.aten.embedding,
    torch.ops.aten.gather,
    torch.ops.aten.index,
    torch.ops.aten.index_select,
    torch.ops.aten.stack,
    torch.ops.aten.where,
}

# Sums of all terms, or of those in some dimensions.
_SUMS = {torch.ops.aten.sum, torch.ops.aten.mean}
# Backward passes whose gradients of weight and bias are sums over all rows and positions, for each channel.
_CHANNEL_SUMS = {
    torch.ops.aten.convolution_backward,
    torch.ops.aten.native_batch_norm_backward,
    torch.ops.aten.native_group_norm_backward,
}


class RandomRounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within its `with` block, each float64 result of an operation is multiplied by 1 + u z, with z normal.

    Below autograd, so the operations of the backward pass are rounded as well. Each element gets an error of its own,
    as in a narrower dtype: a gradient that is the small sum of large terms moves as far as its terms do, and a maximum
    of two elements that rounding can swap is swapped. Errors of the parameters alone show neither.

    Args:
        unit: The unit roundoff u of the dtype whose rounding is imitated.
        seed: Of a generator of its own: nothing is drawn from those of the training, and a repeat has the same errors.

    Source:
        D. S. Parker, "Monte Carlo Arithmetic: exploiting randomness in floating-point arithmetic", 1997.
    """

    def __init__(self, unit: float, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._unit = unit
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the operation, and rounds what it returns."""
        result = func(*args, **(kwargs or {}))
        # A view, or a tensor that was changed in place, is the memory of another tensor, which has its error already.
        aliased = any(returned.alias_info is not None for returned in func._schema.returns)
        # What is made of no tensor (zeros, ones) is exact, as is what is only moved.
        if aliased or func.overloadpacket in MOVES or not has_tensor(args):
            return result
        size = POINTWISE_U if torch.Tag.pointwise in func.tags else SUM_U
        found = result if isinstance(result, tuple | list) else [result]
        terms = _terms(func.overloadpacket, args, found)
        if func.overloadpacket is torch.ops.aten.native_batch_norm_backward:
            self._move_normalized(args, found, size=max(size, ROOT_U * math.sqrt(terms)))
        for number, tensor in enumerate(found):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                # The first of several is the gradient of an input, which is no sum over the batch.
                summed = len(found) == 1 or number > 0
                self._move(tensor, max(size, ROOT_U * math.sqrt(terms)) if summed else size)
        return result

    def _move(self, tensor: torch.Tensor, size: float) -> None:
        # In float32, which is drawn five times as fast; the product is float64. These operations of its own would pass
        # through every other mode, each of which takes as long as a small operation. A subclass of Tensor needs its own
        # dispatch.
        plain = type(tensor) is torch.Tensor
        with torch._C._DisableTorchDispatch() if plain else contextlib.nullcontext():
            noise = torch.randn(tensor.shape, generator=self._generator, dtype=torch.float32)
            tensor.add_(tensor * noise, alpha=size * self._unit)

    def _move_normalized(self, args: Any, found: Any, *, size: float) -> None:
        """Moves the gradient of a batch norm's input as the errors of the two sums do that it is computed from.

        It is weight / deviation * (g - mean(g) - x mean(g x)) of the incoming gradient g and the normalized input x,
        and small where g is nearly equal in a channel: then the sums' errors are most of it.
        """
        (_, inputs, weight, _, _, mean, deviation), (moved, weight_grad, bias_grad) = args[:7], found
        if any(each is None or not each.numel() for each in (weight, mean, deviation, *found)):
            return
        shape = (1, -1, *[1] * (inputs.dim() - 2))
        sums = torch.stack([bias_grad, weight_grad * deviation])
        sums = sums * torch.randn(sums.shape, generator=self._generator, dtype=torch.float32) * (weight * deviation)
        sums = sums * (size * self._unit * inputs.shape[1] / inputs.numel())
        moved.add_(sums[0].reshape(shape) + (inputs - mean.reshape(shape)) * sums[1].reshape(shape))


def _terms(packet: Any, args: Any, found: Sequence[Any]) -> float:
    """The number of terms in an element of a sum over a batch; 1 for anything else."""
    terms = args[0]
    if packet in _SUMS:
        return float(terms.numel() / max(1, found[0].numel()))
    if packet in _CHANNEL_SUMS:
        return float(terms.numel() / max(1, terms.shape[1]))
    return 1.0


def has_tensor(args: Sequence[Any]) -> bool:
    """Whether an operation is given a tensor, alone or in a list."""
    return any(isinstance(each, torch.Tensor) or (isinstance(each, list) and has_tensor(each)) for each in args)
