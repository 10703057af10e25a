"""The decision on one pair: from what was found of it to a verdict and its cause."""

from dataclasses import dataclass

from parity.judge.causes import Cause
from parity.judge.decide_device import DeviceAudit
from parity.judge.decide_loss import LossAudit
from parity.judge.differences import Comparison
from parity.judge.fleet import DeviceClass
from parity.judge.onset import TRAINED, first_true
from parity.judge.pairs import Between, Pair
from parity.judge.permutation_test import SpreadTest
from parity.judge.verdict import Onset
from parity.plan import lines
from parity.store.trials import TrialRecord


def failure(record: TrialRecord) -> str:
    """A failed trial in a sentence."""
    place = f" at step {record.failed_step}" if record.failed_step is not None else ""
    host = f" on {record.host}" if record.host else ""
    return f"Trial {record.trial} failed{place}{host}: {record.error}."


@dataclass(frozen=True)
class Case:
    """A pair on its way to a verdict.

    Attributes:
        onset: The first step and quantity beyond rounding, or None.
        beyond: Why that is no rounding, or None.
        causes: What explains it.
        broken: Whether the candidate's loss broke its contract.
        unsteady: "baseline" or "candidate", whose replicas disagree, or None.
        spread: Whether the two are spread alike; None where neither is unsteady.
        equals: The class of which both devices are, so that they owe each other equal bits, or None.
        odd_source: Whether the steps of the device audit came from a device that is odd in its class.
    """

    pair: Pair
    comparison: Comparison
    audit: LossAudit | None
    device_audit: DeviceAudit | None
    onset: Onset | None
    beyond: str | None
    causes: tuple[Cause, ...]
    broken: bool
    unsteady: str | None
    spread: SpreadTest | None
    equals: DeviceClass | None
    odd_source: bool


def decide(case: Case) -> tuple[str, str | None]:
    """Verdict and cause. A decision that is local to a step goes before any doubt about the runs as a whole."""
    pair, comparison = case.pair, case.comparison
    told = "; ".join(cause.text for cause in case.causes)
    if pair.candidate.status == "failed" and pair.candidate.failure == "node":
        return "inconclusive", failure(pair.candidate)
    if pair.candidate.status == "failed":
        return "failed", failure(pair.candidate)
    if case.odd_source and not case.equals:
        return "inconclusive", "not decided locally: the steps to take came from a device that is odd in its class"
    if case.beyond is not None:
        return "diverged", "; ".join(dict.fromkeys([*(cause.text for cause in case.causes), case.beyond]))
    if case.broken:
        return "failed", told
    doubt = _doubt(case)
    if doubt:
        return "inconclusive", doubt
    if case.unsteady == "baseline" and (pair.axis in ("loss", "device") or pair.between):
        return _decide_unsteady(case)
    if comparison.first() is None:
        if case.unsteady:
            return "inconclusive", f"no difference here, but the {case.unsteady}'s replicas disagree"
        return "identical", None
    if pair.between:
        return _decide_between(case, pair.between)
    if pair.axis == "replica":
        return "inconclusive", "replicas disagree: this loss on this device is not deterministic"
    if pair.axis == "device":
        if case.device_audit is None:
            why_not = pair.candidate.shared_error or "it took no step from the baseline's states"
            return "inconclusive", f"not decided locally: {why_not}"
        return "rounding", "each step from a shared state is as near to float64 as rounding allows"
    return _decide_loss(case)


def _decide_unsteady(case: Case) -> tuple[str, str]:
    """Of a baseline whose replicas disagree, and a candidate that is nowhere beyond rounding and that noise."""
    told = "the baseline's replicas disagree"
    if case.spread is None:
        return "inconclusive", told
    local = case.device_audit is not None or case.audit is not None
    if case.spread.rejected and not local:
        return "diverged", f"{told}, and the candidate's are not spread like them: {case.spread.explain()}"
    return "inconclusive", f"{told}: {case.spread.explain()}"


def _decide_between(case: Case, between: Between) -> tuple[str, str]:
    """Of two runs that differ, and are nowhere beyond rounding."""
    parting = case.comparison.first(among=TRAINED)
    if parting is None:
        return _decide_loss(case)
    if case.device_audit:
        unseen = [quantity for quantity in TRAINED[1:] if quantity not in case.device_audit.quantities]
        if not unseen:
            return "rounding", "the steps that both runs held against float64 are as near to it as rounding allows"
        if not between.same_machine:
            return "inconclusive", (
                "the steps that both held against float64 are as near to it as rounding allows, "
                f"but {' and '.join(unseen)} could not be held against it"
            )
    if not between.same_machine or parting.quantity == "output":
        why_not = between.apart or f"the {parting.quantity} parts at step {parting.step}, and what differs is not known"
        return "inconclusive", f"not decided locally: {why_not}"
    sides = (case.pair.baseline, case.pair.candidate)
    unaudited = [f"{record.run}: {record.audit_error}" for record in sides if record.audit_error]
    if parting.quantity == "output_grad" and unaudited:
        return "inconclusive", f"no audit; {'; '.join(unaudited)}"
    if parting.quantity == "output_grad" and not _one_oracle(case.comparison, parting.step):
        oracles = " and ".join(record.oracle for record in sides)
        return "inconclusive", f"they are held against different losses: {oracles}"
    return _decide_loss(case)


def _one_oracle(comparison: Comparison, step: int) -> bool:
    """Whether the losses of a step with equal outputs are so near that both can be right for the same float64 loss."""
    loss, error_u, norm, grad_error_u = (
        [float(side[step]) for side in comparison.both(name)]
        for name in ("loss", "loss_error_u", "output_grad_norm", "grad_error_u")
    )
    dtype = comparison.baseline.record.loss_dtype
    unit = 2.0 ** -{"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}.get(dtype or "", 24)
    return all(
        abs(left - right) <= (sum(errors_u) + lines.NORM_ERROR.value) * unit * max(abs(left), abs(right))
        for (left, right), errors_u in ((loss, error_u), (norm, grad_error_u))
    )


def _decide_loss(case: Case) -> tuple[str, str]:
    """Of a loss (or of noise) that differs, and is nowhere beyond rounding."""
    audit = case.audit
    parting = case.comparison.first(among=TRAINED)
    if parting is None:
        beyond = audit.explain_loss() if audit else None
        far = f", by more than any order of summation can do ({beyond})" if beyond else ""
        return "report-only", f"only the reported number differs{far}; the gradient and all after it are equal"
    if parting.quantity == "param_grad" and _laid_out_otherwise(case.comparison, parting.step):
        return "rounding", "the gradient has equal values in another memory layout, which are summed in another order"
    if parting.quantity != "output_grad":
        return (
            "inconclusive",
            f"the {parting.quantity} parts at step {parting.step} while the gradient before it is equal: not the loss",
        )
    if audit is None:
        reason = case.pair.candidate.audit_error or case.pair.baseline.audit_error
        return "inconclusive", f"no audit: {reason}" if reason else "no audit: --audit-every 0"
    if case.pair.axis == "noise":
        return "rounding", "the baseline's own gradient, randomly rounded by 1 ulp at each step"
    return "rounding", "the gradient is as near to float64 as rounding allows"


def _laid_out_otherwise(comparison: Comparison, step: int) -> bool:
    baseline, candidate = comparison.both("output_grad_strided")
    return bool(baseline[step] != candidate[step])


def _doubt(case: Case) -> str | None:
    """Why there is nothing to hold the pair against, or None."""
    pair, comparison = case.pair, case.comparison
    if pair.baseline.status == "failed":
        return f"the baseline failed: {failure(pair.baseline)}"
    for record in (pair.baseline, pair.candidate):
        if record.status != "complete":
            of = f" of {record.steps}" if record.steps != comparison.steps else ""
            return f"{record.trial} was interrupted: {comparison.steps}{of} steps can be compared"
    inputs = first_true(comparison.differs["input"])
    if inputs is not None:
        return f"the inputs differ from step {inputs}: other data"
    return None
