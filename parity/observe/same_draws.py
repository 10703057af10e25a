"""Random numbers of a step in float64: those that the step drew in its own dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

# The operations that return nothing but random numbers. Others draw too (attention, dropout in one kernel), but would
# compute in the narrower dtype; their masks do not depend on it.
_DRAWS = {
    torch.ops.aten.bernoulli,
    torch.ops.aten.bernoulli_,
    torch.ops.aten.cauchy_,
    torch.ops.aten.exponential_,
    torch.ops.aten.geometric_,
    torch.ops.aten.log_normal_,
    torch.ops.aten.multinomial,
    torch.ops.aten.normal,
    torch.ops.aten.normal_,
    torch.ops.aten.poisson,
    torch.ops.aten.rand,
    torch.ops.aten.rand_like,
    torch.ops.aten.randn,
    torch.ops.aten.randn_like,
    torch.ops.aten.uniform_,
}


class SameDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within its `with` block, random numbers that are asked for in float64 are drawn in a narrower dtype.

    torch draws other normal and uniform numbers in float64 than in float32 from the same state of a generator.

    Args:
        dtype: The dtype to draw in: that of the model's parameters.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the operation; one that draws is called with tensors of the narrower dtype."""
        kwargs = kwargs or {}
        if func.overloadpacket not in _DRAWS:
            return func(*args, **kwargs)
        narrow_args, narrow_kwargs = pytree.tree_map(self._narrow, (args, kwargs))
        result = func(*narrow_args, **narrow_kwargs)
        # `bernoulli_` and its like return the tensor that they filled, which here is a narrow copy of it.
        if func._schema.returns and func._schema.returns[0].alias_info is not None:
            return args[0].copy_(result)
        wide = any(each == torch.float64 or _is_wide(each) for each in pytree.tree_leaves((args, kwargs)))
        return pytree.tree_map(_widen, result) if wide else result

    def _narrow(self, leaf: Any) -> Any:
        if leaf == torch.float64 if isinstance(leaf, torch.dtype) else False:
            return self._dtype
        return leaf.to(self._dtype) if _is_wide(leaf) else leaf


def _is_wide(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64


def _widen(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf
