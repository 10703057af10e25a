"""The verdicts: what is stored of two trials -> identical, report-only, rounding, diverged, failed or inconclusive.

A function of the stored run alone, so judging twice says the same; needs neither torch nor Ray.

Letters: S steps that both traces have.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from parity.judge.causes import Cause
from parity.judge.decide import PairEvidence, decide, describe_failure
from parity.judge.decide_device import DeviceAudit, audit_device
from parity.judge.decide_loss import LossAudit, audit_loss
from parity.judge.differences import Comparison, Difference
from parity.judge.find_causes import LossEvidence, contract_of, find_causes, findings_of
from parity.judge.fleet import Fleet
from parity.judge.jumps import Jump, find_jump
from parity.judge.onset import (
    find_onset,
    find_onset_between,
    find_other_function,
    find_unequal_onset,
    first_true,
    nan_side,
    one_sided_nan,
)
from parity.judge.pairs import Pair, Role, make_pairs
from parity.judge.parting import Parting, find_parting, find_unequal_gradient
from parity.judge.replicas import Replicas, group_of
from parity.judge.trial_trace import is_long
from parity.judge.verdict import VERDICTS, FirstErrors, Judgement, Largest, Onset, PairVerdict, VerdictWord, rank
from parity.store.stored_run import StoredRun
from parity.store.trace import QUANTITIES
from parity.store.trials import TrialRecord


def judge(run: StoredRun, pairs: tuple[Pair, ...] | None = None, *, fleet: Fleet | None = None) -> Judgement:
    """Judges every pair of a stored run, or the pairs that are given.

    Args:
        run: A run as it was read, or several as `several_runs.join` joins them.
        pairs: Pairs of its trials; None for those of `make_pairs`.
        fleet: The devices of the same run where they are known already, so that they are not classified again.

    Returns:
        The verdicts on the pairs in their order, and the verdict on the run, which is the worst of them.

    Raises:
        Trouble: A trace is damaged.
    """
    fleet = fleet or Fleet(run.trials, run.traces)
    if pairs is None:
        # A quick run took no steps from shared states, so devices of different classes could not be decided.
        pairs = make_pairs(run.trials, fleet, across=not run.info.get("quick"))
    replicas = Replicas(fleet.traces.values())
    comparisons = [
        Comparison(*(fleet.traces[each.trial] for each in (pair.baseline, pair.candidate))) for pair in pairs
    ]
    # Before the verdicts: they then find the comparisons made.
    _compare_long(comparisons)
    verdicts = tuple(
        _judge_pair(run, pair, comparison, replicas, fleet) for pair, comparison in zip(pairs, comparisons, strict=True)
    )
    trouble = _failed_baseline(run.trials, pairs)
    # A run in which nothing was compared must not pass.
    worst: VerdictWord = max((verdict.verdict for verdict in verdicts), key=rank, default="inconclusive")
    return Judgement(worst, 2 if trouble else VERDICTS[worst].exit_status, trouble, verdicts, fleet)


def differences_tables(judgement: Judgement) -> Iterator[pa.Table]:
    """The content of differences.parquet: for each pair a row per step, in the columns of `differences.SCHEMA`.

    Yields:
        One table for each pair, so that not all of them are in memory at once.

    Raises:
        Trouble: A trace is damaged.
    """
    for verdict in judgement.pairs:
        yield verdict.comparison.table(verdict.pair.axis)


def _compare_long(comparisons: Sequence[Comparison]) -> None:
    """Compares long traces quantity by quantity, so that a baseline's column is read once for all its candidates.

    Pair by pair, the columns of one pair would push out those that the next pair needs.
    """
    # The columns of short traces all stay in memory, so their order does not matter.
    long = [each for each in comparisons if is_long(each.baseline.record) or is_long(each.candidate.record)]
    for quantity in QUANTITIES:
        for comparison in long:
            comparison.differs_in(quantity)


def _failed_baseline(trials: tuple[TrialRecord, ...], pairs: tuple[Pair, ...]) -> str | None:
    """The failure of a trial that is only a baseline, so that nothing can be compared with it; None if none failed."""
    # A trial that is also a candidate has a pair of its own, whose verdict is `failed`.
    candidates = {pair.candidate.trial for pair in pairs}
    for trial in trials:
        if trial.status == "failed" and trial.trial not in candidates:
            return f"The baseline failed: {describe_failure(trial)}"
    return None


def _judge_pair(run: StoredRun, pair: Pair, comparison: Comparison, replicas: Replicas, fleet: Fleet) -> PairVerdict:
    """The verdict on a pair, with its evidence."""
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
        shared = audit_device(run.evidence["shared_steps"], pair.candidate.trial)
    # Equal devices owe equal bits, so nearness to float64 does not excuse a difference. The errors are still shown.
    device_audit = shared if not equals else None
    # Replicas have no onset: whatever their difference is, it shows that they are not deterministic, which `decide`
    # says.
    onset, beyond = None, None
    if equals and comparison.steps:
        onset, beyond = find_unequal_onset(comparison, equals, pair)
    parting, unequal, jump = _find_evidence(comparison, audit) if pair.axis != "replica" else (None, None, None)
    if pair.axis != "replica" and comparison.steps and not equals:
        onset, beyond = find_onset(comparison, audit, device_audit, evidence=(parting, unequal, jump))
        # Functions are compared at the first step, so nothing is earlier; but a setting by name says more.
        if pair.between and (onset is None or onset.step > comparison.first_step):
            other, why = find_other_function(comparison, pair.between)
            onset, beyond = (other, why) if other else (onset, beyond)
        # Evidence from single steps takes precedence over what the runs have in common.
        if onset is None and pair.between:
            onset, beyond = find_onset_between(comparison, pair.between, steady=unsteady is None)
    contract = _beside_model(_contract(run, pair), audit)
    broken = any(status == "failed" for status, _ in contract.values())
    causes = _causes(run, pair, comparison, audit, device_audit, onset, contract=contract)
    source = _source_of_shared_steps(run, pair)
    odd_source = source is not None and fleet.odd(source)
    evidence = PairEvidence(
        pair=pair,
        comparison=comparison,
        audit=audit,
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
    )
    verdict, cause = decide(evidence)
    # Another decision may have taken precedence, such as a failed trial; then the onset decided nothing.
    onset = onset if verdict == "diverged" else None
    first = comparison.first() if comparison.steps else None
    return PairVerdict(
        pair=pair,
        verdict=verdict,
        cause=cause,
        causes=causes,
        first=first,
        first_errors=_first_errors(pair, comparison, first, shared) if first else None,
        onset=onset,
        nan_side=nan_side(comparison, onset.quantity, comparison.index_of(onset.step)) if onset else None,
        largest=_largest(comparison),
        loss_audit=audit,
        device_audit=device_audit,
        spread=spread,
        steps=comparison.steps,
        # Equal NaNs count as equal, but a reader has to know about them.
        both_nan=first_true(np.logical_and(*(np.isnan(side) for side in comparison.both("loss")))),
        comparison=comparison,
    )


def _find_evidence(
    comparison: Comparison, audit: LossAudit | None
) -> tuple[Parting | None, Parting | None, Jump | None]:
    """Where the two part, where equal outputs have unequal gradients, and where they jump apart.

    Raises:
        Trouble: A trace is damaged.
    """
    if not comparison.steps:
        return None, None, None
    audited = audit.audited if audit else np.zeros(comparison.steps, bool)
    parting = find_parting(comparison)
    # The audit says more of a gradient than its distance from the baseline's does.
    judged = parting is not None and parting.quantity == "output_grad" and audited[parting.index]
    jump = find_jump(comparison, after=parting.index) if parting else None
    return None if judged else parting, find_unequal_gradient(comparison, audited=audited), jump


def _first_errors(
    pair: Pair, comparison: Comparison, first: Difference, shared: DeviceAudit | None
) -> FirstErrors | None:
    """The errors at the first difference: from the shared steps of two devices, else from the audit."""
    # Devices are checked on the same step from a shared state; other pairs on their own outputs and targets.
    if pair.axis == "device":
        place = (first.step, first.quantity, first.tensor)
        errors = shared.errors if shared else ()
        found = next((error for error in errors if (error.step, error.quantity, error.tensor) == place), None)
        return FirstErrors(found.baseline_error_u, found.error_u) if found else None
    # The audit knows no other quantities.
    column = {"loss": "loss_error_u", "output_grad": "grad_error_u"}.get(first.quantity)
    index = comparison.index_of(first.step)
    return FirstErrors(*(float(side[index]) for side in comparison.both(column))) if column else None


def _contract(run: StoredRun, pair: Pair) -> dict[str, tuple[str, str]]:
    """The contract of the candidate's loss on its device, from whichever trial checked it; empty on other axes."""
    if pair.axis != "loss":
        return {}
    # Only one trial of a loss on a device checks the contract, not each seed and replica.
    key = (pair.candidate.loss_name, pair.candidate.unit)
    alike = [record.trial for record in run.trials if (record.loss_name, record.unit) == key]
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


def _largest(comparison: Comparison) -> Largest:
    """The largest relative difference of the losses; steps where one is NaN do not count."""
    if not comparison.steps:
        return Largest(None, 0.0, 0.0, 0)
    # -1 is below every difference: `argmax` would otherwise choose a NaN.
    sizes = np.where(np.isnan(comparison.loss_rel), -1.0, comparison.loss_rel)
    step = int(np.argmax(sizes))
    ulp = int(comparison.loss_ulp[step])
    return Largest(step, float(comparison.loss_abs[step]), float(comparison.loss_rel[step]), ulp if ulp >= 0 else None)
