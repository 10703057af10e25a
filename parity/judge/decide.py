"""The decision on one pair: from the evidence to a verdict and its cause."""

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.evidence import PairEvidence
from parity.judge.one_oracle import one_oracle
from parity.judge.onset import TRAINED
from parity.judge.pairs import Between
from parity.judge.parting import COMPUTED
from parity.judge.verdict import VerdictWord
from parity.store.tables import CHECKED
from parity.store.trials import TrialRecord


def describe_failure(record: TrialRecord) -> str:
    """What failed, where, and why, in one sentence."""
    place = f" at step {record.failed_step}" if record.failed_step is not None else ""
    host = f" on {record.host}" if record.host else ""
    return f"Trial {record.trial} failed{place}{host}: {record.error}."


def decide(evidence: PairEvidence) -> tuple[VerdictWord, str | None]:
    """The verdict on a pair and its cause; the cause is None for an identical pair."""
    verdict, cause = _decide(evidence)
    # The loss is not to blame for what it does on a node alone that has other code than the others.
    if evidence.pair.axis == "loss" and evidence.deviation and verdict in ("failed", "diverged"):
        return "inconclusive", evidence.deviation
    return verdict, cause


def _decide(evidence: PairEvidence) -> tuple[VerdictWord, str | None]:
    """The verdict and its cause, whatever code the other nodes have.

    What a single step decides takes precedence over any doubt about the runs as a whole.
    """
    pair, comparison = evidence.pair, evidence.comparison
    # The machine was lost; that says nothing about the candidate.
    if pair.candidate.status == "failed" and pair.candidate.failure == "node":
        return "inconclusive", describe_failure(pair.candidate)
    # Equal bits of unequal code would be chance.
    if evidence.code:
        return "inconclusive", evidence.code
    if pair.candidate.status == "failed" and not evidence.all_stopped:
        return "failed", describe_failure(pair.candidate)
    # Nothing of the tensors was compared.
    if comparison.unlike:
        return "inconclusive", comparison.unlike
    # Compared with the steps of a broken device, healthy ones would look wrong. Devices of one class are compared bit
    # for bit and do not need these steps.
    if evidence.odd_source and not evidence.equals:
        return "inconclusive", "not decided locally: the shared states came from a device that is odd in its class"
    # A step beyond rounding stays one, even if the run was interrupted later or its replicas disagree. The reasons may
    # repeat each other, so each is given once.
    if evidence.beyond is not None:
        reasons = [*(cause.text for cause in evidence.causes), evidence.beyond, *other_oracles(evidence)]
        return "diverged", "; ".join(dict.fromkeys(reasons))
    # After the training itself: a wrong step there says more than a violation on the few rows of the contract.
    if evidence.broken:
        return "failed", "; ".join(cause.text for cause in evidence.causes)
    doubt = _doubt(evidence)
    if doubt:
        return "inconclusive", doubt
    # Pairs of replicas are decided below: they are what shows the disagreement.
    if evidence.unsteady == "baseline" and (pair.axis in ("loss", "device") or pair.between):
        return _decide_unsteady(evidence)
    if comparison.first() is None:
        return _decide_equal(evidence)
    # Not by `parting`, which is None also where the audit has decided about it.
    if comparison.first_index(among=TRAINED) and not comparison.first_index(among=COMPUTED):
        return _decide_other_state(comparison)
    if pair.axis != "replica" and (missing := _missing_evidence(evidence)):
        return "inconclusive", missing
    if pair.between:
        return _decide_between(evidence, pair.between)
    if pair.axis == "replica":
        return "inconclusive", "replicas disagree: this loss on this device is not deterministic"
    if pair.axis == "device":
        # Devices may differ from the first output on, so only steps from a shared state are evidence.
        if evidence.device_audit is None:
            why_not = pair.candidate.shared_error or "it took no step from the baseline's states"
            return "inconclusive", f"not decided locally: {why_not}"
        return "rounding", "each step from a shared state is as near to float64 as rounding allows"
    return _decide_loss(evidence)


def _decide_unsteady(evidence: PairEvidence) -> tuple[VerdictWord, str]:
    """The verdict where the baseline's replicas disagree, and no step of the candidate is beyond rounding."""
    noise = "the baseline's replicas disagree"
    if evidence.spread is None:
        return "inconclusive", noise
    # Single steps that were checked and are right outweigh a test of whole curves, in which rounding has grown.
    local = evidence.device_audit is not None or evidence.audit is not None
    if evidence.spread.rejected and not local:
        return "diverged", f"{noise}, and the candidate's are spread differently: {evidence.spread.explain()}"
    return "inconclusive", f"{noise}: {evidence.spread.explain()}"


def _decide_between(evidence: PairEvidence, between: Between) -> tuple[VerdictWord, str]:
    """The verdict on a pair of two runs that differ, but nowhere beyond rounding."""
    first = evidence.comparison.first(among=COMPUTED)
    if first is None:
        return _decide_loss(evidence)
    parting = evidence.parting
    # The audit decides about output gradients, but not about the factors of losses whose gradients are accumulated.
    audited = parting and parting.quantity == "output_grad" and not evidence.comparison.state.accumulated[parting.index]
    if parting and parting.finding == "within" and not audited:
        return "rounding", parting.explain()
    # Beside a baseline that is not its oracle, steps that were checked against that oracle are evidence of nothing.
    if evidence.audit and evidence.audit.off_oracle:
        return _decide_loss(evidence)
    if evidence.device_audit:
        unseen = [
            quantity for quantity in CHECKED if quantity in TRAINED and quantity not in evidence.device_audit.quantities
        ]
        if not unseen:
            # Steps that were repeated in float64 say nothing about a step that was not.
            step = evidence.comparison.first_step + parting.index if parting else None
            if parting and parting.finding == "unknown" and step not in evidence.device_audit.steps:
                return (
                    "inconclusive",
                    f"at step {step}, which the runs did not repeat in float64, {parting.explain_distance()}",
                )
            return "rounding", "the steps that both runs checked against float64 are as near to it as rounding allows"
        if not between.same_machine:
            return "inconclusive", (
                "the steps that both checked against float64 are as near to it as rounding allows, "
                f"but {' and '.join(unseen)} could not be checked against it"
            )
    # On one machine with equal software, only code or settings can make a difference. The audit then decides about the
    # loss, but it sees nothing of what comes before the output.
    if not between.same_machine or first.quantity == "output":
        why_not = (
            between.apart or f"the {first.quantity} first differs at step {first.step}, and the reason is not known"
        )
        return "inconclusive", f"not decided locally: {why_not}"
    sides = (evidence.pair.baseline, evidence.pair.candidate)
    unaudited = [f"{record.run}: {record.audit_error}" for record in sides if record.audit_error]
    # Each run was audited against its own oracle, so both audits are needed, and the oracles must agree.
    if first.quantity == "output_grad" and unaudited:
        return "inconclusive", f"no audit; {'; '.join(unaudited)}"
    index = evidence.comparison.index_of(first.step)
    if first.quantity == "output_grad" and not one_oracle(evidence.comparison)[index]:
        oracles = " and ".join(record.oracle for record in sides)
        return "inconclusive", f"they are audited against different losses: {oracles}"
    return _decide_loss(evidence)


def other_oracles(evidence: PairEvidence) -> list[str]:
    """That two runs part at an output gradient and were each audited against a loss of another name, if they did."""
    oracles = [record.oracle for record in (evidence.pair.baseline, evidence.pair.candidate)]
    parts_there = evidence.onset is not None and evidence.onset.quantity == "output_grad"
    if not evidence.pair.between or not parts_there or not all(oracles) or oracles[0] == oracles[1]:
        return []
    return [f"they are audited against different losses: {' and '.join(oracles)}"]


def _decide_loss(evidence: PairEvidence) -> tuple[VerdictWord, str]:
    """The verdict on a loss, or on a noise trial, that differs, but nowhere beyond rounding."""
    audit = evidence.audit
    first = evidence.comparison.first(among=COMPUTED)
    if first is None:
        # However far off the number is: it reaches no parameter.
        beyond = audit.explain_loss() if audit else None
        far = f", by more than any order of summation can explain ({beyond})" if beyond else ""
        return "report-only", f"only the reported number differs{far}; the gradient and everything after it are equal"
    if audit and audit.off_oracle:
        return "inconclusive", f"the audit decides nothing: {audit.off_oracle}"
    # The output gradients are equal in value. A backward pass that gets them in another layout may sum in another
    # order.
    if first.quantity == "param_grad" and _laid_out_otherwise(
        evidence.comparison, evidence.comparison.index_of(first.step)
    ):
        return "rounding", "the gradient has equal values in another memory layout, which are summed in another order"
    # A loss acts on the training through its output gradient only; whatever differs before or after has another cause.
    if first.quantity not in ("output_grad", "target_grad"):
        return (
            "inconclusive",
            f"the {first.quantity} first differs at step {first.step}, while the gradient before it is equal: "
            "the loss is not the cause",
        )
    if audit is None:
        # Without a stored reason, the audit was switched off.
        reason = evidence.pair.candidate.audit_error or evidence.pair.baseline.audit_error
        return "inconclusive", f"no audit: {reason}" if reason else "no audit: --audit-every 0"
    if evidence.pair.axis == "noise":
        return "rounding", "the baseline's own gradient, randomly rounded by 1 ulp at each step"
    if audit.excused.any():
        return "rounding", (
            "the gradients differ in a direction that the model takes away: what its backward makes of the difference "
            "is rounding"
        )
    return "rounding", "the gradient is as near to float64 as rounding allows"


def _laid_out_otherwise(comparison: Comparison, step: int) -> bool:
    """Whether the output gradients of a step lie differently in memory."""
    baseline, candidate = comparison.both("output_grad_strided")
    return bool(baseline[step] != candidate[step])


def _doubt(evidence: PairEvidence) -> str | None:
    """Why the pair cannot be compared as a whole, or None."""
    pair, comparison = evidence.pair, evidence.comparison
    # From the most general doubt to the most specific one; each makes those after it pointless.
    if evidence.all_stopped:
        return (
            f"every trial of the run was stopped in the same way ({pair.candidate.error}), which is not the fault of a "
            "loss or a device: raise --step-timeout"
        )
    if pair.baseline.status == "failed":
        return f"the baseline failed: {describe_failure(pair.baseline)}"
    for record in (pair.baseline, pair.candidate):
        if record.status != "complete":
            # The other trial may be the one that is shorter.
            of = f" of {record.steps}" if record.steps != comparison.steps else ""
            # A recording that switched itself off says why.
            why = f" ({record.error.rstrip('.')})" if record.error else ""
            return f"{record.trial} was interrupted{why}: {comparison.steps}{of} steps can be compared"
        if record.unobserved:
            return (
                f"{record.unobserved} joined the model or its optimizers after the recording of {record.trial} began, "
                "or was replaced, and is not observed"
            )
    return _other_steps(evidence)


def _other_steps(evidence: PairEvidence) -> str | None:
    """Why a side has steps that the other one lacks, or None."""
    comparison = evidence.comparison
    sides = (comparison.baseline, comparison.candidate)
    if not comparison.steps:
        return "the two have no step in common, so nothing can be compared"
    # A recording that continues another one has only the later steps, and says so.
    ends = [side.first_step + side.steps for side in sides]
    if ends[0] != ends[1]:
        return (
            f"{sides[0].record.trial} ends after step {ends[0] - 1} and {sides[1].record.trial} after step "
            f"{ends[1] - 1}: only {comparison.steps} steps can be compared"
        )
    return None


def _decide_equal(evidence: PairEvidence) -> tuple[VerdictWord, str | None]:
    """The verdict on a pair without any difference in what is compared."""
    # Equal bits may be chance here: the next repeat need not have them.
    if evidence.unsteady:
        return "inconclusive", f"no difference here, but the {evidence.unsteady}'s replicas disagree"
    comparison = evidence.comparison
    lacking = comparison.lacking
    between = evidence.pair.between
    if comparison.own and between and not between.peers and not lacking:
        if not between.own:
            return "rounding", (
                "the gradients that the optimizers received, and all that is computed from them, are equal to the bit; "
                "one side recorded the gradient of backward before changing it (by clipping, for example), the other "
                "side afterwards"
            )
        return "rounding", (
            "every gradient and parameter is equal to the bit at each step; inputs, outputs and losses are those of "
            "each rank"
        )
    if set(lacking) <= {"state", "step_grad"}:
        # The update of each step shows what the optimizers made of their states, whatever they keep in them.
        if lacking or not comparison.state.comparable:
            what = "was not recorded" if lacking else "is kept in different forms"
            return "rounding", f"every tensor is equal to the bit at each step; the state of the optimizer {what}"
        return "identical", None
    return "inconclusive", (
        f"what both have stored is equal to the bit, but {' and '.join(lacking)} cannot be compared: an earlier "
        "version of parity did not store it in the same way"
    )


def _decide_other_state(comparison: Comparison) -> tuple[VerdictWord, str]:
    """The verdict on a pair that differs in nothing but the states from which the steps are taken."""
    state = comparison.state
    drawn = [name for name, differs in state.generators.items() if differs.any()]
    if drawn:
        return "inconclusive", (
            f"every tensor is equal to the bit, but the random generator of {' and '.join(drawn)} is not in the same "
            "state: whatever draws from it next will differ"
        )
    if state.named.any():
        named = "; ".join(each.explain() for each in state.at(int(np.argmax(state.named))))
        return "rounding", f"the states differ ({named}), and no bit of the training does"
    if not state.decides.any():
        return "rounding", "the loss scales differ, and no bit of the training does"
    return "rounding", "the optimizers' states differ, and no bit of the training does"


def _missing_evidence(evidence: PairEvidence) -> str | None:
    """Why a difference that was found is neither explained nor wrong for certain, or None."""
    inputs = evidence.comparison.differs_in("input")
    # A target that the model computes differs as its output does.
    if inputs.any() and not evidence.comparison.differs_in("output")[np.argmax(inputs)]:
        number = evidence.comparison.first_step + int(np.argmax(inputs))
        return f"the inputs differ from step {number} on: the data is not the same"
    if evidence.unequal is not None:
        number = evidence.comparison.first_step + evidence.unequal.index
        reasons = [record.audit_error for record in (evidence.pair.candidate, evidence.pair.baseline)]
        reason = next((f"no audit: {reason}" for reason in reasons if reason), "audit each step, with --audit-every 1")
        return f"step {number} was not audited: {evidence.unequal.explain()}; {reason}"
    if evidence.jump is not None:
        number = evidence.comparison.first_step + evidence.jump.index
        if evidence.jump.quantity == "param":
            return f"at step {number} {evidence.jump.explain()}; record both from their first step"
        if evidence.jump.named or evidence.jump.quantity == "state":
            return f"at step {number} {evidence.jump.explain()}; what follows is not beyond rounding"
        return f"at step {number} {evidence.jump.explain()}, and no step there was checked against float64"
    return None
