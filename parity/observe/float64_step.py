"""A step's tensors held against the same step in float64: errors, and what rounding alone may do to them.

Letters: P parameter tensors of the model; u is the unit roundoff of the model's dtype (2**-24 for float32).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from parity.plan import lines
from parity.store.trace import QUANTITIES, TENSOR_QUANTITIES

# The tensors of a step by quantity, on the CPU: one, or P of param_grad and param (None for a missing gradient).
Values = dict[str, list[np.ndarray | None]]
# Errors in the same order.
Errors = dict[str, list[float]]
# Moves a parameter.
Perturb = Callable[[torch.Tensor], torch.Tensor]

COMPARED = QUANTITIES[1:]
# float64 steps from slightly moved parameters, to see what rounding alone may do where a ReLU is near its kink.
PERTURBED_STEPS = 6
PERTURBATION_U = 4.0


@dataclass(frozen=True)
class StepError:
    """A row of step_errors.parquet: one tensor of one step, held against the step in float64 from the same state.

    Attributes:
        step: From 0.
        quantity: Of `trace.QUANTITIES`.
        tensor: Name of the parameter, or None.
        error_u: ||b - x|| / (u ||x||), x in float64.
        spread_u: The same between float64 steps from slightly moved parameters; None where nobody had to look.
        exact_norm: ||x||; NaN where there is no such tensor.
    """

    step: int
    quantity: str
    tensor: str | None
    error_u: float
    spread_u: float | None
    exact_norm: float


def relative_errors(values: Values, exact: Values) -> Errors:
    """||x - x64|| / (u ||x64||) of each tensor, in u of the values' dtype; inf for one that one side lacks."""
    unit = float(np.finfo(values["output"][0].dtype).eps) / 2  # type: ignore[union-attr]
    return {
        quantity: [_error(value, right, unit) for value, right in zip(values[quantity], rights, strict=True)]
        for quantity, rights in exact.items()
    }


def strange(errors: Errors) -> str | None:
    """Why the float64 run is not of the same step, or None where it may be."""
    if not errors["output"][0] > lines.STRANGE.value:
        return None
    return f"the output in float64 is {errors['output'][0]:.3g} u from the baseline's own, so not of the same step"


def step_errors(
    step: int, names: Sequence[str], errors: Errors, exact: Values, spread: Callable[[], Errors]
) -> list[StepError]:
    """The rows of a step.

    Args:
        step: From 0.
        names: Of the parameters.
        errors: Of the step.
        exact: The step in float64.
        spread: Looks what rounding alone may do; is asked only where an error may be beyond a line.
    """
    looked = any(error > lines.DEVICE.value * lines.LEAST_ERROR.value for each in errors.values() for error in each)
    spreads = spread() if looked else None
    rows = []
    for quantity, tensor, index, error in each_error(names, errors):
        value = exact[quantity][index]
        norm = math.nan if value is None else l2_norm(value)
        rows.append(StepError(step, quantity, tensor, error, spreads[quantity][index] if spreads else None, norm))
    return rows


def each_error(
    names: Sequence[str], errors: Mapping[str, Sequence[float]]
) -> Iterator[tuple[str, str | None, int, float]]:
    """Quantity, tensor (None for a quantity of one), its number and the error, in the order of computation."""
    for quantity in (quantity for quantity in COMPARED if quantity in errors):
        for index, error in enumerate(errors[quantity]):
            yield quantity, names[index] if quantity in TENSOR_QUANTITIES else None, index, error


def spread_of(take: Callable[[Perturb], Values], exact: Values, *, unit: float) -> Errors:
    """The largest distance, in u, of float64 steps from slightly moved parameters; by quantity, of each tensor.

    Args:
        take: Takes the step with each parameter moved.
        exact: The step as it is.
        unit: u.
    """
    largest: Errors = {quantity: [0.0] * len(values) for quantity, values in exact.items()}
    for number in range(PERTURBED_STEPS):
        generator = torch.Generator().manual_seed(number)

        def perturb(parameter: torch.Tensor, generator: torch.Generator = generator) -> torch.Tensor:
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            return parameter * (1 + PERTURBATION_U * unit * noise)

        moved = take(perturb)
        for quantity, values in exact.items():
            for index, (value, right) in enumerate(zip(moved[quantity], values, strict=True)):
                largest[quantity][index] = max(largest[quantity][index], _error(value, right, unit))
    return largest


def unit_of(model: torch.nn.Module) -> float:
    """U of the model's parameters."""
    return torch.finfo(next(model.parameters()).dtype).eps / 2


def on_host(tensor: torch.Tensor | None) -> np.ndarray | None:
    """A copy, since the model goes on; bfloat16, which NumPy lacks, as float32."""
    if tensor is None:
        return None
    host = tensor.detach().cpu()
    return np.array((host.float() if host.dtype == torch.bfloat16 else host).numpy())


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """In float64, if it holds floats."""
    return tensor.double() if tensor.is_floating_point() else tensor


def l2_norm(array: np.ndarray) -> float:
    """L2 norm in float64, summed by torch, whose threads are pinned."""
    flat = torch.from_numpy(np.asarray(array, dtype=np.float64)).reshape(-1)
    return math.sqrt(float(torch.dot(flat, flat)))


def _error(value: np.ndarray | None, exact: np.ndarray | None, unit: float) -> float:
    if value is None or exact is None:
        return 0.0 if value is exact else math.inf
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.subtract(value, exact, dtype=np.float64)
    error, size = l2_norm(difference), l2_norm(exact)
    if not (math.isfinite(error) and math.isfinite(size)):
        same = np.array_equal(np.isfinite(value), np.isfinite(exact))
        finite = np.isfinite(value) & np.isfinite(exact)
        error, size = (l2_norm(difference[finite]), l2_norm(exact[finite])) if same else (math.inf, 1.0)
    return 0.0 if error == 0 else error / (unit * size) if size else math.inf
