"""The baseline's shared steps taken on a candidate's device, each compared with the same step in float64.

u is the unit roundoff of a tensor's own dtype (2**-24 for float32).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from parity.ground.errors import OracleUnavailable
from parity.observe.float64_step import TensorError, each_error, relative_errors, spread_of, tensor_names
from parity.observe.low_precision import ROUNDINGS, RoundedProducts
from parity.observe.observer import Observer
from parity.observe.taken_step import TakenStep, Values
from parity.plan import lines
from parity.plan.trial import Trial
from parity.store.tables import CHECKED
from parity.store.trace import DIGESTS
from parity.train.exact_step import exact_step, taken_with_errors
from parity.train.shared_step import SharedStep
from parity.train.state import on_cpu, restore_state, take_state
from parity.train.step import StepValues, Training, begin, take_step


@dataclass(frozen=True)
class SharedError:
    """A row of shared_steps.parquet: one tensor of one shared step, on the candidate's device.

    Attributes:
        step: Number of the step, from 0.
        quantity: One of `trace.QUANTITIES`.
        tensor: Name of the parameter or of the part of the output; None for a quantity of one tensor.
        baseline_error_u: ||b - x|| / (u ||x||) of the baseline's tensor b and its counterpart x in float64. For a step
            that only the candidate took (the first that differs), the largest over the steps that both took.
        candidate_error_u: ||c - x|| / (u ||x||) of the candidate's tensor c.
        baseline_whole_error_u: ||b - x|| / (u ||X||), with X all tensors of the quantity; None where it is not known.
        candidate_whole_error_u: ||c - x|| / (u ||X||).
        spread_u: ||y - x|| / (u ||x||) of y from float64 steps with random rounding; None where it was not measured.
        repeated: Whether the candidate's step gave the bits of its own training; None where it was another step.
        rounding: The rounding of the factors of matrix products that explains the error, or None.
    """

    step: int
    quantity: str
    tensor: str | None
    baseline_error_u: float
    candidate_error_u: float
    baseline_whole_error_u: float | None
    candidate_whole_error_u: float
    spread_u: float | None
    repeated: bool | None
    rounding: str | None


def take_shared_steps(
    trial: Trial,
    data: Mapping[str, np.ndarray],
    shared: Sequence[SharedStep],
    *,
    differs_at: int | None,
    trace: pa.Table,
) -> tuple[list[SharedError], str | None]:
    """Takes the baseline's steps on this device, and once more the first step at which this trial's training differed.

    Args:
        trial: The candidate, which has been trained in this process.
        data: The task's data.
        shared: The baseline's steps.
        differs_at: The first step at which the two traces differ, or None; the states before it are equal to the bit.
        trace: The candidate's own trace, in the columns of `trace.DIGESTS`.

    Returns:
        What was found, and why some of it is missing, or None.

    Raises:
        TrialFailed: As `step.begin` and `step.take_step`.
        Trouble: As `step.begin`.
        OracleUnavailable: A suspicious step cannot be taken in float64 with random rounding or rounded factors.
    """
    # A training of its own, on the same device, since the trial's has ended. Without the audit, whose work nobody would
    # read.
    training = begin(replace(trial, settings=replace(trial.settings, audit_every=0)))
    usable = [entry for entry in shared if entry.exact is not None]
    reason = next((entry.unavailable for entry in shared if entry.unavailable), None)
    kind = trial.device.kind
    # The states of generators are shared, but only a CPU draws the baseline's numbers from them.
    if any(entry.draws for entry in usable) and kind != "cpu":
        return [], f"the model draws random numbers, and a {kind} device draws others than the CPU"
    found: list[SharedError] = []
    for entry in usable:
        restore_state(entry.state, training.model, training.optimizer)
        values = take_step(training, data, entry.step)
        try:
            found += _errors(training, data, entry, values, repeated=None)
        except OracleUnavailable as error:  # the step ran in float64, but does not with random rounding
            reason = str(error)
    # Last, since it trains on from one of the shared states.
    if differs_at is not None and usable:
        found += _take_differing_step(training, data, usable, differs_at=differs_at, trace=trace)
    return found, reason


def _take_differing_step(
    training: Training,
    data: Mapping[str, np.ndarray],
    usable: Sequence[SharedStep],
    *,
    differs_at: int,
    trace: pa.Table,
) -> list[SharedError]:
    """Trains from the last shared state before the first differing step up to it, and takes that step, observed."""
    start = max((entry for entry in usable if entry.step <= differs_at), key=lambda entry: entry.step)
    if start.step == 0:  # its own initial parameters, whose last bits depend on the instruction set
        training = begin(training.trial)
    else:
        restore_state(start.state, training.model, training.optimizer)
    observer = Observer(
        training.trial,
        training.model,
        oracle=training.oracle,
        baseline=training.baseline,
        optimizers=[training.optimizer],
    )
    # Unobserved: the traces have these steps, and they are equal.
    for step in range(start.step, differs_at):
        take_step(training, data, step)
    # Taken before the step, for the float64 step from the same state.
    state = on_cpu(take_state(differs_at, training.model, training.optimizer))
    values = take_step(training, data, differs_at, observer)
    # Row numbers are steps here: the trace begins with step 0.
    repeated = _same_digests(observer.flush(), trace.slice(differs_at, 1))
    # The baseline's error at this very step is not known: it took another one. Its largest over the shared steps takes
    # its place.
    largest = {
        quantity: [
            TensorError(*(max(column) for column in zip(*errors, strict=True)))
            for errors in zip(*(entry.errors[quantity] for entry in usable), strict=True)
        ]
        for quantity in CHECKED
        # A step that an earlier version stored lacks some.
        if all(quantity in entry.errors for entry in usable)
    }
    try:
        exact = exact_step(training, data, state)
        again = replace(start, step=differs_at, state=state, exact=exact, errors=largest, draws=False)
        return _errors(training, data, again, values, repeated=repeated)
    except OracleUnavailable:
        return []


def _errors(
    training: Training,
    data: Mapping[str, np.ndarray],
    shared: SharedStep,
    values: StepValues,
    *,
    repeated: bool | None,
) -> list[SharedError]:
    """The errors of a step that was just taken, a row for each tensor of each quantity.

    Raises:
        OracleUnavailable: The step cannot be taken in float64 with random rounding or rounded factors.
    """
    assert shared.exact is not None, "only steps with a float64 run are taken"
    # A step that an earlier version stored lacks some quantities.
    exact = {quantity: tensors for quantity, tensors in shared.exact.items() if quantity in shared.errors}
    own, errors = taken_with_errors(training, values, exact, shared.state)
    # Spread and explanation cost several steps in float64, so only a suspicious step pays for them.
    suspicious = any(
        error.own > lines.SUSPICIOUS_DEVICE.value * max(lines.LEAST_ERROR.value, baseline.own)
        for quantity in exact
        for error, baseline in zip(errors[quantity], shared.errors[quantity], strict=True)
    )
    spread: dict[str, list[float]] = {}
    rounding = None
    if suspicious:
        take = partial(exact_step, training, data, shared.state)
        spread = spread_of(lambda within: take(within=within), exact, units=own.units, errors=errors)
        rounding = _explain(take, own, exact)
    return [
        SharedError(
            step=shared.step,
            quantity=quantity,
            tensor=tensor,
            baseline_error_u=(baseline := shared.errors[quantity][index]).own,
            candidate_error_u=error.own,
            # An earlier version did not store it.
            baseline_whole_error_u=baseline.whole if math.isfinite(baseline.whole) else None,
            candidate_whole_error_u=error.whole,
            spread_u=spread[quantity][index] if quantity in spread else None,
            repeated=repeated,
            rounding=rounding,
        )
        for quantity, tensor, index, error in each_error(tensor_names(training.model, values.output), errors)
        if quantity in exact
    ]


def _explain(take: Callable[..., Values], own: TakenStep, exact: Values) -> str | None:
    """The rounding of the factors of matrix products that moves the output to where the candidate has it, or None."""
    error = _output_error(own, exact)
    for name, rounding in ROUNDINGS.items():
        rounded = take(within=RoundedProducts(rounding))
        # A quarter is chosen, not measured: the rounding that a device applies explains most of its error.
        if _output_error(own, rounded) < error / 4:
            return name
    return None


def _output_error(own: TakenStep, exact: Values) -> float:
    """The largest error of a part of the output, in u."""
    return max(error.own for error in relative_errors(own, {"output": exact["output"]})["output"])


def _same_digests(again: pa.Table, before: pa.Table) -> bool:
    """Whether the step has the same bits again, in every quantity."""
    return bool(again.select(DIGESTS).to_pylist() == before.select(DIGESTS).to_pylist())
