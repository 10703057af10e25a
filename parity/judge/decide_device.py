"""How devices are decided: their steps from shared states, checked against float64 beside the first device's error.

A function of what is stored; needs neither torch nor Ray.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from parity.plan import lines
from parity.store.trace import QUANTITIES


@dataclass(frozen=True)
class DeviceError:
    """The error of one tensor in one step from a shared state; errors in u.

    Attributes:
        step: Optimizer step, from 0.
        quantity: One of `trace.QUANTITIES`.
        tensor: Name of the parameter, or None for a quantity of one tensor.
        error_u: The candidate's error against float64.
        baseline_error_u: The baseline's error against float64.
        credited_u: The error that the baseline is credited with: its own, that of the float64 steps from slightly moved
            parameters, or `lines.LEAST_ERROR`, whichever is largest.
        repeated: False where the candidate did not reproduce its bits when it repeated its own step; None where it was
            another step.
        rounding: The rounding of matrix products that explains the error, or None.
    """

    step: int
    quantity: str
    tensor: str | None
    error_u: float
    baseline_error_u: float
    credited_u: float
    repeated: bool | None
    rounding: str | None

    @property
    def times(self) -> float:
        """The candidate's error as a multiple of the error that the baseline is credited with."""
        # Never a division by zero: `lines.LEAST_ERROR` is the least that a baseline is credited with.
        return self.error_u / self.credited_u

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
            f"{what} is off by {self.error_u:.3g} u from float64 in a step from the same state "
            f"(the baseline's error is {self.baseline_error_u:.3g} u, the limit is {self.line_u:.3g} u)"
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
        """The quantities that were checked against float64."""
        return frozenset(error.quantity for error in self.errors)


def audit_device(shared_steps: pa.Table, trial: str) -> DeviceAudit | None:
    """The audit of one candidate; None where it took no step from a shared state.

    Args:
        shared_steps: Table in the columns of `tables.SHARED_STEPS`.
        trial: Name of the candidate's trial.
    """
    # Rows of one step are in the order of its tensors, which `_place` relies on.
    rows = shared_steps.filter(pc.equal(shared_steps["trial"], trial)).to_pylist()
    errors = tuple(_error(row) for row in rows)
    if not errors:
        return None
    beyond = [(_place(error, index), error) for index, error in enumerate(errors) if error.beyond]
    return DeviceAudit(
        errors=errors,
        line=lines.DEVICE.value,
        worst=max(errors, key=lambda error: error.times),
        first=min(beyond, key=lambda found: found[0])[1] if beyond else None,
        # None is another step, which proves nothing, so only False counts.
        unrepeated=next((error.step for error in errors if error.repeated is False), None),
    )


def _error(row: dict[str, object]) -> DeviceError:
    baseline_error_u, spread_u = (
        # The spread is null where it was not computed.
        float(row[name] or 0)  # type: ignore[arg-type]
        for name in ("baseline_error_u", "spread_u")
    )
    return DeviceError(
        step=int(row["step"]),  # type: ignore[call-overload]
        quantity=str(row["quantity"]),
        tensor=None if row["tensor"] is None else str(row["tensor"]),
        error_u=float(row["candidate_error_u"]),  # type: ignore[arg-type]
        baseline_error_u=baseline_error_u,
        credited_u=max(lines.LEAST_ERROR.value, baseline_error_u, spread_u),
        repeated=None if row["repeated"] is None else bool(row["repeated"]),
        rounding=None if row["rounding"] is None else str(row["rounding"]),
    )


def _place(error: DeviceError, index: int) -> tuple[int, int, int]:
    """A key that sorts errors by step, quantity and tensor, in the order of computation.

    The backward pass computes the gradients of the last layer first, so these are sorted backwards.
    """
    return error.step, QUANTITIES.index(error.quantity), -index if error.quantity == "param_grad" else index
