"""How devices are decided: their steps from shared states, held against float64 beside the first device's own error.

A function of what is stored; needs neither torch nor Ray.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from parity.plan import lines
from parity.store.trace import QUANTITIES


@dataclass(frozen=True)
class DeviceError:
    """One tensor of one step, out of line or the nearest to it; errors in u.

    Attributes:
        step: From 0.
        quantity: Of `trace.QUANTITIES`.
        tensor: Name of the parameter, or None.
        error_u: The candidate's.
        baseline_error_u: The baseline's own.
        line_u: Beyond it is no rounding.
        repeated: False where the candidate did not come to the same bits when it took its own step again.
        rounding: The rounding of matrix products that explains it, or None.
    """

    step: int
    quantity: str
    tensor: str | None
    error_u: float
    baseline_error_u: float
    line_u: float
    repeated: bool | None
    rounding: str | None

    @property
    def excess(self) -> float:
        """The error in lines; above 1 is out of line."""
        return self.error_u / self.line_u

    def explain(self) -> str:
        """Why it is beyond rounding, or how near it comes."""
        what = f"{self.quantity} {self.tensor}" if self.tensor else self.quantity
        numbers = (
            f"{what} is off by {self.error_u:.3g} u from float64 in a step from the same state "
            f"(the baseline's own by {self.baseline_error_u:.3g} u, the line is {self.line_u:.3g} u)"
        )
        return f"matrix products in {self.rounding}: {numbers}" if self.rounding else numbers


@dataclass(frozen=True)
class DeviceAudit:
    """The steps that a candidate took from shared states.

    Attributes:
        steps: Which.
        quantities: Of them, those that were held against float64.
        worst: The tensor nearest to its line, or furthest beyond it.
        first: The first that is beyond, in the order of computation; None where there is none.
        unrepeated: The step that did not come out again as in the training, or None.
    """

    steps: tuple[int, ...]
    quantities: frozenset[str]
    worst: DeviceError
    first: DeviceError | None
    unrepeated: int | None


def audit_device(shared_steps: pa.Table, trial: str) -> DeviceAudit | None:
    """Decides one candidate; None where it took no shared step.

    Args:
        shared_steps: In the columns of `store.SHARED_STEPS`.
        trial: Name of the candidate's trial.
    """
    rows = shared_steps.filter(pc.equal(shared_steps["trial"], trial)).to_pylist()
    errors = [_error(row) for row in rows]
    if not errors:
        return None
    beyond = [(_place(error, index), error) for index, error in enumerate(errors) if not error.excess <= 1]
    return DeviceAudit(
        steps=tuple(sorted({error.step for error in errors})),
        quantities=frozenset(error.quantity for error in errors),
        worst=max(errors, key=lambda error: error.excess),
        first=min(beyond, key=lambda found: found[0])[1] if beyond else None,
        unrepeated=next((error.step for error in errors if error.repeated is False), None),
    )


def _error(row: dict[str, object]) -> DeviceError:
    allowed = max(lines.LEAST_ERROR.value, float(row["baseline_error_u"]), float(row["spread_u"] or 0))  # type: ignore[arg-type]
    return DeviceError(
        step=int(row["step"]),  # type: ignore[call-overload]
        quantity=str(row["quantity"]),
        tensor=None if row["tensor"] is None else str(row["tensor"]),
        error_u=float(row["candidate_error_u"]),  # type: ignore[arg-type]
        baseline_error_u=float(row["baseline_error_u"]),  # type: ignore[arg-type]
        line_u=lines.DEVICE.value * allowed,
        repeated=None if row["repeated"] is None else bool(row["repeated"]),
        rounding=None if row["rounding"] is None else str(row["rounding"]),
    )


def _place(error: DeviceError, index: int) -> tuple[int, int, int]:
    """Step, quantity and tensor in the order of computation; the backward pass computes the last layer's first."""
    return error.step, QUANTITIES.index(error.quantity), -index if error.quantity == "param_grad" else index
