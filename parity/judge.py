"""The verdicts: what is stored of two trials -> identical, report-only, rounding, diverged, failed or inconclusive.

A function of the stored run alone, so judging twice says the same; needs neither torch nor Ray.

Letters: S steps that both traces have.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from parity.causes import Cause, Evidence, contract_of, find_causes, findings_of
from parity.device_audit import DeviceAudit, audit_device
from parity.differences import Comparison, Difference, Trace
from parity.fleet import DeviceClass, Fleet
from parity.loss_audit import Audit, Decision, LossAudit
from parity.pairs import Between, Pair, make_pairs
from parity.permutation_test import SpreadTest
from parity.replicas import Replicas, group_of
from parity.store import StoredRun, TrialRecord
from parity.trace import NORMED_QUANTITIES, QUANTITIES

# From the best to the worst: the verdict of a run is the worst of its pairs.
VERDICTS = ("identical", "report-only", "rounding", "inconclusive", "diverged", "failed")

# What the training itself is made of: the loss's number is only reported.
TRAINED = tuple(quantity for quantity in QUANTITIES if quantity != "loss")

# What a norm that is summed in the dtype itself may be off by, in u.
NORM_ERROR_U = 1000.0
# Norms of gradients that are this far apart (relative) are of different gradients.
CHANGED = 1e-4


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
class PairVerdict:
    """A pair and what was found of it.

    Attributes:
        pair: The two trials.
        verdict: One of `VERDICTS`.
        cause: In words, None for an identical pair.
        causes: What is wrong with the candidate, the gravest first; empty where nothing is, or it is not known.
        first: The first difference of any size, or None.
        onset: The first beyond rounding, of diverged pairs, else None.
        largest: Of the loss.
        audit: The candidate's worst audited step; None where there is none, and for pairs of devices.
        decision: How the audit decided; None likewise.
        device_audit: How the steps from shared states decided; of pairs of devices only, else None.
        spread: Whether the replicas of both sides are spread alike; None where they are equal to the bit.
        steps: S.
        both_nan: The first step at which both losses are NaN, or None.
        comparison: Step by step.
    """

    pair: Pair
    verdict: str
    cause: str | None
    causes: tuple[Cause, ...]
    first: Difference | None
    onset: Onset | None
    largest: Largest
    audit: Audit | None
    decision: Decision | None
    device_audit: DeviceAudit | None
    spread: SpreadTest | None
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
        fleet: Its devices, in classes.
    """

    verdict: str
    exit_status: int
    trouble: str | None
    pairs: tuple[PairVerdict, ...]
    fleet: Fleet


def judge(run: StoredRun, pairs: tuple[Pair, ...] | None = None) -> Judgement:
    """Judges every pair of a stored run, or the pairs that are given.

    Args:
        run: As it was read, or several as `run_pairs.join` joins them.
        pairs: Of its trials; None for those of `make_pairs`.

    Raises:
        Trouble: A trace is damaged.
    """
    fleet = Fleet(run.trials, run.traces)
    if pairs is None:
        pairs = make_pairs(run.trials, fleet, across=not run.info.get("quick"))
    replicas = Replicas(run)
    traces = {record.trial: Trace(record, run.traces) for record in run.trials}
    comparisons = [Comparison(traces[pair.baseline.trial], traces[pair.candidate.trial]) for pair in pairs]
    verdicts = tuple(
        _judge_pair(run, pair, comparison, replicas, fleet) for pair, comparison in zip(pairs, comparisons, strict=True)
    )
    trouble = _failed_baseline(run.trials, pairs)
    worst = max((verdict.verdict for verdict in verdicts), key=VERDICTS.index, default="inconclusive")
    return Judgement(worst, 2 if trouble else _exit_status(worst), trouble, verdicts, fleet)


def differences_tables(judgement: Judgement) -> Iterator[pa.Table]:
    """The content of differences.parquet: for each pair a row per step, in the columns of `differences.SCHEMA`."""
    for verdict in judgement.pairs:
        yield verdict.comparison.table(verdict.pair.axis)


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


@dataclass(frozen=True)
class _Case:
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


def _judge_pair(run: StoredRun, pair: Pair, comparison: Comparison, replicas: Replicas, fleet: Fleet) -> PairVerdict:
    groups = [group_of(record) for record in (pair.baseline, pair.candidate)]
    sides = zip(("baseline", "candidate"), groups, strict=True)
    unsteady = next((side for side, group in sides if group in replicas.unsteady), None)
    spread = replicas.compare(*groups) if unsteady and (pair.axis in ("loss", "device") or pair.between) else None
    audited = (pair.axis in ("loss", "noise") or pair.between) and comparison.steps
    audit = LossAudit(comparison, steady=unsteady != "baseline") if audited else None
    equals = fleet.of(pair.candidate) if fleet.alike(pair.baseline, pair.candidate) else None
    device_audit = None
    if (pair.axis == "device" or pair.between) and not equals:
        device_audit = audit_device(run.evidence["shared_steps"], pair.candidate.trial)
    onset, beyond = None, None
    if equals and comparison.steps:
        onset, beyond = _unequal_onset(comparison, equals, pair)
    elif pair.axis != "replica" and comparison.steps:
        onset, beyond = _onset(comparison, audit, device_audit)
        if onset is None and pair.between:
            onset, beyond = _onset_between(comparison, pair.between, steady=unsteady is None)
    contract = _contract(run, pair)
    broken = any(status == "failed" for status, _ in contract.values())
    causes = _causes(run, pair, comparison, audit, device_audit, onset, contract=contract)
    source = _source_of_shared_steps(run, pair)
    odd_source = source is not None and fleet.odd(source)
    case = _Case(
        pair, comparison, audit, device_audit, onset, beyond, causes, broken, unsteady, spread, equals, odd_source
    )
    verdict, cause = _decide(case)
    return PairVerdict(
        pair=pair,
        verdict=verdict,
        cause=cause,
        causes=causes,
        first=comparison.first() if comparison.steps else None,
        onset=onset if verdict == "diverged" else None,
        largest=_largest(comparison),
        audit=audit.worst() if audit else None,
        decision=audit.decision() if audit else None,
        device_audit=device_audit,
        spread=spread,
        steps=comparison.steps,
        both_nan=_first_true(np.logical_and(*(np.isnan(side) for side in comparison.both("loss")))),
        comparison=comparison,
    )


def _contract(run: StoredRun, pair: Pair) -> dict[str, tuple[str, str]]:
    """What the candidate's loss did on its device, in whichever trial was asked."""
    if pair.axis != "loss":
        return {}
    key = (pair.candidate.loss_name, pair.candidate.unit)
    alike = [record.trial for record in run.trials if (record.loss_name, record.unit) == key]
    return contract_of(run.evidence["contract"], alike)


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
    if device_audit and device_audit.first and onset:
        kind = "precision" if device_audit.first.rounding else "unknown"
        return (Cause(kind, device_audit.first.explain()),)
    if pair.axis != "loss" and not pair.between:
        return ()
    nothing = np.zeros(comparison.steps, bool)
    nan = _one_sided_nan(comparison) if comparison.steps else None
    beyond = audit.beyond() if audit else {"loss": nothing, "output_grad": nothing}
    return find_causes(
        Evidence(
            record=pair.candidate,
            contract=contract,
            findings=findings_of(run.evidence["findings"], pair.candidate.trial),
            rows=comparison.both("rows")[1],
            elements=comparison.both("elements")[1],
            audited=audit.audited if audit else nothing,
            wrong=beyond["output_grad"],
            wrong_loss=beyond["loss"],
            nan=nan[1] if nan else None,
        )
    )


def _decide(case: _Case) -> tuple[str, str | None]:
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


def _decide_unsteady(case: _Case) -> tuple[str, str]:
    """Of a baseline whose replicas disagree, and a candidate that is nowhere beyond rounding and that noise."""
    told = "the baseline's replicas disagree"
    if case.spread is None:
        return "inconclusive", told
    local = case.device_audit is not None or (case.audit is not None and case.audit.audited.any())
    if case.spread.rejected and not local:
        return "diverged", f"{told}, and the candidate's are not spread like them: {case.spread.explain()}"
    return "inconclusive", f"{told}: {case.spread.explain()}"


def _decide_between(case: _Case, between: Between) -> tuple[str, str]:
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
        abs(left - right) <= (sum(errors_u) + NORM_ERROR_U) * unit * max(abs(left), abs(right))
        for (left, right), errors_u in ((loss, error_u), (norm, grad_error_u))
    )


def _decide_loss(case: _Case) -> tuple[str, str]:
    """Of a loss (or of noise) that differs, and is nowhere beyond rounding."""
    audit = case.audit
    parting = case.comparison.first(among=TRAINED)
    if parting is None:
        beyond = audit.loss_beyond() if audit else None
        far = f", by more than any order of summation can do ({beyond})" if beyond else ""
        return "report-only", f"only the reported number differs{far}; the gradient and all after it are equal"
    if parting.quantity == "param_grad" and _laid_out_otherwise(case.comparison, parting.step):
        return "rounding", "the gradient has equal values in another memory layout, which are summed in another order"
    if parting.quantity != "output_grad":
        return (
            "inconclusive",
            f"the {parting.quantity} parts at step {parting.step} while the gradient before it is equal: not the loss",
        )
    if audit is None or not audit.audited.any():
        reason = case.pair.candidate.audit_error or case.pair.baseline.audit_error
        return "inconclusive", f"no audit: {reason}" if reason else "no audit: --audit-every 0"
    if case.pair.axis == "noise":
        return "rounding", "the baseline's own gradient, randomly rounded by 1 ulp at each step"
    return "rounding", "the gradient is as near to float64 as rounding allows"


def _laid_out_otherwise(comparison: Comparison, step: int) -> bool:
    baseline, candidate = comparison.both("output_grad_strided")
    return bool(baseline[step] != candidate[step])


def _doubt(case: _Case) -> str | None:
    """Why there is nothing to hold the pair against, or None."""
    pair, comparison = case.pair, case.comparison
    if pair.baseline.status == "failed":
        return f"the baseline failed: {failure(pair.baseline)}"
    for record in (pair.baseline, pair.candidate):
        if record.status != "complete":
            of = f" of {record.steps}" if record.steps != comparison.steps else ""
            return f"{record.trial} was interrupted: {comparison.steps}{of} steps can be compared"
    inputs = _first_true(comparison.differs["input"])
    if inputs is not None:
        return f"the inputs differ from step {inputs}: other data"
    return None


def _onset(
    comparison: Comparison, audit: LossAudit | None, device_audit: DeviceAudit | None
) -> tuple[Onset, str] | tuple[None, None]:
    """The first step and quantity that is beyond rounding, or NaN on one side only, and why; Nones if there is none."""
    found = [_one_sided_nan(comparison)]
    if audit:
        found.append(_audit_onset(comparison, audit))
    if device_audit:
        found.append(_device_onset(comparison, device_audit))
    # Of the same step a NaN goes first, since what follows from it is beyond rounding too.
    return min((each for each in found if each), key=lambda each: each[0].step, default=(None, None))


def _onset_between(comparison: Comparison, between: Between, *, steady: bool) -> tuple[Onset, str] | tuple[None, None]:
    """Of two runs without a wrong gradient: what else is no rounding where they part, or Nones."""
    first = comparison.first(among=TRAINED)
    if first is None or first.quantity == "input":
        return None, None
    why = _changed_update(comparison, first.step) if first.quantity == "param" else None
    if why is None and between.owed and steady:
        why = (
            "nothing that is known differs (code, settings, software, hardware), and yet the bits do: code that they "
            "import may have changed, or the device does not repeat itself"
        )
    return (_at(comparison, first.step, first.quantity, first.tensor), why) if why else (None, None)


def _changed_update(comparison: Comparison, step: int) -> str | None:
    """What the optimizers made different of gradients that are equal to the bit, or None where that is not known."""
    norms = [float(side[step]) for side in comparison.both("step_grad_norm")]
    if abs(norms[0] - norms[1]) > CHANGED * max(norms):
        return (
            "the gradients of backward are equal to the bit, and their norm at the optimizer's step is "
            f"{norms[0]:.6g} in the baseline and {norms[1]:.6g} in the candidate: clipping, or what else changes them"
        )
    rates = [trace.record.lr for trace in (comparison.baseline, comparison.candidate)]
    if None not in rates and rates[0] != rates[1]:
        return f"the gradients are equal to the bit, and the learning rates are {rates[0]} and {rates[1]}"
    return None


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


def _audit_onset(comparison: Comparison, audit: LossAudit) -> tuple[Onset, str] | None:
    beyond = audit.beyond()
    if comparison.first(among=TRAINED) is None:
        beyond["loss"] &= False  # report-only, however far off the number is
    step = _first_true(np.logical_or.reduce(list(beyond.values())))
    if step is None:
        return None
    # A wrong gradient is the graver of the two, and the loss's looser bound may trip over the same step.
    onset = _at(comparison, step, "output_grad" if beyond["output_grad"][step] else "loss")
    return onset, audit.explain(onset.step, onset.quantity)


def _device_onset(comparison: Comparison, audit: DeviceAudit) -> tuple[Onset, str] | None:
    if audit.first is not None and audit.first.step < comparison.steps:
        return _at(comparison, audit.first.step, audit.first.quantity, audit.first.tensor), audit.first.explain()
    first = comparison.first()
    if audit.unrepeated is not None and first is not None:
        why = "taken again from the same state, the step came to other bits: the device does not repeat itself"
        return _at(comparison, first.step, first.quantity, first.tensor), why
    return None


def _unequal_onset(comparison: Comparison, equals: DeviceClass, pair: Pair) -> tuple[Onset, str] | tuple[None, None]:
    """Of two devices of a class: the first difference of any size, since there should be none."""
    first = comparison.first()
    if first is None:
        return None, None
    onset = _at(comparison, first.step, first.quantity, first.tensor)
    odd = {record.trial for unit in equals.odd for record in unit.trials}
    blamed = [record.device for record in (pair.candidate, pair.baseline) if record.trial in odd]
    if blamed:
        told = f"{' and '.join(blamed)} part{'s' if len(blamed) == 1 else ''} from the majority"
        return onset, f"equal devices must agree to the bit, and {told} of class {equals.label}"
    return onset, (
        "equal devices must agree to the bit, and these two do not; "
        f"class {equals.label}, of {len(equals.devices)}, has no majority, so either may be the odd one"
    )


def _source_of_shared_steps(run: StoredRun, pair: Pair) -> TrialRecord | None:
    """The trial from whose states the candidate took its steps: of the first device."""
    if pair.axis != "device" or pair.between:
        return None
    key = (pair.candidate.loss_name, run.trials[0].device, pair.candidate.seed, pair.candidate.replica)
    alike = (record for record in run.trials if not record.noise)
    return next((each for each in alike if (each.loss_name, each.device, each.seed, each.replica) == key), None)


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


def _first_true(flags: np.ndarray) -> int | None:
    return int(np.argmax(flags)) if flags.any() else None
