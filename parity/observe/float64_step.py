"""A step's tensors compared with the same step in float64: errors, and what rounding alone can do to them.

Letters: P parameter tensors of the model; T parts of the output, 1 unless it is a tree; u is the unit roundoff of a
tensor's own dtype (2**-24 for float32, 2**-8 for bfloat16).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from parity.observe.norms import l2_norm
from parity.observe.random_rounding import RandomRounding
from parity.observe.sketch import norms_and_sketches
from parity.observe.taken_step import TakenStep, Units, Values
from parity.plan import lines
from parity.store.tables import CHECKED
from parity.tasks.outputs import Outputs, part_names

# The names of the tensors in the same order; None for a quantity of one tensor.
TensorNames = Mapping[str, Sequence[str | None]]
# Takes a step in float64, as far as the gradients, within a context.
Take = Callable[[AbstractContextManager[object]], Values]

# A step is repeated in float64 with random rounding, since near the kink of a ReLU rounding alone decides which side an
# activation is on, and with it a whole path of the gradient. The largest of six distances is exceeded by a seventh in
# one case of seven, well inside the factor of `lines.DEVICE`.
MOST_ROUNDED_STEPS = 6
# Below this number an early end would leave a spread of one distance, which the next exceeds every second time.
LEAST_ROUNDED_STEPS = 2
# The quantities that have no spread: an update is compared with that of its own gradient, which nothing magnifies.
_UNSPREAD = frozenset({"update", "param"})


class TensorError(NamedTuple):
    """How far a tensor b is from its counterpart x in float64, in u; X is all tensors of its quantity together.

    Attributes:
        own: ||b - x|| / (u ||x||); inf for a tensor that one side lacks.
        whole: ||b - x|| / (u ||X||). A gradient that is zero but for rounding is far off beside itself, and not beside
            the whole.
    """

    own: float
    whole: float


# Errors in the order of `Values`.
Errors = dict[str, list[TensorError]]


@dataclass(frozen=True)
class StepError:
    """A row of step_errors.parquet: one tensor of one step, compared with the step in float64 from the same state.

    Attributes:
        step: Number of the step, from 0.
        quantity: One of `trace.QUANTITIES`.
        tensor: Name of the parameter or of the part of the output; None for a quantity of one tensor.
        error_u: ||b - x|| / (u ||x||) of the tensor b and its counterpart x in float64. An update is compared with the
            one that float64 makes of the step's own gradient.
        whole_error_u: ||b - x|| / (u ||X||), with X all tensors of the quantity together.
        spread_u: ||y - x|| / (u ||x||) of y from float64 steps with random rounding; None where it was not measured.
        unit: The unit roundoff u of b.
        exact_norm: ||x||; NaN where there is no such tensor. Of an update, x is here that of the whole step in float64.
        exact_sketch: The sketch of x (see `observe.sketch`), by which two runs' x are compared; None without x.
        exact_error: How far rounding moves x, ||y - x||, where the model itself computes in narrower dtypes; None where
            it computes in float64 alone.
    """

    step: int
    quantity: str
    tensor: str | None
    error_u: float
    whole_error_u: float
    spread_u: float | None
    unit: float
    exact_norm: float
    exact_sketch: list[float] | None
    exact_error: float | None = None


def tensor_names(model: torch.nn.Module, output: Outputs) -> TensorNames:
    """The names of a step's tensors by quantity, in the order of `Values`."""
    # torch.compile puts `_orig_mod.` into the names of parameters: without it a compiled model has the names of a plain
    # one.
    parameters = [name.replace("_orig_mod.", "") for name, _ in model.named_parameters()]
    outputs = part_names(output)
    return {
        "output": outputs,
        "loss": [None],
        "output_grad": outputs,
        "param_grad": parameters,
        "update": parameters,
        "param": parameters,
    }


def relative_errors(taken: TakenStep, exact: Values) -> Errors:
    """The error of each tensor, in u of its own dtype.

    Args:
        taken: The step as it was taken.
        exact: The same step in float64; it decides which quantities are compared.

    Raises:
        ValueError: A tensor has another shape in float64, or a quantity has another number of tensors.
    """
    # The float64 step may lack "param": an optimizer that cannot be copied takes no step in float64.
    return {
        quantity: _errors(taken.values[quantity], rights, taken.units[quantity]) for quantity, rights in exact.items()
    }


def _errors(
    values: Sequence[np.ndarray | None], exact: Sequence[np.ndarray | None], units: Sequence[float]
) -> list[TensorError]:
    distances = [_distance(value, right) for value, right in zip(values, exact, strict=True)]
    # Where a tensor is missing or not finite, its own error decides, so it does not count here.
    whole = math.sqrt(sum(size * size for _, size in distances if math.isfinite(size)))
    return [
        TensorError(_ratio(distance, unit * size), _ratio(distance, unit * whole))
        for (distance, size), unit in zip(distances, units, strict=True)
    ]


def strange(errors: Errors, units: Units, *, computed_u: float = 0.0) -> str | None:
    """Why the float64 run cannot be the same step, or None where it may be.

    Args:
        errors: The errors of the step.
        units: The unit roundoff of each of its tensors.
        computed_u: The unit roundoff in which the model computes, if it is known: its output may be wider.
    """
    # The output is the first quantity to be computed: if the float64 run is not the same step, it shows there.
    for error, unit in zip(errors["output"], units["output"], strict=True):
        if not error.own * unit <= max(lines.STRANGE.value, lines.STRANGE_U.value * max(unit, computed_u)):
            return (
                f"the output in float64 is {error.own:.3g} u from the baseline's, so it is not the same step; "
                "random numbers that are not drawn from the global generators would explain it"
            )
    return None


def step_errors(
    step: int,
    names: TensorNames,
    *,
    errors: Errors,
    units: Units,
    exact: Values,
    take: Take,
    computed_u: float = 0.0,
    inexact: Mapping[str, Sequence[float]] | None = None,
) -> list[StepError]:
    """The rows of a step.

    Args:
        step: Number of the step, from 0.
        names: The names of its tensors.
        errors: The errors of its tensors.
        units: The unit roundoff of each of them.
        exact: The step in float64.
        take: Takes the step in float64 once more, to measure what rounding alone can do; called only where an error may
            be beyond a line.
        computed_u: The unit roundoff in which the model computes, if it is known: its output may be wider.
        inexact: How far each tensor of the step in float64 is moved by the rounding of narrower dtypes, by quantity.

    Returns:
        A row for each tensor of each quantity, in the order of `each_error`.
    """
    # A baseline is credited with `LEAST_ERROR` at least, so a smaller error is within the line beside any baseline. The
    # spread costs more steps in float64, which a step without such an error need not pay for; nor need one whose
    # optimizer alone is off by more, as Adam is at nearly every step of a right training.
    least = lines.DEVICE.value * lines.LEAST_ERROR.value
    suspicious = any(
        error.own > least for quantity, _, _, error in each_error(names, errors) if quantity not in _UNSPREAD
    )
    spreads = spread_of(take, exact, units=units, errors=errors, computed_u=computed_u) if suspicious else {}
    # An update may have been compared although no whole step was taken in float64.
    sketched = {
        quantity: norms_and_sketches(exact.get(quantity, [None] * len(errors[quantity]))) for quantity in errors
    }
    rows = []
    for quantity, tensor, index, error in each_error(names, errors):
        norms, sketches = sketched[quantity]
        rows.append(
            StepError(
                step,
                quantity,
                tensor,
                error_u=error.own,
                whole_error_u=error.whole,
                spread_u=spreads[quantity][index] if quantity in spreads else None,
                unit=units[quantity][index],
                exact_norm=float(norms[index]),
                # NaN for a missing tensor.
                exact_sketch=None if np.isnan(sketches[index]).any() else sketches[index].tolist(),
                exact_error=inexact[quantity][index] if inexact and quantity in inexact else None,
            )
        )
    return rows


def each_error(names: TensorNames, errors: Errors) -> Iterator[tuple[str, str | None, int, TensorError]]:
    """Yields quantity, tensor name, number within the quantity, and error, in the order of computation."""
    for quantity in (quantity for quantity in CHECKED if quantity in errors):
        for index, (name, error) in enumerate(zip(names[quantity], errors[quantity], strict=True)):
            yield quantity, name, index, error


def spread_of(
    take: Take, exact: Values, *, units: Units, errors: Errors, computed_u: float = 0.0
) -> dict[str, list[float]]:
    """The largest distance, in u, of float64 steps with random rounding; by quantity, for each tensor.

    Args:
        take: Takes the step in float64, as far as the gradients.
        exact: The step in float64 without it.
        units: The unit roundoff of the tensors of the step as it was taken.
        errors: The errors of the step as it was taken: the spread is measured until it explains them.
        computed_u: The unit roundoff in which the model computes, if it is known.

    Returns:
        Nothing for update and param.
    """
    largest = {quantity: [0.0] * len(exact[quantity]) for quantity in exact if quantity not in _UNSPREAD}
    # The output mostly shows in which dtype the model computes: under autocast, its parameters are wider.
    unit = max([*units["output"], min(units["param_grad"]), computed_u])
    for number in range(MOST_ROUNDED_STEPS):
        moved = take(RandomRounding(unit, seed=number))
        explained = True
        for quantity, spreads in largest.items():
            found = _errors(moved[quantity], exact[quantity], units[quantity])
            for index, error in enumerate(found):
                spreads[index] = max(spreads[index], error.own)
                # Half of the line, so that a spread that happens to be small is not the last word.
                limit = lines.SUSPICIOUS_DEVICE.value * max(lines.LEAST_ERROR.value, spreads[index])
                explained &= errors[quantity][index].own <= limit
        if explained and number + 1 >= LEAST_ROUNDED_STEPS:
            break
    return largest


def _distance(value: np.ndarray | None, exact: np.ndarray | None) -> tuple[float, float]:
    """||value - exact|| and ||exact||; a distance of inf where only one is missing, unless the other one is zero."""
    if value is None or exact is None:
        # A parameter that the loss does not depend on has no gradient, or zeros if the loss has a term of 0 times it.
        alone = [each for each in (value, exact) if each is not None and each.any()]
        return (math.inf if alone else 0.0), (0.0 if exact is None else l2_norm(exact))
    if value.shape != exact.shape:
        raise ValueError(f"shape {list(value.shape)} and {list(exact.shape)}")
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.subtract(value, exact, dtype=np.float64)
    distance, size = l2_norm(difference), l2_norm(exact)
    if not (math.isfinite(distance) and math.isfinite(size)):
        # Where both sides are not finite at the same places, the finite elements decide.
        same = np.array_equal(np.isfinite(value), np.isfinite(exact))
        finite = np.isfinite(value) & np.isfinite(exact)
        return (l2_norm(difference[finite]), l2_norm(exact[finite])) if same else (math.inf, 1.0)
    return distance, size


def _ratio(distance: float, size: float) -> float:
    """Returns distance / size; 0 where the distance is 0, inf where only the size is."""
    return 0.0 if distance == 0 else distance / size if size else math.inf
