"""How losses are decided: their audit errors beside the baseline's own, step by step.

A function of what is stored; needs neither torch nor Ray.

Letters: S steps that both traces have.
"""

from dataclasses import dataclass

import numpy as np

from parity.judge.differences import Comparison
from parity.plan import lines


@dataclass(frozen=True)
class Audit:
    """The candidate's worst audited step: the one with the largest gradient error."""

    step: int
    grad_error_u: float
    loss_error_u: float
    grad_ratio: float


@dataclass(frozen=True)
class Decision:
    """How the audit decided, over the audited steps.

    Attributes:
        audited: How many steps.
        grad_error_u: The candidate's largest error of the output gradient.
        baseline_grad_error_u: The baseline's own largest.
        grad_line_u: The line at the step of the candidate's largest error.
        loss_error_u: The candidate's largest error of the loss.
        baseline_loss_error_u: The baseline's own largest.
        loss_line_u: The line at the step of the candidate's largest error of the loss.
    """

    audited: int
    grad_error_u: float
    baseline_grad_error_u: float
    grad_line_u: float
    loss_error_u: float
    baseline_loss_error_u: float
    loss_line_u: float


class LossAudit:
    """The candidate's audit errors beside the baseline's own, over the common steps."""

    def __init__(self, comparison: Comparison, *, steady: bool) -> None:
        self._comparison = comparison
        self._baseline_grad, self.grad = comparison.both("grad_error_u")
        self._baseline_loss, self.loss = comparison.both("loss_error_u")
        self._ratio = comparison.both("grad_ratio")[1]
        elements = comparison.both("elements")[1]
        self.grad_line = (lines.GRADIENT.value if steady else lines.UNSTEADY_GRADIENT.value) * np.fmax(
            lines.LEAST_ERROR.value, self._baseline_grad
        )
        self.loss_line = np.fmax(
            lines.LOSS_PER_ROOT.value * np.sqrt(elements), lines.GRADIENT.value * self._baseline_loss
        )
        self.audited = ~np.isnan(self.grad)

    def beyond(self) -> dict[str, np.ndarray]:
        """Whether a step is beyond rounding, by quantity; bool[S]."""
        return {
            "loss": self.audited & (self.loss > self.loss_line),
            "output_grad": self.audited & (self.grad > self.grad_line),
        }

    def loss_beyond(self) -> str | None:
        """The largest error of the loss and its line, where it is beyond; None where it is within."""
        decision = self.decision()
        if decision is None or not self.beyond()["loss"].any():
            return None
        return f"off by {decision.loss_error_u:.3g} u, the line is {decision.loss_line_u:.3g} u"

    def worst(self) -> Audit | None:
        """The audited step with the largest gradient error."""
        if not self.audited.any():
            return None
        step = int(np.nanargmax(self.grad))
        return Audit(step, float(self.grad[step]), float(self.loss[step]), float(self._ratio[step]))

    def decision(self) -> Decision | None:
        """The largest errors and their lines."""
        if not self.audited.any():
            return None
        return Decision(
            audited=int(self.audited.sum()),
            grad_error_u=float(np.nanmax(self.grad)),
            baseline_grad_error_u=_largest_known(self._baseline_grad),
            grad_line_u=float(self.grad_line[np.nanargmax(self.grad)]),
            loss_error_u=float(np.nanmax(self.loss)),
            baseline_loss_error_u=_largest_known(self._baseline_loss),
            loss_line_u=float(self.loss_line[np.nanargmax(self.loss)]),
        )

    def explain(self, step: int, quantity: str) -> str:
        """Why a step's loss or output_grad is beyond rounding."""
        if quantity == "loss":
            return (
                f"the loss is off by {self.loss[step]:.3g} u, and {self.loss_line[step]:.3g} u is what an order of "
                f"summation can do; the gradient is off by {self.grad[step]:.3g} u"
            )
        return (
            f"output_grad is {self._ratio[step]:.6g} times the float64 one, off by {self.grad[step]:.3g} u "
            f"(the baseline's own by {self._baseline_grad[step]:.3g} u, the line is {self.grad_line[step]:.3g} u)"
        )


def _largest_known(values: np.ndarray) -> float:
    return float(np.nanmax(values)) if not np.isnan(values).all() else float("nan")
