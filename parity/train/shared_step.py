"""A step of the baseline's device that other devices take from the same state, and the same step in float64.

u is the unit roundoff of a tensor's own dtype (2**-24 for float32).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.float64_step import Errors, StepError, TensorError, TensorNames, step_errors, strange, tensor_names
from parity.observe.generators import drew, take_generators
from parity.observe.observer import Observer
from parity.observe.taken_step import Units, Values, on_host
from parity.train.exact_step import exact_step, taken_with_errors
from parity.train.saved_state import StateNotPortable, pack, unpack
from parity.train.state import on_cpu, take_state
from parity.train.step import Training, take_step


@dataclass(frozen=True)
class SharedStep:
    """A step of the baseline's device, for other devices to take.

    Attributes:
        step: Number of the step, from 0.
        state: State of the training before the step, on the CPU.
        exact: The values of the step in float64 on the CPU; None where there is no such run.
        errors: The baseline's errors by quantity; one for each tensor.
        units: The unit roundoff of each of them.
        names: The names of these tensors.
        draws: Whether the step drew from a random generator of torch.
        unavailable: Why there is no float64 run, or None.
    """

    step: int
    state: dict[str, Any]
    exact: Values | None
    errors: Errors
    units: Units
    names: TensorNames
    draws: bool
    unavailable: str | None


def pack_step(shared: SharedStep) -> bytes:
    """The shared step as bytes; marked unavailable if its state cannot be read back without running code."""
    # As tensors, since arrays cannot be read back without running code.
    exact: dict[str, list[torch.Tensor | None]] | None = None
    if shared.exact:
        exact = {name: [_tensor(value) for value in values] for name, values in shared.exact.items()}
    try:
        return pack({**vars(shared), "exact": exact, "errors": _plain(shared.errors)})
    except StateNotPortable as error:
        reason = f"the training's state cannot be sent to another device: {error}"
        # Still a shared step: the other devices learn the reason from it.
        return pack(
            {**vars(shared), "errors": _plain(shared.errors), "state": {}, "exact": None, "unavailable": reason}
        )


def unpack_step(packed: bytes) -> SharedStep:
    """The shared step that was packed."""
    values = unpack(packed)
    exact = values["exact"] and {name: [on_host(each) for each in tensors] for name, tensors in values["exact"].items()}
    # Errors beside the whole, and units, are newer than the errors.
    errors = {
        quantity: [TensorError(*each) if isinstance(each, tuple) else TensorError(each, math.inf) for each in found]
        for quantity, found in values["errors"].items()
    }
    # Steps that were stored before outputs could be trees have no names; their outputs are one tensor.
    return SharedStep(**{"names": {}, "units": {}} | values | {"exact": exact, "errors": errors})


def take_shared_step(
    training: Training, data: Mapping[str, np.ndarray], step: int, observer: Observer | None
) -> SharedStep:
    """Takes a step of the training, and keeps what other devices need to take it: its state, and the step in float64.

    Args:
        training: What to train; its model and optimizer change.
        data: The task's data; dtype[rows, ...] by name.
        step: Number of the step, from 0.
        observer: Records the step, or None.

    Raises:
        TrialFailed: As `take_step`.
    """
    # Before the step, which changes parameters and generators.
    state = take_state(step, training.model, training.optimizer)
    values = take_step(training, data, step, observer)
    # The state has the generators as they were before the step, so a draw in it shows.
    draws = drew(state["generators"], take_generators())
    state, names = on_cpu(state), tensor_names(training.model, values.output)
    try:
        exact = exact_step(training, data, state)
    except OracleUnavailable as error:
        return SharedStep(step, state, None, {}, {}, names, draws, str(error))
    own, errors = taken_with_errors(training, values, exact, state)
    if reason := strange(errors, own.units):
        return SharedStep(step, state, None, {}, {}, names, draws, reason)
    return SharedStep(step, state, exact, errors, own.units, names, draws, None)


def own_errors(training: Training, data: Mapping[str, np.ndarray], shared: SharedStep) -> list[StepError]:
    """How far a step of the training is from the step in float64; a row for each tensor, none without such a step."""
    if shared.exact is None:
        return []
    return step_errors(
        shared.step,
        shared.names,
        errors=shared.errors,
        units=shared.units,
        exact=shared.exact,
        take=lambda within: exact_step(training, data, shared.state, within=within),
    )


def _plain(errors: Errors) -> dict[str, list[tuple[float, ...]]]:
    """The errors as tuples: a class of our own cannot be read back without running code."""
    return {quantity: [tuple(each) for each in found] for quantity, found in errors.items()}


def _tensor(value: np.ndarray | None) -> torch.Tensor | None:
    return None if value is None else torch.from_numpy(np.array(value))
