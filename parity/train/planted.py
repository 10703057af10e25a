"""Faults planted on purpose, to see whether parity finds them: `--device cpu cpu:plant=bfloat16`.

bfloat16, tf32    matrix products and convolutions whose factors are rounded to that precision
noise             matrix products that differ a little each time (relative 2**-20), whatever the seed
element-K         one wrong element in one parameter gradient, at step K
flip-K, flip-K-rR one bit of the largest element of one parameter gradient flipped, at step K (of replica R alone)
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.observe.low_precision import PRODUCTS, ROUNDINGS, RoundedProducts

# Relative size of the noise: 16 u of float32, as large as a difference between devices may be.
NOISE = 2.0**-20
# The lowest bit of a float32's exponent: a flip doubles or halves the number.
FLIPPED_BIT = 23


class _NoisyProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within its `with` block, each element of a matrix product is off by a random relative amount."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator()
        # Seeded by the system, since noise that could be repeated would make replicas equal; a generator of its own, so
        # that the training's draws stay the same.
        self._generator.seed()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # convolution_backward returns a tuple, which stays as it is.
        if func in PRODUCTS and isinstance(result, torch.Tensor):
            result = result * (1 + NOISE * torch.randn(result.shape, generator=self._generator))
        return result


def planted(plant: str | None) -> contextlib.AbstractContextManager[object]:
    """Within the block, arithmetic is that of a device with the fault."""
    if plant in ROUNDINGS:
        return RoundedProducts(ROUNDINGS[plant])
    # Without a fault no mode is entered, and no operation is dispatched through Python.
    return _NoisyProducts() if plant == "noise" else contextlib.nullcontext()


def spoil_gradient(plant: str | None, step: int, model: torch.nn.Module, *, replica: int = 0) -> None:
    """Makes one element of one parameter's gradient wrong, if the fault is planted at this step of this replica."""
    if plant not in (f"element-{step}", f"flip-{step}", f"flip-{step}-r{replica}"):
        return
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    # A parameter in the middle, so that others before and after it stay right.
    grad = parameters[len(parameters) // 2].grad
    assert grad is not None
    if plant == f"element-{step}":
        grad.view(-1)[0] += grad.norm()
    else:
        # The largest element, so that the flip shows beside the norm of the gradient.
        grad.view(torch.int32).view(-1)[int(grad.abs().argmax())] ^= 1 << FLIPPED_BIT
