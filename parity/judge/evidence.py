"""The evidence on a pair: everything that is known of it before its verdict, gathered from what is stored.

A function of the stored run alone; needs neither torch nor Ray.

Letters: S steps that both traces have.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow.compute as pc

from parity.judge.causes import Cause, make_cause
from parity.judge.decide_device import DeviceAudit, audit_device
from parity.judge.decide_loss import LossAudit, audit_loss
from parity.judge.differences import Comparison
from parity.judge.drifted_starts import find_drifted_start
from parity.judge.find_causes import LossEvidence, contract_of, find_causes, findings_of
from parity.judge.fleet import DeviceClass, Fleet
from parity.judge.jumps import Jump, find_jump
from parity.judge.one_oracle import one_oracle
from parity.judge.onset import (
    find_onset,
    find_onset_between,
    find_onset_of_ranks,
    find_other_function,
    find_unequal_onset,
    one_sided_nan,
)
from parity.judge.other_state import find_other_state
from parity.judge.pairs import Between, Pair, Role
from parity.judge.parting import COMPUTED, Parting, find_parting, find_unequal_gradient, parting_line
from parity.judge.patterns import describe_pattern
from parity.judge.replicas import Replicas, group_of
from parity.judge.same_function import distance_in_float64
from parity.judge.sides import errors_by_place
from parity.judge.spread import SpreadTest
from parity.judge.stopped import all_stopped
from parity.judge.verdict import Onset
from parity.store.stored_run import StoredRun
from parity.store.trials import TrialRecord


@dataclass(frozen=True)
class PairEvidence:
    """What is known of a pair before its verdict.

    Attributes:
        pair: The two trials.
        comparison: Their traces, side by side.
        audit: The audit of their losses, or None.
        shared: The audit of the candidate's steps from shared states, or None.
        device_audit: The same where it decides: equal devices owe equal bits instead.
        onset: The first step and quantity beyond rounding, or None.
        beyond: Why rounding cannot explain the onset, or None.
        causes: What explains the onset.
        parting: Where the two part, or None.
        unequal: A step with equal outputs and unequal gradients that no audit has decided about, or None.
        jump: A step at which they are further apart than rounding grows, or None.
        broken: Whether the candidate's loss broke its contract.
        unsteady: The side whose replicas disagree, the baseline first; None where neither side's do.
        spread: Whether the replicas of both sides are spread alike; None where neither side is unsteady.
        equals: The class that both devices belong to, so that they must produce equal bits, or None.
        odd_source: Whether the shared states came from a device that is odd in its class.
        code: That the code of the two differs, in words that name files and nodes, or None.
        deviation: That the code of either differs from that of most nodes for its loss, in the same words, or None.
        all_stopped: Whether the limit on the time of a step ended every trial of the candidate's run.
    """

    pair: Pair
    comparison: Comparison
    audit: LossAudit | None
    shared: DeviceAudit | None
    device_audit: DeviceAudit | None
    onset: Onset | None
    beyond: str | None
    causes: tuple[Cause, ...]
    parting: Parting | None
    unequal: Parting | None
    jump: Jump | None
    broken: bool
    unsteady: Role | None
    spread: SpreadTest | None
    equals: DeviceClass | None
    odd_source: bool
    code: str | None
    deviation: str | None
    all_stopped: bool


def gather(run: StoredRun, pair: Pair, comparison: Comparison, replicas: Replicas, fleet: Fleet) -> PairEvidence:
    """Gathers what is known of a pair.

    Args:
        run: The stored run.
        pair: The two trials.
        comparison: Their traces, side by side.
        replicas: Which replicas of the run disagree.
        fleet: The devices of the run.

    Raises:
        Trouble: A trace is damaged.
    """
    # The baseline first: its replicas are the noise floor that everything is compared with.
    groups = [group_of(record) for record in (pair.baseline, pair.candidate)]
    roles: tuple[Role, Role] = ("baseline", "candidate")
    unsteady = next((role for role, group in zip(roles, groups, strict=True) if group in replicas.unsteady), None)
    # Pairs of replicas and of noise trials show a spread themselves, and are not tested for another one.
    spread = replicas.compare(*groups) if unsteady and (pair.axis in ("loss", "device") or pair.between) else None
    # Devices may differ from the first output on, so their pairs are decided by steps from shared states instead.
    audited = (pair.axis in ("loss", "noise") or pair.between) and comparison.steps
    audit = audit_loss(comparison, steady=unsteady != "baseline") if audited else None
    equals = fleet.of(pair.candidate) if fleet.alike(pair.baseline, pair.candidate) else None
    shared = None
    if pair.axis == "device" or pair.between:
        shared = audit_device(
            run.evidence["shared_steps"], pair.candidate.trial, record=pair.candidate, own=comparison.own
        )
    # Equal devices owe equal bits, so nearness to float64 does not excuse a difference. The errors are still shown.
    device_audit = shared if not equals else None
    parting, unequal, jump = None, None, None
    if pair.axis != "replica" and comparison.steps:
        parting, unequal, jump = _find_evidence(run, pair, comparison, audit)
    onset, beyond = None, None
    if equals and comparison.steps:
        onset, beyond = find_unequal_onset(comparison, equals, pair)
    # Replicas have no onset: whatever their difference is, it shows that they are not deterministic, which `decide`
    # says.
    elif pair.axis != "replica" and comparison.steps:
        onset, beyond = find_onset(comparison, audit, device_audit, evidence=(parting, unequal, jump))
        if pair.between:
            onset, beyond = _onset_of_runs(comparison, pair.between, onset, beyond, steady=unsteady is None)
            onset, beyond = find_onset_of_ranks(comparison, pair.between, onset, beyond)
    contract = _beside_model(_contract(run, pair), audit)
    broken = any(status == "failed" for status, _ in contract.values())
    causes = _causes(run, pair, comparison, audit, device_audit, onset, contract=contract)
    if onset and (pattern := describe_pattern(comparison, comparison.index_of(onset.step), onset.quantity)):
        causes = (*causes, make_cause("pattern", detail=pattern))
    source = _source_of_shared_steps(run, pair)
    odd_source = source is not None and fleet.odd(source)
    return PairEvidence(
        pair=pair,
        comparison=comparison,
        audit=audit,
        shared=shared,
        device_audit=device_audit,
        onset=onset,
        beyond=beyond,
        causes=causes,
        parting=parting,
        unequal=unequal,
        jump=jump,
        broken=broken,
        unsteady=unsteady,
        spread=spread,
        equals=equals,
        odd_source=odd_source,
        code=fleet.code.difference(pair.baseline, pair.candidate),
        deviation=fleet.code.deviation(pair.candidate) or fleet.code.deviation(pair.baseline),
        all_stopped=all_stopped(run.trials, pair.candidate.run),
    )


def _onset_of_runs(
    comparison: Comparison, between: Between, onset: Onset | None, beyond: str | None, *, steady: bool
) -> tuple[Onset | None, str | None]:
    """The onset of two runs, from that of their single steps and from what is known of the runs.

    Raises:
        Trouble: A trace is damaged.
    """
    # Functions are compared at the first step, so nothing is earlier; but a setting by name says more.
    if onset is None or onset.step > comparison.first_step:
        other, why = find_other_function(comparison, between)
        onset, beyond = (other, why) if other else (onset, beyond)
    # Evidence from single steps takes precedence over what the runs have in common.
    return (onset, beyond) if onset else find_onset_between(comparison, between, steady=steady)


def _find_evidence(
    run: StoredRun, pair: Pair, comparison: Comparison, audit: LossAudit | None
) -> tuple[Parting | None, Parting | None, Jump | None]:
    """Where the two part, where equal outputs have unequal gradients, and where they jump apart.

    Raises:
        Trouble: A trace is damaged.
    """
    # An audit against something other than the baseline has decided nothing.
    decides = audit is not None and audit.off_oracle is None
    audited = audit.audited if audit and decides else np.zeros(comparison.steps, bool)
    if pair.between:
        # Each run is audited against its own criterion: both may be right, and not the same.
        audited = audited & one_oracle(comparison)
    parting = find_parting(comparison, partial(_in_float64, run, pair, comparison) if pair.between else None)
    # The audit says more of a gradient than its distance from the baseline's does.
    # But not of the factors by which losses are multiplied under accumulation, of which its oracle knows nothing.
    audited = audited & ~comparison.state.accumulated
    judged = parting is not None and parting.quantity == "output_grad" and audited[parting.index]
    # "update" and "state" are looked at by `find_parting` as what they make of the parameters.
    parted = comparison.first_index(among=COMPUTED)
    jump = find_jump(comparison, after=parted[0], parted=parted[1]) if parted else None
    if pair.between and parted and not (jump and jump.index == 0 and jump.named):
        other = find_other_state(comparison)
        # What is certain says more than what is not.
        jump = other if other and (other.certain or not (jump and jump.certain)) else jump
    line, zero = (parting_line(quantity, comparison.unit) for quantity in ("output", "param_grad"))
    if drifted := find_drifted_start(comparison, line=line, zero=zero):
        # What the first common step makes of it says nothing; a setting that differs there does, and a later jump.
        later = jump and jump.certain and (jump.index or jump.named)
        jump = jump if later else Jump(0, "param", drifted.tensor, drifted.distance, np.nan, certain=False)
    return None if judged else parting, find_unequal_gradient(comparison, audited=audited), jump


def _in_float64(run: StoredRun, pair: Pair, comparison: Comparison, index: int, quantity: str) -> float:
    """How far the two runs of a pair are apart in a step that both took in float64: see `distance_in_float64`."""
    step = comparison.first_step + index
    table = run.evidence["step_errors"]
    sides = [
        errors_by_place(table.filter((pc.field("trial") == record.trial) & (pc.field("step") == step)).to_pylist())
        for record in (pair.baseline, pair.candidate)
    ]
    return distance_in_float64(*sides, step=step, quantity=quantity)


def _contract(run: StoredRun, pair: Pair) -> dict[str, tuple[str, str]]:
    """The contract of the candidate's loss on its device, from whichever trial checked it; empty on other axes."""
    if pair.axis != "loss":
        return {}
    # Only one trial of a loss on a device checks the contract, not each seed and replica.
    name, unit = pair.candidate.loss_name, pair.candidate.unit
    alike = [record.trial for record in run.trials if record.loss_name == name and record.unit == unit]
    return contract_of(run.evidence["contract"], alike)


def _beside_model(contract: dict[str, tuple[str, str]], audit: LossAudit | None) -> dict[str, tuple[str, str]]:
    """The contract, which calls the loss without the model, beside a training whose model takes a part away.

    Where all that is wrong with a gradient is taken away by the model, the contract has found that part, too.
    """
    status, reason = contract.get("value", ("passed", ""))
    if audit is None or not audit.excused.any() or status != "failed" or "the gradient is" not in reason:
        return contract
    return contract | {"value": ("limited", reason)}


def _causes(
    run: StoredRun,
    pair: Pair,
    comparison: Comparison,
    audit: LossAudit | None,
    device_audit: DeviceAudit | None,
    onset: Onset | None,
    *,
    contract: dict[str, tuple[str, str]],
) -> tuple[Cause, ...]:
    """What explains the onset: the first error of a device, or what is known of a loss; empty on other axes."""
    # The first error of a device is its own explanation; the loss is the same on both sides.
    if device_audit and device_audit.first and onset:
        return (Cause("precision" if device_audit.first.rounding else "unknown", device_audit.first.explain()),)
    if pair.axis != "loss" and not pair.between:
        return ()
    # Without an audit no step is known to be wrong, nor to be right.
    nothing = np.zeros(comparison.steps, bool)
    nan = one_sided_nan(comparison) if comparison.steps else None
    beyond = audit.beyond() if audit else {"loss": nothing, "output_grad": nothing}
    return find_causes(
        LossEvidence(
            record=pair.candidate,
            contract=contract,
            findings=findings_of(run.evidence["findings"], pair.candidate.trial),
            rows=comparison.both("rows")[1],
            elements=comparison.both("elements")[1],
            audited=audit.audited if audit else nothing,
            wrong=beyond["output_grad"],
            wrong_loss=beyond["loss"],
            nan=nan[1] if nan else None,
            unit=float(audit.unit.max()) if audit else 2.0**-24,
            first_step=comparison.first_step,
        )
    )


def _source_of_shared_steps(run: StoredRun, pair: Pair) -> TrialRecord | None:
    """The trial of the first device, from whose states the candidate took its steps."""
    if pair.axis != "device" or pair.between:
        return None
    # The trials are in the order of the plan, so the first one ran on the first device.
    key = (pair.candidate.loss_name, run.trials[0].device, pair.candidate.seed, pair.candidate.replica)
    alike = (record for record in run.trials if not record.noise)
    return next((each for each in alike if (each.loss_name, each.device, each.seed, each.replica) == key), None)
