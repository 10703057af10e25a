"""A step's tensors compared with the same step in float64: errors, and what rounding alone can do to them.

Letters: P parameter tensors of the model; T parts of the output, 1 unless it is a tree; u is the unit roundoff of the
model's dtype (2**-24 for float32).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from parity.plan import lines
from parity.tasks.outputs import Outputs, part_names

# The tensors of a step by quantity, on the CPU: T of output and output_grad, one of loss, P of param_grad and param
# (None for a missing gradient).
Values = dict[str, list[np.ndarray | None]]
# Errors in the same order.
Errors = dict[str, list[float]]
# The names of the tensors in the same order; None for a quantity of one tensor.
TensorNames = Mapping[str, Sequence[str | None]]
# Moves a parameter.
Perturb = Callable[[torch.Tensor], torch.Tensor]

# The quantities of a step that are compared with float64.
COMPARED = ("output", "loss", "output_grad", "param_grad", "param")
# A step is repeated in float64 from slightly moved parameters, since near the kink of a ReLU rounding alone decides
# which side an activation is on, and with it a whole path of the gradient. The largest of six distances is exceeded by
# a seventh in one case of seven, well inside the factor of `lines.DEVICE`.
PERTURBED_STEPS = 6
# Standard deviation of the moves, relative to each parameter: a dot product of some hundred terms, rounded in each, is
# off by a few u of its result (outputs were seen at 0.7 to 2.4 u).
PERTURBATION_U = 4.0


@dataclass(frozen=True)
class StepError:
    """A row of step_errors.parquet: one tensor of one step, compared with the step in float64 from the same state.

    Attributes:
        step: Number of the step, from 0.
        quantity: One of `trace.QUANTITIES`.
        tensor: Name of the parameter or of the part of the output; None for a quantity of one tensor.
        error_u: ||b - x|| / (u ||x||) of the tensor b and its counterpart x in float64.
        spread_u: The same between float64 steps from slightly moved parameters; None where it was not measured.
        exact_norm: ||x||; NaN where there is no such tensor.
    """

    step: int
    quantity: str
    tensor: str | None
    error_u: float
    spread_u: float | None
    exact_norm: float


def tensor_names(model: torch.nn.Module, output: Outputs) -> TensorNames:
    """The names of a step's tensors by quantity, in the order of `Values`."""
    parameters = [name for name, _ in model.named_parameters()]
    outputs = part_names(output)
    return {
        "output": outputs,
        "loss": [None],
        "output_grad": outputs,
        "param_grad": parameters,
        "param": parameters,
    }


def relative_errors(values: Values, exact: Values) -> Errors:
    """||x - x64|| / (u ||x64||) of each tensor, in u of the output's dtype; inf for a tensor that one side lacks.

    Args:
        values: The step as it was taken.
        exact: The same step in float64; it decides which quantities are compared.

    Raises:
        ValueError: A tensor has another shape in float64, or a quantity has another number of tensors.
    """
    # bfloat16 is float32 here (see `on_host`), and is measured in u of float32.
    unit = float(np.finfo(values["output"][0].dtype).eps) / 2  # type: ignore[union-attr]
    return {
        # The float64 step may lack "param": an optimizer that cannot be copied takes no step in float64.
        quantity: [_error(value, right, unit) for value, right in zip(values[quantity], rights, strict=True)]
        for quantity, rights in exact.items()
    }


def strange(errors: Errors) -> str | None:
    """Why the float64 run cannot be the same step, or None where it may be."""
    # The output is the first quantity to be computed: if the float64 run is not the same step, it shows there.
    largest = max(errors["output"])
    if not largest > lines.STRANGE.value:
        return None
    return f"the output in float64 is {largest:.3g} u from the baseline's, so it is not the same step"


def step_errors(
    step: int, names: TensorNames, errors: Errors, exact: Values, spread: Callable[[], Errors]
) -> list[StepError]:
    """The rows of a step.

    Args:
        step: Number of the step, from 0.
        names: The names of its tensors.
        errors: The errors of its tensors.
        exact: The step in float64.
        spread: Measures what rounding alone can do; called only where an error may be beyond a line.

    Returns:
        A row for each tensor of each quantity, in the order of `each_error`.
    """
    # A baseline is credited with `LEAST_ERROR` at least, so a smaller error is within the line beside any baseline. The
    # spread costs `PERTURBED_STEPS` more steps in float64, which a step without such an error need not pay for.
    suspicious = any(error > lines.DEVICE.value * lines.LEAST_ERROR.value for each in errors.values() for error in each)
    spreads = spread() if suspicious else None
    rows = []
    for quantity, tensor, index, error in each_error(names, errors):
        value = exact[quantity][index]
        norm = math.nan if value is None else l2_norm(value)
        rows.append(StepError(step, quantity, tensor, error, spreads[quantity][index] if spreads else None, norm))
    return rows


def each_error(
    names: TensorNames, errors: Mapping[str, Sequence[float]]
) -> Iterator[tuple[str, str | None, int, float]]:
    """Yields quantity, tensor name, number within the quantity, and error, in the order of computation."""
    for quantity in (quantity for quantity in COMPARED if quantity in errors):
        for index, (name, error) in enumerate(zip(names[quantity], errors[quantity], strict=True)):
            yield quantity, name, index, error


def spread_of(take: Callable[[Perturb], Values], exact: Values, *, unit: float) -> Errors:
    """The largest distance, in u, of float64 steps from slightly moved parameters; by quantity, for each tensor.

    Args:
        take: Takes the step with each parameter moved.
        exact: The step from the parameters as they are.
        unit: The unit roundoff u of the model's dtype.
    """
    largest: Errors = {quantity: [0.0] * len(values) for quantity, values in exact.items()}
    for number in range(PERTURBED_STEPS):
        # A generator of its own: nothing is drawn from those of the training, and a repeat has the same moves.
        generator = torch.Generator().manual_seed(number)

        def perturb(parameter: torch.Tensor, generator: torch.Generator = generator) -> torch.Tensor:
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            # Relative to each parameter, as rounding is.
            return parameter * (1 + PERTURBATION_U * unit * noise)

        moved = take(perturb)
        for quantity, values in exact.items():
            for index, (value, right) in enumerate(zip(moved[quantity], values, strict=True)):
                largest[quantity][index] = max(largest[quantity][index], _error(value, right, unit))
    return largest


def unit_of(model: torch.nn.Module) -> float:
    """The unit roundoff u of the dtype of the model's parameters."""
    return torch.finfo(next(model.parameters()).dtype).eps / 2


def on_host(tensor: torch.Tensor | None) -> np.ndarray | None:
    """A copy of the tensor as an array, since the training goes on; bfloat16, which NumPy does not have, as float32."""
    if tensor is None:
        return None
    host = tensor.detach().cpu()
    return np.array((host.float() if host.dtype == torch.bfloat16 else host).numpy())


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, if it holds floating-point numbers."""
    return tensor.double() if tensor.is_floating_point() else tensor


def l2_norm(array: np.ndarray) -> float:
    """L2 norm in float64, summed by torch, whose threads are pinned."""
    flat = torch.from_numpy(np.asarray(array, dtype=np.float64)).reshape(-1)
    return math.sqrt(float(torch.dot(flat, flat)))


def _error(value: np.ndarray | None, exact: np.ndarray | None, unit: float) -> float:
    """||value - exact|| / (u ||exact||), in u; 0 where both are equal or missing, inf where only one is."""
    if value is None or exact is None:
        # Both are None for a parameter that has no gradient on either side.
        return 0.0 if value is exact else math.inf
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.subtract(value, exact, dtype=np.float64)
    error, size = l2_norm(difference), l2_norm(exact)
    if not (math.isfinite(error) and math.isfinite(size)):
        # Where both sides are not finite at the same places, the finite elements decide.
        same = np.array_equal(np.isfinite(value), np.isfinite(exact))
        finite = np.isfinite(value) & np.isfinite(exact)
        error, size = (l2_norm(difference[finite]), l2_norm(exact[finite])) if same else (math.inf, 1.0)
    return 0.0 if error == 0 else error / (unit * size) if size else math.inf
