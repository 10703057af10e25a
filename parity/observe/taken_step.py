"""A step as it was taken: its tensors on the CPU, with the unit roundoff of each, to be compared with float64.

Letters: P parameter tensors of the model; T parts of the output, 1 unless it is a tree; u is the unit roundoff of a
tensor's own dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.host import array_of, dense
from parity.tasks.outputs import Outputs, parts

# The tensors of a step by quantity, on the CPU: T of output and output_grad, one of loss, P of param_grad, update and
# param (None for a missing gradient).
Values = dict[str, list[np.ndarray | None]]
# The unit roundoff u of each of them.
Units = dict[str, list[float]]


@dataclass(frozen=True)
class TakenStep:
    """A step as it was taken, on the CPU.

    Attributes:
        values: Its tensors by quantity.
        units: The unit roundoff of each of them.
    """

    values: Values
    units: Units

    def keep(self, quantity: str, tensors: Sequence[torch.Tensor | None]) -> None:
        """Copies the tensors of a quantity to the host."""
        self.values[quantity] = [on_host(tensor) for tensor in tensors]
        # A missing tensor has an infinite error or none, in whichever unit.
        self.units[quantity] = [1.0 if tensor is None else unit_roundoff(tensor.dtype) for tensor in tensors]


def taken_step(output: Outputs, loss: torch.Tensor, output_grad: Sequence[torch.Tensor]) -> TakenStep:
    """A step as far as the gradient of the output, copied to the host."""
    taken = TakenStep({}, {})
    taken.keep("output", parts(output))
    taken.keep("loss", [loss])
    taken.keep("output_grad", output_grad)
    return taken


def unit_roundoff(dtype: torch.dtype) -> float:
    """The unit roundoff u of a dtype: half the distance from 1 to the next number.

    Whole numbers and flags, as quantized or masked parameters have them, are not rounded: theirs is that of float64.
    """
    return float(torch.finfo(dtype if dtype.is_floating_point or dtype.is_complex else torch.float64).eps) / 2


def on_host(tensor: torch.Tensor | None) -> np.ndarray | None:
    """A copy of the tensor as an array, since the training goes on; a dtype that NumPy does not have as float32."""
    return None if tensor is None else np.array(array_of(dense(tensor).cpu()))


def check_real(tensors: Iterable[torch.Tensor]) -> None:
    """Raises `OracleUnavailable` if a tensor of a model is complex: `double()` would leave it as it is."""
    if any(tensor.is_complex() for tensor in tensors):
        raise OracleUnavailable("the model has complex parameters, with which no step is taken in float64")


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, if it holds floating-point numbers."""
    return tensor.double() if tensor.is_floating_point() else tensor
