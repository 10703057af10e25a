"""The verdicts: what is stored of two trials -> identical, report-only, rounding, diverged, failed or inconclusive.

A function of the stored run alone, so judging twice says the same; needs neither torch nor Ray.

Letters: S steps that both traces have.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from parity import differences
from parity.device_audit import DeviceAudit, audit_device
from parity.differences import Comparison, Difference, Trace
from parity.pairs import Pair, make_pairs
from parity.store import StoredRun, TrialRecord
from parity.trace import NORMED_QUANTITIES, QUANTITIES

# From the best to the worst: the verdict of a run is the worst of its pairs.
VERDICTS = ("identical", "report-only", "rounding", "inconclusive", "diverged", "failed")

# How many times the baseline's own error a gradient's may be before it is no rounding. Right gradients of MSE were seen
# at 0.4 to 1.4 u, the least wrong one (1.00001 times too large) at 168 u; right cross-entropies at up to 6 times the
# baseline's error (DESIGN.md, section 6). 16 lies between, a factor of ten from the wrong ones.
GRAD_LINE = 16.0
# The baseline's own error counts for at least this much: one that happens to be exact must not condemn plain rounding.
LEAST_ERROR_U = 1.0
# The order of summation alone moves a loss of N elements by some sqrt(N) u (N. J. Higham and T. Mary, "A New Approach
# to Probabilistic Rounding Error Analysis", 2019). Seen in the first epoch of the reference experiment, in float32:
# sequential sums at up to 13 sqrt(N) u, from the largest element to the smallest at up to 21.
LOSS_LINE_PER_ROOT = 64.0

# What the training itself is made of: the loss's number is only reported.
TRAINED = tuple(quantity for quantity in QUANTITIES if quantity != "loss")


@dataclass(frozen=True)
class Onset:
    """The first difference beyond rounding."""

    step: int
    epoch: int
    batch: int
    quantity: str
    tensor: str | None


@dataclass(frozen=True)
class Largest:
    """The largest relative difference of the losses; the step is None where there is no common step."""

    step: int | None
    abs: float
    rel: float
    ulp: int | None


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


@dataclass(frozen=True)
class PairVerdict:
    """A pair and what was found of it.

    Attributes:
        pair: The two trials.
        verdict: One of `VERDICTS`.
        cause: In words, None for an identical pair.
        first: The first difference of any size, or None.
        onset: The first beyond rounding, of diverged pairs, else None.
        largest: Of the loss.
        audit: The candidate's worst audited step; None where there is none, and for pairs of devices.
        decision: How the audit decided; None likewise.
        device_audit: How the steps from shared states decided; of pairs of devices only, else None.
        steps: S.
        both_nan: The first step at which both losses are NaN, or None.
        comparison: Step by step.
    """

    pair: Pair
    verdict: str
    cause: str | None
    first: Difference | None
    onset: Onset | None
    largest: Largest
    audit: Audit | None
    decision: Decision | None
    device_audit: DeviceAudit | None
    steps: int
    both_nan: int | None
    comparison: Comparison


@dataclass(frozen=True)
class Judgement:
    """What was found of a run.

    Attributes:
        verdict: The worst of the pairs'; "inconclusive" where there are none.
        exit_status: 0, 1, 2 or 3 as DESIGN.md says.
        trouble: Why the exit status is 2, or None.
        pairs: In the order of `make_pairs`.
    """

    verdict: str
    exit_status: int
    trouble: str | None
    pairs: tuple[PairVerdict, ...]


def judge(run: StoredRun) -> Judgement:
    """Judges every pair of a stored run.

    Raises:
        Trouble: A trace is damaged.
    """
    pairs = make_pairs(run.trials)
    traces = {record.trial: Trace(record, run.traces[record.trial]) for record in run.trials}
    comparisons = [Comparison(traces[pair.baseline.trial], traces[pair.candidate.trial]) for pair in pairs]
    unsteady = {
        (pair.baseline.loss_name, pair.baseline.device, pair.baseline.seed)
        for pair, comparison in zip(pairs, comparisons, strict=True)
        if pair.axis == "replica" and comparison.first() is not None
    }
    verdicts = tuple(
        _judge_pair(
            pair,
            comparison,
            run.shared_steps,
            unsteady=(pair.baseline.loss_name, pair.baseline.device, pair.baseline.seed) in unsteady,
        )
        for pair, comparison in zip(pairs, comparisons, strict=True)
    )
    trouble = _failed_baseline(run.trials, pairs)
    worst = max((verdict.verdict for verdict in verdicts), key=VERDICTS.index, default="inconclusive")
    return Judgement(worst, 2 if trouble else _exit_status(worst), trouble, verdicts)


def differences_table(judgement: Judgement) -> pa.Table:
    """The content of differences.parquet: a row per pair and step, in the columns of `differences.SCHEMA`."""
    tables = [verdict.comparison.table(verdict.pair.axis) for verdict in judgement.pairs]
    return pa.concat_tables([differences.SCHEMA.empty_table(), *tables])


def _exit_status(worst: str) -> int:
    return {"failed": 1, "diverged": 1, "inconclusive": 3}.get(worst, 0)


def _failed_baseline(trials: tuple[TrialRecord, ...], pairs: tuple[Pair, ...]) -> str | None:
    """The failure of a trial that is nobody's candidate, so that nothing stands to be held against it."""
    candidates = {pair.candidate.trial for pair in pairs}
    for trial in trials:
        if trial.status == "failed" and trial.trial not in candidates:
            return f"The baseline failed: {failure(trial)}"
    return None


def failure(record: TrialRecord) -> str:
    """A failed trial in a sentence."""
    place = f" at step {record.failed_step}" if record.failed_step is not None else ""
    host = f" on {record.host}" if record.host else ""
    return f"Trial {record.trial} failed{place}{host}: {record.error}."


def _judge_pair(pair: Pair, comparison: Comparison, shared_steps: pa.Table, *, unsteady: bool) -> PairVerdict:
    audit = _LossAudit(comparison) if pair.axis in ("loss", "noise") and comparison.steps else None
    device_audit = audit_device(shared_steps, pair.candidate.trial) if pair.axis == "device" else None
    onset, why = (
        _onset(comparison, audit, device_audit) if pair.axis != "replica" and comparison.steps else (None, None)
    )
    verdict, cause = _decide(pair, comparison, audit, device_audit, why, unsteady=unsteady)
    return PairVerdict(
        pair=pair,
        verdict=verdict,
        cause=cause,
        first=comparison.first() if comparison.steps else None,
        onset=onset if verdict == "diverged" else None,
        largest=_largest(comparison),
        audit=audit.worst() if audit else None,
        decision=audit.decision() if audit else None,
        device_audit=device_audit,
        steps=comparison.steps,
        both_nan=_first_true(np.logical_and(*(np.isnan(side) for side in comparison.both("loss")))),
        comparison=comparison,
    )


def _decide(
    pair: Pair,
    comparison: Comparison,
    audit: "_LossAudit | None",
    device_audit: DeviceAudit | None,
    beyond: str | None,
    *,
    unsteady: bool,
) -> tuple[str, str | None]:
    """Verdict and cause. A decision that is local to a step goes before any doubt about the runs as a whole."""
    if pair.candidate.status == "failed":
        return "failed", failure(pair.candidate)
    if beyond is not None:
        return "diverged", beyond
    doubt = _doubt(pair, comparison, unsteady=unsteady)
    if doubt:
        return "inconclusive", doubt
    if comparison.first() is None:
        return "identical", None
    if pair.axis == "replica":
        return "inconclusive", "replicas disagree: this loss on this device is not deterministic"
    if pair.axis == "device":
        if device_audit is None:
            why_not = pair.candidate.shared_error or "it took no step from the baseline's states"
            return "inconclusive", f"not decided locally: {why_not}"
        return "rounding", "each step from a shared state is as near to float64 as rounding allows"
    parting = comparison.first(among=TRAINED)
    if parting is None:
        beyond = audit.loss_beyond() if audit else None
        far = f", by more than any order of summation can do ({beyond})" if beyond else ""
        return "report-only", f"only the reported number differs{far}; the gradient and all after it are equal"
    if parting.quantity != "output_grad":
        return (
            "inconclusive",
            f"the {parting.quantity} parts at step {parting.step} while the gradient before it is equal: not the loss",
        )
    if audit is None or not audit.audited.any():
        reason = pair.candidate.audit_error or pair.baseline.audit_error
        return "inconclusive", f"no audit: {reason}" if reason else "no audit: --audit-every 0"
    if pair.axis == "noise":
        return "rounding", "the baseline's own gradient, randomly rounded by 1 ulp at each step"
    return "rounding", "the gradient is as near to float64 as rounding allows"


def _doubt(pair: Pair, comparison: Comparison, *, unsteady: bool) -> str | None:
    """Why there is nothing to hold the pair against, or None."""
    if pair.baseline.status == "failed":
        return f"the baseline failed: {failure(pair.baseline)}"
    for record in (pair.baseline, pair.candidate):
        if record.status != "complete":
            return f"{record.trial} was interrupted: {comparison.steps} of {record.steps} steps can be compared"
    inputs = _first_true(comparison.differs["input"])
    if inputs is not None:
        return f"the inputs differ from step {inputs}: other data"
    if pair.axis != "replica" and unsteady:
        return "the baseline's replicas disagree"
    return None


class _LossAudit:
    """The candidate's audit errors beside the baseline's own, over the common steps."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._baseline_grad, self.grad = comparison.both("grad_error_u")
        self._baseline_loss, self.loss = comparison.both("loss_error_u")
        self._ratio = comparison.both("grad_ratio")[1]
        elements = comparison.both("elements")[1]
        self.grad_line = GRAD_LINE * np.fmax(LEAST_ERROR_U, self._baseline_grad)
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

    def explain(self, onset: Onset) -> str:
        """Why the onset is beyond rounding."""
        step = onset.step
        if onset.quantity == "loss":
            return (
                f"the loss is off by {self.loss[step]:.3g} u, and {self.loss_line[step]:.3g} u is what an order of "
                f"summation can do; the gradient is off by {self.grad[step]:.3g} u"
            )
        return (
            f"output_grad is {self._ratio[step]:.6g} times the float64 one, off by {self.grad[step]:.3g} u "
            f"(the baseline's own by {self._baseline_grad[step]:.3g} u, the line is {self.grad_line[step]:.3g} u)"
        )


def _onset(
    comparison: Comparison, audit: _LossAudit | None, device_audit: DeviceAudit | None
) -> tuple[Onset, str] | tuple[None, None]:
    """The first step and quantity that is beyond rounding, or NaN on one side only, and why; Nones if there is none."""
    found = [_one_sided_nan(comparison)]
    if audit:
        found.append(_audit_onset(comparison, audit))
    if device_audit:
        found.append(_device_onset(comparison, device_audit))
    # Of the same step a NaN goes first, since what follows from it is beyond rounding too.
    return min((each for each in found if each), key=lambda each: each[0].step, default=(None, None))


def _one_sided_nan(comparison: Comparison) -> tuple[Onset, str] | None:
    inputs = _first_true(comparison.differs["input"])
    comparable = np.arange(comparison.steps) < (comparison.steps if inputs is None else inputs)
    quantities = ("loss", *NORMED_QUANTITIES)
    sides = {name: np.not_equal(*(np.isnan(side) for side in comparison.both(_number(name)))) for name in quantities}
    step = _first_true(np.logical_or.reduce(list(sides.values())) & comparable)
    if step is None:
        return None
    quantity = next(name for name in quantities if sides[name][step])
    return _at(comparison, step, quantity), f"{quantity} is NaN in the {_nan_sides(comparison, quantity, step)} only"


def _audit_onset(comparison: Comparison, audit: _LossAudit) -> tuple[Onset, str] | None:
    beyond = audit.beyond()
    if comparison.first(among=TRAINED) is None:
        beyond["loss"] &= False  # report-only, however far off the number is
    step = _first_true(np.logical_or.reduce(list(beyond.values())))
    if step is None:
        return None
    # A wrong gradient is the graver of the two, and the loss's looser bound may trip over the same step.
    onset = _at(comparison, step, "output_grad" if beyond["output_grad"][step] else "loss")
    return onset, audit.explain(onset)


def _device_onset(comparison: Comparison, audit: DeviceAudit) -> tuple[Onset, str] | None:
    if audit.first is not None and audit.first.step < comparison.steps:
        return _at(comparison, audit.first.step, audit.first.quantity, audit.first.tensor), audit.first.explain()
    first = comparison.first()
    if audit.unrepeated is not None and first is not None:
        why = "taken again from the same state, the step came to other bits: the device does not repeat itself"
        return _at(comparison, first.step, first.quantity, first.tensor), why
    return None


def _at(comparison: Comparison, step: int, quantity: str, tensor: str | None = None) -> Onset:
    epoch, batch = (int(comparison.both(name)[1][step]) for name in ("epoch", "batch"))
    return Onset(step, epoch, batch, quantity, tensor)


def _nan_sides(comparison: Comparison, quantity: str, step: int) -> str | None:
    """The only side on which the quantity's number is NaN: "baseline", "candidate" or None."""
    nan = [bool(np.isnan(side[step])) for side in comparison.both(_number(quantity))]
    return None if nan[0] == nan[1] else ("baseline", "candidate")[nan[1]]


def _number(quantity: str) -> str:
    return "loss" if quantity == "loss" else f"{quantity}_norm"


def _largest(comparison: Comparison) -> Largest:
    if not comparison.steps:
        return Largest(None, 0.0, 0.0, 0)
    sizes = np.where(np.isnan(comparison.loss_rel), -1.0, comparison.loss_rel)
    step = int(np.argmax(sizes))
    ulp = int(comparison.loss_ulp[step])
    return Largest(step, float(comparison.loss_abs[step]), float(comparison.loss_rel[step]), ulp if ulp >= 0 else None)


def _largest_known(values: np.ndarray) -> float:
    return float(np.nanmax(values)) if not np.isnan(values).all() else float("nan")


def _first_true(flags: np.ndarray) -> int | None:
    return int(np.argmax(flags)) if flags.any() else None
