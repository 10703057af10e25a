"""A step from a shared state: what the baseline's device and another make of it, held against the step in float64.

Letters: P parameter tensors of the model; u is the unit roundoff of the model's dtype (2**-24 for float32).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from parity.ground.errors import OracleUnavailable, TrialFailed
from parity.observe.float64_step import (
    COMPARED,
    Errors,
    StepError,
    Values,
    each_error,
    on_host,
    relative_errors,
    spread_of,
    step_errors,
    strange,
    unit_of,
    widened,
)
from parity.observe.generators import restore_generators, take_generators
from parity.observe.low_precision import ROUNDINGS, RoundedProducts
from parity.observe.observer import Observer
from parity.plan import lines
from parity.plan.trial import Trial
from parity.store.trace import QUANTITIES
from parity.train.saved_state import StateNotPortable, pack, unpack
from parity.train.state import on_cpu, restore_state, take_state
from parity.train.step import StepValues, Training, begin, forward, make_batch, take_step


@dataclass(frozen=True)
class SharedStep:
    """A step of the baseline's device, for other devices to take.

    Attributes:
        step: From 0.
        state: Before the step, on the CPU; None for a step that is only named.
        exact: The values of the step in float64 on the CPU; None where there is no such run.
        errors: The baseline's own, in u, by quantity; one of each tensor.
        draws: Whether the step drew from a random generator of torch.
        unavailable: Why there is no float64 run, or None.
    """

    step: int
    state: dict[str, Any]
    exact: Values | None
    errors: dict[str, list[float]]
    draws: bool
    unavailable: str | None


@dataclass(frozen=True)
class SharedError:
    """A row of shared_steps.parquet: one tensor of one shared step, on the candidate's device.

    Attributes:
        step: From 0.
        quantity: Of `trace.QUANTITIES`.
        tensor: Name of the parameter, or None.
        baseline_error_u: ||b - x|| / (u ||x||) of the baseline, x in float64; of a step that only the candidate took
            (where the traces part), the largest over the steps that both did.
        candidate_error_u: ||c - x|| / (u ||x||).
        spread_u: The same between float64 runs from slightly moved parameters; None where nobody had to look.
        repeated: Whether the candidate's step came out as in its own training; None where it was not the same step.
        rounding: The rounding of the factors of matrix products that explains the error, or None.
    """

    step: int
    quantity: str
    tensor: str | None
    baseline_error_u: float
    candidate_error_u: float
    spread_u: float | None
    repeated: bool | None
    rounding: str | None


def pack_step(shared: SharedStep) -> bytes:
    """The shared step in bytes; unavailable if its state cannot be read back without running code."""
    exact: dict[str, list[torch.Tensor | None]] | None = None
    if shared.exact:
        exact = {name: [_tensor(value) for value in values] for name, values in shared.exact.items()}
    try:
        return pack({**vars(shared), "exact": exact})
    except StateNotPortable as error:
        reason = f"the training's state cannot be sent to another device: {error}"
        return pack({**vars(shared), "state": {}, "exact": None, "unavailable": reason})


def unpack_step(packed: bytes) -> SharedStep:
    """What was packed."""
    values = unpack(packed)
    exact = values["exact"] and {name: [on_host(each) for each in tensors] for name, tensors in values["exact"].items()}
    return SharedStep(**values | {"exact": exact})


def _tensor(value: np.ndarray | None) -> torch.Tensor | None:
    return None if value is None else torch.from_numpy(np.array(value))


def take_shared_step(
    training: Training, data: Mapping[str, np.ndarray], step: int, observer: Observer | None
) -> SharedStep:
    """Takes a step of the training, and has it for other devices to take: its state, and the step in float64.

    Raises:
        TrialFailed: As `take_step`.
    """
    state = take_state(step, training.model, training.optimizer)
    values = take_step(training, data, step, observer)
    draws = not _same_generators(state["generators"], take_generators())
    state = on_cpu(state)
    try:
        exact = exact_step(training, data, state)
    except OracleUnavailable as error:
        return SharedStep(step, state, None, {}, draws, str(error))
    errors = relative_errors(_values(values, training.model), exact)
    if reason := strange(errors):
        return SharedStep(step, state, None, {}, draws, reason)
    return SharedStep(step, state, exact, errors, draws, None)


def own_errors(training: Training, data: Mapping[str, np.ndarray], shared: SharedStep) -> list[StepError]:
    """How far a step of the training is from the step in float64; empty where there is no such step."""
    if shared.exact is None:
        return []
    names = [name for name, _ in training.model.named_parameters()]
    return step_errors(shared.step, names, shared.errors, shared.exact, lambda: _spread(training, data, shared))


def take_shared_steps(
    trial: Trial, data: Mapping[str, np.ndarray], shared: Sequence[SharedStep], *, parting: int | None, trace: pa.Table
) -> tuple[list[SharedError], str | None]:
    """Takes the baseline's steps on this device, and again the step at which this trial's own training parted.

    Args:
        trial: The candidate, which has been trained in this process.
        data: The task's.
        shared: The baseline's steps.
        parting: The first step whose traces differ, or None; up to there the two states are the same to the bit.
        trace: The candidate's own.

    Returns:
        What was found, and why some of it could not be, or None.
    """
    training = begin(replace(trial, settings=replace(trial.settings, audit_every=0)))
    usable = [entry for entry in shared if entry.exact is not None]
    reason = next((entry.unavailable for entry in shared if entry.unavailable), None)
    kind = trial.device.kind
    if any(entry.draws for entry in usable) and kind != "cpu":
        return [], f"the model draws random numbers, which a {kind} device draws otherwise than the CPU"
    found: list[SharedError] = []
    for entry in usable:
        restore_state(entry.state, training.model, training.optimizer)
        values = take_step(training, data, entry.step)
        found += _errors(training, data, entry, values, repeated=None)
    if parting is not None and usable:
        found += _take_parting_step(training, data, usable, parting=parting, trace=trace)
    return found, reason


def exact_step(
    training: Training,
    data: Mapping[str, np.ndarray],
    state: dict[str, Any],
    *,
    perturb: Callable[[torch.Tensor], torch.Tensor] | None = None,
    rounding: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Values:
    """Takes the step in float64 on the CPU; the training itself does not notice.

    Args:
        training: Whose model, loss and optimizer.
        data: The task's.
        state: Before the step, on the CPU.
        perturb: Moves each parameter first, or None.
        rounding: Of the factors of matrix products, or None.

    Raises:
        OracleUnavailable: The task or its loss does not work in float64.
    """
    generators = take_generators()
    try:
        model = copy.deepcopy(training.model).cpu().double()
        optimizer = training.task.optimizer(model.parameters(), training.trial.settings.lr)
        restore_state(state, model, optimizer)
        if perturb:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(perturb(parameter))
        wide = replace(training, model=model, optimizer=optimizer, device=torch.device("cpu"))
        batch = tuple(widened(tensor) for tensor in make_batch(wide, data, state["step"]))
        with RoundedProducts(rounding) if rounding else contextlib.nullcontext():
            output, target = forward(wide, batch, state["step"])
            loss, grad = wide.oracle(output, target)
            optimizer.zero_grad()
            output.backward(torch.from_numpy(np.array(grad)).to(output.dtype))  # type: ignore[no-untyped-call]
        optimizer.step()
    except TrialFailed as error:
        raise OracleUnavailable(f"the task does not train in float64: {error.reason}") from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise OracleUnavailable(f"the task does not train in float64: {type(error).__name__}: {error}") from error
    finally:
        restore_generators(generators)
    if output.dtype != torch.float64:
        raise OracleUnavailable(f"the task's model gives {output.dtype} for parameters and a batch of float64")
    return {
        "output": [on_host(output)],
        "loss": [np.array(loss)],
        "output_grad": [np.asarray(grad)],
        "param_grad": [on_host(parameter.grad) for parameter in model.parameters()],
        "param": [on_host(parameter) for parameter in model.parameters()],
    }


def _take_parting_step(
    training: Training, data: Mapping[str, np.ndarray], usable: Sequence[SharedStep], *, parting: int, trace: pa.Table
) -> list[SharedError]:
    """Goes from the last shared state before the parting up to it, and takes that step, watched."""
    start = max((entry for entry in usable if entry.step <= parting), key=lambda entry: entry.step)
    if start.step == 0:  # its own initial parameters, whose last bits depend on the instruction set
        training = begin(training.trial)
    else:
        restore_state(start.state, training.model, training.optimizer)
    observer = Observer(training.trial, training.model, oracle=training.oracle, baseline=training.baseline)
    for step in range(start.step, parting):
        take_step(training, data, step)
    state = on_cpu(take_state(parting, training.model, training.optimizer))
    values = take_step(training, data, parting, observer)
    repeated = _repeats(observer.flush(), trace.slice(parting, 1))
    largest = {
        quantity: [max(errors) for errors in zip(*(entry.errors[quantity] for entry in usable), strict=True)]
        for quantity in COMPARED
    }
    try:
        exact = exact_step(training, data, state)
    except OracleUnavailable:
        return []
    return _errors(training, data, SharedStep(parting, state, exact, largest, False, None), values, repeated=repeated)


def _errors(
    training: Training,
    data: Mapping[str, np.ndarray],
    shared: SharedStep,
    values: StepValues,
    *,
    repeated: bool | None,
) -> list[SharedError]:
    assert shared.exact is not None
    host = _values(values, training.model)
    errors = relative_errors(host, shared.exact)
    names = [name for name, _ in training.model.named_parameters()]
    suspicious = any(
        error > lines.SUSPICIOUS_DEVICE.value * max(1.0, own)
        for quantity in COMPARED
        for error, own in zip(errors[quantity], shared.errors[quantity], strict=True)
    )
    spread = _spread(training, data, shared) if suspicious else None
    rounding = _explain(training, data, shared, host) if suspicious else None
    return [
        SharedError(
            step=shared.step,
            quantity=quantity,
            tensor=tensor,
            baseline_error_u=shared.errors[quantity][index],
            candidate_error_u=error,
            spread_u=spread[quantity][index] if spread else None,
            repeated=repeated,
            rounding=rounding,
        )
        for quantity, tensor, index, error in each_error(names, errors)
    ]


def _spread(training: Training, data: Mapping[str, np.ndarray], shared: SharedStep) -> Errors:
    """What rounding alone may do to the step, in u."""
    assert shared.exact is not None
    take = partial(exact_step, training, data, shared.state)
    return spread_of(lambda perturb: take(perturb=perturb), shared.exact, unit=unit_of(training.model))


def _explain(training: Training, data: Mapping[str, np.ndarray], shared: SharedStep, values: Values) -> str | None:
    """The rounding of the factors of matrix products that brings the output where the candidate has it, or None."""
    assert shared.exact is not None
    output = {"output": shared.exact["output"]}
    error = relative_errors(values, output)["output"][0]
    for name, rounding in ROUNDINGS.items():
        rounded = exact_step(training, data, shared.state, rounding=rounding)
        if relative_errors(values, {"output": rounded["output"]})["output"][0] < error / 4:
            return name
    return None


def _repeats(again: pa.Table, before: pa.Table) -> bool:
    digests = [f"{quantity}_digest" for quantity in QUANTITIES]
    return bool(again.select(digests).to_pylist() == before.select(digests).to_pylist())


def _values(values: StepValues, model: torch.nn.Module) -> Values:
    """The step's tensors as arrays on the CPU."""
    return {
        "output": [on_host(values.output)],
        "loss": [on_host(values.loss)],
        "output_grad": [on_host(values.output_grad)],
        "param_grad": [on_host(parameter.grad) for parameter in model.parameters()],
        "param": [on_host(parameter) for parameter in model.parameters()],
    }


def _same_generators(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return torch.equal(before["torch"], after["torch"]) and all(
        torch.equal(left, right) for left, right in zip(before["cuda"], after["cuda"], strict=True)
    )
