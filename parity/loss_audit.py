"""How losses are decided: their audit errors beside the baseline's own, step by step.

A function of what is stored; needs neither torch nor Ray.

Letters: S steps that both traces have.
"""

from dataclasses import dataclass

import numpy as np

from parity.differences import Comparison

# How many times the baseline's own error a gradient's may be before it is no rounding. Right gradients of MSE were seen
# at 0.4 to 1.4 u, the least wrong one (1.00001 times too large) at 168 u; right cross-entropies at up to 6 times the
# baseline's error (DESIGN.md, section 6). 16 lies between, a factor of ten from the wrong ones.
GRAD_LINE = 16.0
# Of a baseline whose replicas disagree its error is the noise floor, and what is 10 times the floor must be seen.
UNSTEADY_LINE = 8.0
# The baseline's own error counts for at least this much: one that happens to be exact must not condemn plain rounding.
LEAST_ERROR_U = 1.0
# The order of summation alone moves a loss of N elements by some sqrt(N) u (N. J. Higham and T. Mary, "A New Approach
# to Probabilistic Rounding Error Analysis", 2019). Seen in the first epoch of the reference experiment, in float32:
# sequential sums at up to 13 sqrt(N) u, from the largest element to the smallest at up to 21.
LOSS_LINE_PER_ROOT = 64.0


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
        self.grad_line = (GRAD_LINE if steady else UNSTEADY_LINE) * np.fmax(LEAST_ERROR_U, self._baseline_grad)
        self.loss_line = np.fmax(LOSS_LINE_PER_ROOT * np.sqrt(elements), GRAD_LINE * self._baseline_loss)
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
