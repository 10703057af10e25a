"""What a step in float64 computes in a narrower dtype by itself, and how far the rounding of that moves its results.

A model may compute in float32 whatever its parameters are: norms that call `.float()`, tables of positions. Its step in
float64 is then as good as float32 there, and two right models differ by that much.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.observe.random_rounding import MOVES, has_tensor


class NarrowRounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within its `with` block, results of operations in dtypes narrower than float64 are noted, and moved if asked.

    Moved as by `RandomRounding`, each by its own u: in-place operations are noted only, since their tensor may be the
    user's.

    Args:
        seed: Of the errors; None to note only.

    Attributes:
        seen: Whether there was such a result.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = False
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the operation, and looks at what it returns."""
        result = func(*args, **(kwargs or {}))
        if not has_tensor(args):
            return result
        packet, aliases = func.overloadpacket, [each.alias_info for each in func._schema.returns]
        written = any(each is not None and each.is_write for each in aliases)
        # A view has computed nothing; nor has what is only moved, unless into a narrower dtype.
        if packet in MOVES or packet is torch.ops.aten.copy_ or (any(aliases) and not written):
            source = args[1] if packet is torch.ops.aten.copy_ else args[0]
            if not _narrows(source, result):
                return result
        for tensor in result if isinstance(result, tuple | list) else [result]:
            # A counter, which optimizers keep in float32, is exact.
            if _is_narrow(tensor) and not (tensor.dim() == 0 and float(tensor).is_integer()):
                self.seen = True
                if self._generator is not None and not written:
                    self._move(tensor)
        return result

    def _move(self, tensor: torch.Tensor) -> None:
        # As in `RandomRounding._move`.
        plain = type(tensor) is torch.Tensor
        with torch._C._DisableTorchDispatch() if plain else contextlib.nullcontext():
            noise = torch.randn(tensor.shape, generator=self._generator, dtype=torch.float32)
            unit = torch.finfo(tensor.dtype).eps / 2
            # Rounded to the tensor's dtype again: of errors below half of its spacing, most would be none.
            tensor.copy_(tensor.double() * (1 + 2 * unit * noise))


def _is_narrow(tensor: Any) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.dtype.itemsize < 8


def _narrows(source: Any, result: Any) -> bool:
    """Whether an operation that moves elements has rounded them: those of float64 to float32, say, and not integers."""
    return (
        isinstance(source, torch.Tensor)
        and source.is_floating_point()
        and isinstance(result, torch.Tensor)
        and result.dtype.itemsize < source.dtype.itemsize
    )
