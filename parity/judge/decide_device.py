"""How devices are decided: their steps from shared states, checked against float64 beside the first device's error.

A function of what is stored; needs neither torch nor Ray.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from parity.ground.percent import percent_at_most, percent_off
from parity.judge.distances import unit_of_quantity
from parity.plan import lines
from parity.store.tables import CHECKED
from parity.store.trials import TrialRecord


@dataclass(frozen=True)
class DeviceError:
    """The error of one tensor in one step from a shared state; errors in u.

    Attributes:
        step: Optimizer step, from 0.
        quantity: One of `tables.CHECKED`.
        tensor: Name of the parameter, or None for a quantity of one tensor.
        error_u: The candidate's error against float64.
        baseline_error_u: The baseline's error against float64.
        credited_u: The error that the baseline is credited with: its own, that of the float64 steps with random
            rounding, or `lines.LEAST_ERROR`, whichever is largest.
        explained_u: What rounding explains of the baseline's error: the spread, or `lines.LEAST_ERROR`.
        baseline_whole_error_u: The baseline's error beside all tensors of the quantity; inf where it is not known.
        whole_error_u: The candidate's error beside all tensors of the quantity; inf where that does not count.
        whole_credited_u: The error of the baseline's whole quantity, or `lines.LEAST_ERROR`.
        repeated: False where the candidate did not reproduce its bits when it repeated its own step; None where it was
            another step.
        rounding: The rounding of matrix products that explains the error, or None.
        unit: u of the tensor's dtype.
    """

    step: int
    quantity: str
    tensor: str | None
    error_u: float
    baseline_error_u: float
    credited_u: float
    explained_u: float
    baseline_whole_error_u: float
    whole_error_u: float
    whole_credited_u: float
    repeated: bool | None
    rounding: str | None
    unit: float

    @property
    def error(self) -> float:
        """The candidate's error, relative."""
        return self.error_u * self.unit

    @property
    def baseline_error(self) -> float:
        """The baseline's error, relative."""
        return self.baseline_error_u * self.unit

    @property
    def line(self) -> float:
        """The largest error that rounding can explain, relative."""
        return self.line_u * self.unit

    @property
    def times(self) -> float:
        """The candidate's error as a multiple of the error that the baseline is credited with."""
        # Beside the tensor or beside the whole quantity, whichever is less: a gradient that is zero but for rounding
        # is far off beside itself only. Never a division by zero: `lines.LEAST_ERROR` is the least that is credited.
        return min(self.error_u / self.credited_u, self.whole_error_u / self.whole_credited_u)

    @property
    def line_u(self) -> float:
        """The largest error that rounding can explain."""
        return lines.DEVICE.value * self.credited_u

    @property
    def beyond(self) -> bool:
        """Whether the error is larger than rounding can explain; a NaN is."""
        # Written with `not`, because every comparison with a NaN is False.
        return not self.times <= lines.DEVICE.value

    def explain(self) -> str:
        """The error and its limit, in words."""
        what = f"{self.quantity} {self.tensor}" if self.tensor else self.quantity
        numbers = (
            f"{what} is {percent_off(self.error)}, against float64, in a step from the same state "
            f"(the baseline is {percent_off(self.baseline_error)}, rounding explains {percent_at_most(self.line)})"
        )
        return f"matrix products in {self.rounding}: {numbers}" if self.rounding else numbers


@dataclass(frozen=True)
class DeviceAudit:
    """The steps that a candidate took from shared states, and what they decide.

    Attributes:
        errors: The errors of all tensors in these steps, in the order of the table.
        line: The largest `DeviceError.times` that rounding can explain.
        worst: The error that is nearest to its line, or furthest beyond it.
        first: The first error beyond its line, in the order of computation; None where there is none.
        unrepeated: The first step that did not reproduce the bits of the training, or None.
    """

    errors: tuple[DeviceError, ...]
    line: float
    worst: DeviceError
    first: DeviceError | None
    unrepeated: int | None

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that were taken, in order."""
        return tuple(sorted({error.step for error in self.errors}))

    @property
    def quantities(self) -> frozenset[str]:
        """The quantities that were checked against float64.

        Without those in which the baseline is further from float64 than rounding explains: it computes something else
        than its criterion, and beside its error any other looks like rounding.
        """
        return frozenset(error.quantity for error in self.errors) - self._off()

    def _off(self) -> set[str]:
        """The quantities in which the baseline is not the function that was taken in float64."""
        # What follows from an output is as far off as the output is, which products in TF32 may be.
        excess: dict[int, float] = {}
        for error in self.errors:
            if error.quantity == "output":
                found = error.baseline_error_u / error.explained_u
                excess[error.step] = max(excess.get(error.step, 1.0), found)
        return {
            error.quantity
            for error in self.errors
            # The criterion decides the loss and its gradients; what the optimizer makes of them was checked by itself.
            if error.quantity in ("loss", "output_grad", "param_grad")
            and error.baseline_error_u > lines.OFF.value * error.explained_u * excess.get(error.step, 1.0)
            # Beside the whole too: nothing explains how far a gradient of zero is from itself.
            and not error.baseline_whole_error_u <= lines.OFF.value * excess.get(error.step, 1.0)
        }


def audit_device(
    shared_steps: pa.Table, trial: str, *, record: TrialRecord, own: Collection[str] = ()
) -> DeviceAudit | None:
    """The audit of one candidate; None where it took no step from a shared state.

    Args:
        shared_steps: Table in the columns of `tables.SHARED_STEPS`.
        trial: Name of the candidate's trial.
        record: The same trial, which knows the dtypes.
        own: Quantities that each side has of its own. A gradient that a hook has clipped is not the gradient of the
            step in float64, so neither it nor the update is compared with that step.
    """
    aside = ("param_grad", "update", "param") if "param_grad" in own else ()
    # Rows of one step are in the order of its tensors, which `_place` relies on.
    rows = shared_steps.filter(pc.equal(shared_steps["trial"], trial)).to_pylist()
    rows = [row for row in rows if row["quantity"] not in aside]
    wholes: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        wholes.setdefault((row["step"], row["quantity"]), []).append(float(row["baseline_whole_error_u"] or 0))
    errors = tuple(_error(row, math.hypot(*wholes[row["step"], row["quantity"]]), record) for row in rows)
    if not errors:
        return None
    # An optimizer magnifies what is before it. Where its update was checked by itself, the parameters add nothing.
    updated = {error.step for error in errors if error.quantity == "update"}
    judged = [error for error in errors if error.quantity != "param" or error.step not in updated]
    beyond = [(_place(error, index), error) for index, error in enumerate(judged) if error.beyond]
    return DeviceAudit(
        errors=errors,
        line=lines.DEVICE.value,
        worst=max(judged, key=lambda error: error.times),
        first=min(beyond, key=lambda found: found[0])[1] if beyond else None,
        # None is another step, which proves nothing, so only False counts.
        unrepeated=next((error.step for error in errors if error.repeated is False), None),
    )


def _error(row: dict[str, object], whole_u: float, record: TrialRecord) -> DeviceError:
    """The error of a row; `whole_u` is that of the baseline's whole quantity."""
    quantity, whole_error_u = str(row["quantity"]), row["candidate_whole_error_u"]
    tensor = None if row["tensor"] is None else str(row["tensor"])
    # Outputs and losses are not small parts of a whole. Older runs do not know it.
    beside_whole = whole_error_u is not None and quantity not in ("output", "loss")
    baseline_error_u, spread_u = (
        # The spread is null where it was not computed.
        float(row[name] or 0)  # type: ignore[arg-type]
        for name in ("baseline_error_u", "spread_u")
    )
    return DeviceError(
        step=int(row["step"]),  # type: ignore[call-overload]
        quantity=quantity,
        tensor=tensor,
        error_u=float(row["candidate_error_u"]),  # type: ignore[arg-type]
        baseline_error_u=baseline_error_u,
        credited_u=max(lines.LEAST_ERROR.value, baseline_error_u, spread_u),
        explained_u=max(lines.LEAST_ERROR.value, spread_u),
        baseline_whole_error_u=math.inf
        if row["baseline_whole_error_u"] is None
        else float(row["baseline_whole_error_u"]),  # type: ignore[arg-type]
        whole_error_u=float(whole_error_u) if beside_whole else math.inf,  # type: ignore[arg-type]
        whole_credited_u=max(lines.LEAST_ERROR.value, whole_u),
        repeated=None if row["repeated"] is None else bool(row["repeated"]),
        rounding=None if row["rounding"] is None else str(row["rounding"]),
        unit=unit_of_quantity(record, quantity, tensor),
    )


def _place(error: DeviceError, index: int) -> tuple[int, int, int]:
    """A key that sorts errors by step, quantity and tensor, in the order of computation.

    The backward pass computes the gradients of the last layer first, so these are sorted backwards.
    """
    return error.step, CHECKED.index(error.quantity), -index if error.quantity == "param_grad" else index
