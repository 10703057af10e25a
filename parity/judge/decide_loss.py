"""How losses are decided: their audit errors beside the baseline's, step by step.

A function of what is stored; needs neither torch nor Ray.

Letters: S steps that both traces have.
"""

from dataclasses import dataclass

import numpy as np

from parity.judge.differences import Comparison
from parity.plan import lines


@dataclass(frozen=True)
class Audit:
    """The candidate's worst audited step: the one with the largest gradient error.

    Attributes:
        step: Optimizer step, from 0.
        grad_error_u: Error of the output gradient against float64, in u.
        loss_error_u: Error of the loss against float64, in u.
        grad_ratio: <g, g64> / <g64, g64> of the output gradient: 1 is right, 2 is twice too large.
    """

    step: int
    grad_error_u: float
    loss_error_u: float
    grad_ratio: float


@dataclass(frozen=True)
class Decision:
    """The largest errors over the audited steps, and the lines that they were compared with; all in u.

    Attributes:
        audited: Number of audited steps.
        grad_error_u: The candidate's largest error of the output gradient.
        baseline_grad_error_u: The baseline's largest error of the output gradient.
        grad_line_u: The line at the step of the candidate's largest error.
        loss_error_u: The candidate's largest error of the loss.
        baseline_loss_error_u: The baseline's largest error of the loss.
        loss_line_u: The line at the step of the candidate's largest error of the loss.
    """

    audited: int
    grad_error_u: float
    baseline_grad_error_u: float
    grad_line_u: float
    loss_error_u: float
    baseline_loss_error_u: float
    loss_line_u: float


# eq=False here and below: == of two arrays is an array, which has no truth value.
@dataclass(frozen=True, eq=False)
class AuditedErrors:
    """Errors of one quantity against float64 at each step, in u; NaN at steps without an audit.

    Attributes:
        baseline: float64[S].
        candidate: float64[S].
        line: The largest error of the candidate that rounding can explain; float64[S].
    """

    baseline: np.ndarray
    candidate: np.ndarray
    line: np.ndarray

    @property
    def beyond(self) -> np.ndarray:
        """Whether the candidate's error is larger than rounding can explain; bool[S], False without an audit."""
        # False for a NaN: a gradient that is NaN has no error, and `onset.one_sided_nan` looks for it.
        beyond: np.ndarray = self.candidate > self.line
        return beyond


@dataclass(frozen=True, eq=False)
class LossAudit:
    """The audit of a pair of losses, with the lines that decided it; at least one step is audited.

    Attributes:
        gradient: Errors of the output gradient.
        loss: Errors of the loss.
        ratio: <g, g64> / <g64, g64> of the candidate's output gradient, as in the trace; float64[S].
        audited: Whether the step was audited; bool[S].
    """

    gradient: AuditedErrors
    loss: AuditedErrors
    ratio: np.ndarray
    audited: np.ndarray

    def beyond(self) -> dict[str, np.ndarray]:
        """Whether a step is beyond rounding, by quantity; bool[S]."""
        return {"loss": self.audited & self.loss.beyond, "output_grad": self.audited & self.gradient.beyond}

    @property
    def worst(self) -> Audit:
        """The audited step with the largest gradient error."""
        # `nanargmax` raises where all values are NaN; `audit_loss` makes no audit of such a pair.
        step = int(np.nanargmax(self.gradient.candidate))
        values = (self.gradient.candidate, self.loss.candidate, self.ratio)
        return Audit(step, *(float(each[step]) for each in values))

    @property
    def decision(self) -> Decision:
        """The largest errors and their lines."""
        return Decision(
            audited=int(self.audited.sum()),
            grad_error_u=float(np.nanmax(self.gradient.candidate)),
            baseline_grad_error_u=_largest_known(self.gradient.baseline),
            grad_line_u=float(self.gradient.line[np.nanargmax(self.gradient.candidate)]),
            loss_error_u=float(np.nanmax(self.loss.candidate)),
            baseline_loss_error_u=_largest_known(self.loss.baseline),
            loss_line_u=float(self.loss.line[np.nanargmax(self.loss.candidate)]),
        )

    def explain_loss(self) -> str | None:
        """The largest error of the loss and its limit; None where no error is beyond its limit."""
        if not self.beyond()["loss"].any():
            return None
        decision = self.decision
        return f"off by {decision.loss_error_u:.3g} u, the limit is {decision.loss_line_u:.3g} u"

    def explain(self, step: int, quantity: str) -> str:
        """Why the loss or the output_grad of a step is beyond rounding.

        Args:
            step: The step, from 0.
            quantity: "loss" or "output_grad".
        """
        gradient_u = self.gradient.candidate[step]
        if quantity == "loss":
            return (
                f"the loss is off by {self.loss.candidate[step]:.3g} u, and the order of summation can explain "
                f"{self.loss.line[step]:.3g} u at most; the gradient is off by {gradient_u:.3g} u"
            )
        return (
            f"output_grad is {self.ratio[step]:.6g} times the float64 one, off by {gradient_u:.3g} u "
            f"(the baseline's error is {self.gradient.baseline[step]:.3g} u, the limit is "
            f"{self.gradient.line[step]:.3g} u)"
        )


def audit_loss(comparison: Comparison, *, steady: bool) -> LossAudit | None:
    """The audit of a pair; None where no common step of the candidate was audited.

    Args:
        comparison: The two traces.
        steady: Whether the baseline's replicas are equal to the bit. If they are not, the baseline's error is the noise
            floor, and the line is closer to it.

    Raises:
        Trouble: A trace is damaged.
    """
    baseline_gradient, gradient = comparison.both("grad_error_u")
    baseline_loss, loss = comparison.both("loss_error_u")
    # The candidate's column decides: what a baseline lacks is replaced by the least error below.
    audited = ~np.isnan(gradient)
    if not audited.any():
        return None
    times = lines.GRADIENT.value if steady else lines.UNSTEADY_GRADIENT.value
    # fmax ignores a NaN: a baseline without an error at a step counts for the least.
    gradient_line = times * np.fmax(lines.LEAST_ERROR.value, baseline_gradient)
    # The larger of two limits: what an order of summation can do, and a multiple of the baseline's error.
    any_order = lines.LOSS_PER_ROOT.value * np.sqrt(comparison.both("elements")[1])
    return LossAudit(
        gradient=AuditedErrors(baseline_gradient, gradient, gradient_line),
        loss=AuditedErrors(baseline_loss, loss, np.fmax(any_order, lines.GRADIENT.value * baseline_loss)),
        ratio=comparison.both("grad_ratio")[1],
        audited=audited,
    )


def _largest_known(values: np.ndarray) -> float:
    # `nanmax` of nothing but NaNs would warn.
    return float(np.nanmax(values)) if not np.isnan(values).all() else float("nan")
