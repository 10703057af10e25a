"""How losses are decided: their audit errors beside the baseline's, step by step.

A function of what is stored; needs neither torch nor Ray.

Letters: S steps that both traces have.
"""

from dataclasses import dataclass

import numpy as np

from parity.ground.percent import percent_at_most, percent_off
from parity.judge.differences import Comparison
from parity.judge.distances import unit_of_quantity
from parity.judge.window import largest_in_windows
from parity.plan import lines

# Steps whose neighbours are looked at in one go.
_BLOCK = 8_192


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
        seen: The least relative error of a gradient that would have been seen, at the audited steps with the lowest
            line; None where the audit decides nothing.
        seen_anywhere: The least that would have been seen at whichever audited step; at least `seen`.
        seen_scale: In a narrow dtype, the least relative error that is common to all elements and would have been seen;
            else None, and `seen` holds for such errors too.
    """

    audited: int
    grad_error_u: float
    baseline_grad_error_u: float
    grad_line_u: float
    loss_error_u: float
    baseline_loss_error_u: float
    loss_line_u: float
    seen: float | None
    seen_anywhere: float
    seen_scale: float | None


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
        ratio_line: The largest |ratio - 1| that rounding can explain, in a narrow dtype; else infinite. float64[S].
        audited: Whether the step was audited; bool[S].
        finite: Whether no element of the candidate's gradient is infinite; bool[S].
        unit: u of the gradient's dtype; float64[S].
        taken_away: Whether nothing beyond rounding of the gradient's error reaches a parameter, since the model's
            backward takes it away; bool[S], False where that is not known.
        off_oracle: Why the baseline is not what both sides are audited against, so that the audit decides nothing; or
            None.
        first_step: Number of the first of the S steps.
        loss_unit: u of the loss's dtype.
    """

    gradient: AuditedErrors
    loss: AuditedErrors
    ratio: np.ndarray
    ratio_line: np.ndarray
    audited: np.ndarray
    finite: np.ndarray
    unit: np.ndarray
    taken_away: np.ndarray
    off_oracle: str | None
    first_step: int
    loss_unit: float

    def beyond(self) -> dict[str, np.ndarray]:
        """Whether a step is beyond rounding, by quantity; bool[S]."""
        decides = self.audited & (self.off_oracle is None)
        return {"loss": decides & self.loss.beyond, "output_grad": decides & self._wrong & ~self.taken_away}

    @property
    def excused(self) -> np.ndarray:
        """Whether a gradient is beyond its line, and all of the excess is taken away by the model; bool[S]."""
        excused: np.ndarray = self.audited & self._wrong & self.taken_away
        return excused

    @property
    def _wrong(self) -> np.ndarray:
        """Whether a gradient is beyond its line, wherever its error goes; bool[S]."""
        # False for a NaN, as in `AuditedErrors.beyond`.
        wrong: np.ndarray = self.gradient.beyond | (np.abs(self.ratio - 1) > self.ratio_line)
        return wrong

    @property
    def worst(self) -> Audit:
        """The audited step with the largest gradient error."""
        # `nanargmax` raises where all values are NaN; `audit_loss` makes no audit of such a pair.
        index = int(np.nanargmax(self.gradient.candidate))
        values = (self.gradient.candidate, self.loss.candidate, self.ratio)
        return Audit(self.first_step + index, *(float(each[index]) for each in values))

    @property
    def decision(self) -> Decision:
        """The largest errors and their lines."""
        lines_seen = (self.gradient.line * self.unit)[self.audited]
        scales = self.ratio_line[self.audited & np.isfinite(self.ratio_line)]
        return Decision(
            audited=int(self.audited.sum()),
            grad_error_u=float(np.nanmax(self.gradient.candidate)),
            baseline_grad_error_u=_largest_known(self.gradient.baseline),
            grad_line_u=float(self.gradient.line[np.nanargmax(self.gradient.candidate)]),
            loss_error_u=_largest_known(self.loss.candidate),
            baseline_loss_error_u=_largest_known(self.loss.baseline),
            loss_line_u=self._line_of_largest_loss(),
            seen=float(np.min(lines_seen)) if self.off_oracle is None else None,
            seen_anywhere=float(np.max(lines_seen)),
            seen_scale=float(np.min(scales)) if scales.size else None,
        )

    def _line_of_largest_loss(self) -> float:
        """The limit where the error of the loss is largest; NaN where none is known, which somebody else may store."""
        known = not np.isnan(self.loss.candidate).all()
        return float(self.loss.line[np.nanargmax(self.loss.candidate)]) if known else float("nan")

    def explain_loss(self) -> str | None:
        """The largest error of the loss and its limit; None where no error is beyond its limit."""
        if not self.beyond()["loss"].any():
            return None
        decision = self.decision
        off, line = (error * self.loss_unit for error in (decision.loss_error_u, decision.loss_line_u))
        return f"{percent_off(off)}; rounding explains {percent_at_most(line)}"

    def explain(self, step: int, quantity: str) -> str:
        """Why the loss or the output_grad of a step is beyond rounding.

        Args:
            step: Position of the step among the common ones.
            quantity: "loss" or "output_grad".
        """
        unit = self.unit[step]
        gradient = percent_off(self.gradient.candidate[step] * unit) if self.finite[step] else "not finite"
        if quantity == "loss":
            return (
                f"the loss is {percent_off(self.loss.candidate[step] * self.loss_unit)}, and the order of summation "
                f"explains {percent_at_most(self.loss.line[step] * self.loss_unit)} at most; the gradient is {gradient}"
            )
        if not self.gradient.beyond[step]:
            return (
                f"output_grad is {self.ratio[step]:.6g} times the float64 one over all its elements, and rounding can "
                f"explain {1 - self.ratio_line[step]:.4g} to {1 + self.ratio_line[step]:.4g}"
            )
        # A gradient that should be zero, or is not finite, has no ratio.
        known = np.isfinite(self.gradient.candidate[step])
        return (
            f"output_grad is {f'{self.ratio[step]:.6g} times the float64 one, ' if known else ''}{gradient} "
            f"(the baseline is {percent_off(self.gradient.baseline[step] * unit)}, rounding explains "
            f"{percent_at_most(self.gradient.line[step] * unit)})"
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
    own_gradient = _over_neighbours(baseline_gradient)
    unit = _units(comparison)
    narrow = unit >= lines.NARROW.value
    # fmax ignores a NaN: a baseline without an error at a step counts for the least, as does a condition that was not
    # measured. A condition is limited, since a badly conditioned output must not excuse everything.
    credit = np.fmax(lines.LEAST_ERROR.value, own_gradient)
    condition = np.minimum(comparison.both("grad_condition_u")[1], lines.CONDITION.value)
    gradient_line = times * np.fmax(credit, condition)
    # The largest of three limits: what an order of summation can do, and a multiple of the baseline's error of the loss
    # or of its gradient: where the gradient loses digits by cancellation, so does the loss. (The two may be counted in
    # the u of different dtypes, of which the gradient's may be the narrow one.)
    any_order = lines.LOSS_PER_ROOT.value * np.sqrt(comparison.both("elements")[1])
    own_loss = np.fmax(_over_neighbours(baseline_loss), np.where(narrow, np.nan, own_gradient))
    baseline_ratio, ratio = comparison.both("grad_ratio")
    loss_unit = unit_of_quantity(comparison.candidate.record, "loss")
    return LossAudit(
        gradient=AuditedErrors(baseline_gradient, gradient, gradient_line),
        loss=AuditedErrors(baseline_loss, loss, np.fmax(any_order, lines.GRADIENT.value * own_loss)),
        ratio=ratio,
        ratio_line=np.where(
            narrow, _ratio_line(np.abs(baseline_ratio - 1) / unit, gradient_line, _rows(comparison)) * unit, np.inf
        )
        if narrow.any()
        else np.broadcast_to(np.inf, narrow.shape),
        audited=audited,
        finite=~np.isinf(comparison.both("output_grad_norm")[1]),
        unit=unit,
        taken_away=comparison.both("passed_on_u")[1] <= lines.PASSED_ON.value,  # False for a NaN
        off_oracle=off_oracle(
            baseline_gradient,
            baseline_ratio,
            baseline_loss,
            unit=unit,
            any_order=any_order,
            first_step=comparison.first_step,
            loss_unit=loss_unit,
        ),
        first_step=comparison.first_step,
        loss_unit=loss_unit,
    )


def off_oracle(
    gradient: np.ndarray,
    ratio: np.ndarray,
    loss: np.ndarray,
    *,
    unit: np.ndarray,
    any_order: np.ndarray,
    first_step: int,
    loss_unit: float,
) -> str | None:
    """Why a baseline is not the function that it is audited against; None where it is, or was not audited.

    A badly conditioned step, at which even a right loss is off by more than `OFF_ORACLE`, is recognised: its error has
    no direction, and at other steps of the training there is none.

    Args:
        gradient: The baseline's errors of the output gradient, in u; float64[S].
        ratio: Its <g, g64> / <g64, g64>; float64[S].
        loss: Its errors of the loss, in u; float64[S].
        unit: u of the gradient's dtype; float64[S].
        any_order: What an order of summation can do to the loss, in u; float64[S].
        first_step: Number of the first of the S steps.
        loss_unit: u of the loss's dtype.
    """
    least = np.where(unit >= lines.NARROW.value, lines.GRADIENT.value, lines.OFF_ORACLE.value)
    # The comparisons are False for a NaN.
    off = gradient > least
    if off.any():
        # How much of the error is a factor: 1 for a gradient that is c times the right one, in whatever size.
        with np.errstate(invalid="ignore"):
            share = np.abs(ratio[off] - 1) / (gradient[off] * unit[off])
        if np.nanmedian(np.where(np.isnan(share), 0, share)) >= lines.OFF_ORACLE_SHARE.value:
            return (
                f"the baseline's gradient is {np.nanmedian(ratio[off]):.6g} times that of the loss it is audited "
                "against (divided or multiplied already? give the Recorder factor=)"
            )
        if off[~np.isnan(gradient)].all():
            return (
                f"the baseline's gradient is {_or_more(np.nanmin(gradient * unit))} at every audited step: "
                "it is not the loss that it is audited against"
            )
        # What is exact in float64 is infinitely far from any rounding.
        most = np.where(np.isfinite(gradient), gradient, 0) * unit
        if np.max(most[unit < lines.NARROW.value], initial=0) > lines.OFF_ORACLE_MOST.value:
            return (
                f"the baseline's own gradient is {percent_off(np.max(most))} at step "
                f"{first_step + int(np.argmax(most))}, which leaves no line to hold a candidate against"
            )
    known = ~np.isnan(loss)
    if known.any() and (loss > np.fmax(any_order, lines.OFF_ORACLE.value))[known].all():
        return (
            f"the baseline's loss is {_or_more(np.nanmin(loss) * loss_unit)} at every audited step: it has "
            "a term or a factor that the loss it is audited against lacks"
        )
    return None


def _or_more(share: float) -> str:
    """How far off something is at least, as a predicate."""
    return f"{percent_off(share)}," if np.isinf(share) else f"{percent_off(share)} or more"


def _ratio_line(baseline_u: np.ndarray, gradient_line: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The largest |ratio - 1| that rounding can explain, in u; float64[S], infinite where the rows are not known.

    Args:
        baseline_u: The baseline's own |ratio - 1| in u; float64[S].
        gradient_line: The largest error of a gradient that rounding can explain, in u; float64[S].
        rows: Number of rows that the gradient is made of; float64[S], NaN where that is not known.
    """
    # What is common to all elements stays; errors of rows, which have no common direction, shrink with their number.
    common = lines.RATIO.value * np.fmax(1.0, _over_neighbours(baseline_u))
    return np.where(np.isnan(rows), np.inf, common + gradient_line / np.sqrt(rows))


def _rows(comparison: Comparison) -> np.ndarray:
    """Number of rows that the candidate's gradient is made of; float64[S], NaN where that is not known."""
    rows = comparison.both("grad_rows")[1]
    # It is measured where the gradient is suspicious. Elsewhere no ratio is beyond its line, and the rows of the batch
    # say what would have been seen; runs of earlier versions have neither.
    plain = np.where(np.isnan(comparison.both("grad_unit")[1]), np.nan, comparison.both("rows")[1])
    return np.where(np.isnan(rows), plain, rows)


def _units(comparison: Comparison) -> np.ndarray:
    """U of the candidate's gradient at each step; float64[S]."""
    # Runs of earlier versions did not store it: their losses had the dtype of the output.
    u = 2.0 ** -{"float16": 11, "bfloat16": 8, "float64": 53}.get(comparison.candidate.record.loss_dtype or "", 24)
    stored = comparison.both("grad_unit")[1]
    return np.where(np.isnan(stored), u, stored)


def _over_neighbours(values: np.ndarray) -> np.ndarray:
    """Each value, or the third largest within 10 steps of it if that is larger; float64[S], NaN where none is known.

    A single step may be exact by luck, and one or two steps next to it may have next to no gradient, which makes their
    relative error huge.
    """
    reach, rank = int(lines.WINDOW.value), int(lines.WINDOW_RANK.value)
    # What is not finite is nobody's neighbour.
    padded = np.pad(np.where(np.isfinite(values), values, -np.inf), reach, constant_values=-np.inf)
    found = np.full(len(values), np.nan)
    # In blocks, which stay in the cache.
    for start in range(0, len(values), _BLOCK):
        stop = min(start + _BLOCK, len(values))
        largest = largest_in_windows(padded[start : stop + 2 * reach], 2 * reach + 1, rank)
        # Fewer than three are known where few steps are audited: then the smallest of them.
        chosen = np.where(np.isfinite(largest), largest, np.inf).min(axis=0)
        found[start:stop] = np.where(np.isfinite(chosen), chosen, np.nan)
    credited: np.ndarray = np.fmax(values, found)
    return credited


def _largest_known(values: np.ndarray) -> float:
    # `nanmax` of nothing but NaNs would warn.
    return float(np.nanmax(values)) if not np.isnan(values).all() else float("nan")
