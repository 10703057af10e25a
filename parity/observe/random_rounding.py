"""Random rounding: what rounding alone can do to a step, measured by rounding each operation of it at random."""

from __future__ import annotations

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

# Operations that move elements and compute nothing.
_MOVES = {
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
        if aliased or func.overloadpacket in _MOVES or not _has_tensor(args):
            return result
        size = POINTWISE_U if torch.Tag.pointwise in func.tags else SUM_U
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                # In float32, which is drawn five times as fast; the product is float64.
                noise = torch.randn(tensor.shape, generator=self._generator, dtype=torch.float32)
                tensor.add_(tensor * noise, alpha=size * self._unit)
        return result


def _has_tensor(args: Sequence[Any]) -> bool:
    """Whether an operation is given a tensor, alone or in a list."""
    return any(isinstance(each, torch.Tensor) or (isinstance(each, list) and _has_tensor(each)) for each in args)
