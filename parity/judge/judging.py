"""The verdicts: what is stored of two trials -> identical, report-only, rounding, diverged, failed or inconclusive.

A function of the stored run alone, so judging twice says the same; needs neither torch nor Ray.

Letters: S steps that both traces have.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from parity.judge.decide import decide, describe_failure
from parity.judge.decide_device import DeviceAudit
from parity.judge.differences import Comparison, Difference, find_differences
from parity.judge.differences_table import differences_table
from parity.judge.evidence import gather
from parity.judge.fleet import Fleet
from parity.judge.gradient_place import recorded_elsewhere
from parity.judge.onset import first_true
from parity.judge.onset_size import measure_first, measure_onset, one_sided, reason_at, settings_at
from parity.judge.pairs import Pair, make_pairs
from parity.judge.replicas import Replicas
from parity.judge.seen import find_seen
from parity.judge.stopped import all_stopped
from parity.judge.verdict import VERDICTS, FirstErrors, Judgement, Largest, PairVerdict, VerdictWord, rank
from parity.store.stored_run import StoredRun
from parity.store.trials import TrialRecord


# What damaged files or others' programs hold may overflow; NumPy would warn about it among the words of the report.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
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
    # Replicas that had other code are not expected to agree.
    replicas = Replicas(each for each in fleet.traces.values() if fleet.own_code(each.record))
    comparisons = [_compare(fleet, pair) for pair in pairs]
    # Before the verdicts: they then find the comparisons of long traces made, for which each is read once.
    find_differences([each for each in comparisons if each.is_long])
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
        yield differences_table(verdict.comparison, verdict.pair.axis)
        verdict.comparison.release()


def _failed_baseline(trials: tuple[TrialRecord, ...], pairs: tuple[Pair, ...]) -> str | None:
    """The failure of a trial that is only a baseline, so that nothing can be compared with it; None if none failed."""
    # A trial that is also a candidate has a pair of its own, whose verdict is `failed`.
    candidates = {pair.candidate.trial for pair in pairs}
    for trial in trials:
        if trial.status == "failed" and trial.trial not in candidates and not all_stopped(trials, trial.run):
            return f"The baseline failed: {describe_failure(trial)}"
    return None


def _compare(fleet: Fleet, pair: Pair) -> Comparison:
    """The comparison of a pair, without the quantities that each side has of its own."""
    traces = fleet.traces[pair.baseline.trial], fleet.traces[pair.candidate.trial]
    if pair.between is None:
        return Comparison(*traces)
    found = Comparison(*traces, pair.between.own)
    # A long trace is read once, by `find_differences`.
    return Comparison(*traces, frozenset({"param_grad"})) if not found.is_long and recorded_elsewhere(found) else found


def _judge_pair(run: StoredRun, pair: Pair, comparison: Comparison, replicas: Replicas, fleet: Fleet) -> PairVerdict:
    """The verdict on a pair, with its evidence."""
    evidence = gather(run, pair, comparison, replicas, fleet)
    verdict, cause = decide(evidence)
    # Another decision may have taken precedence, such as a failed trial; then the onset decided nothing.
    onset = evidence.onset if verdict == "diverged" else None
    first = comparison.first() if comparison.steps else None
    size = measure_onset(evidence, onset) if onset else None
    judged = PairVerdict(
        pair=pair,
        verdict=verdict,
        cause=cause,
        # Of a loss that is not to blame, its causes explain nothing.
        causes=() if cause in (evidence.code, evidence.deviation, comparison.unlike) else evidence.causes,
        first=first,
        # Here, while the distances are known: who reads the verdict measures nothing again.
        first_apart=measure_first(comparison, first) if first else None,
        first_errors=_first_errors(pair, comparison, first, evidence.shared) if first else None,
        onset=onset,
        onset_size=size,
        settings=settings_at(evidence, onset) if onset else (),
        beyond=evidence.beyond if onset else None,
        because=reason_at(evidence) if onset else None,
        not_finite=one_sided(evidence, onset, size) if onset else None,
        largest=_largest(comparison),
        loss_audit=evidence.audit,
        device_audit=evidence.device_audit,
        spread=evidence.spread,
        steps=comparison.steps,
        # Equal NaNs count as equal, but a reader has to know about them.
        both_nan=_both_nan(comparison),
        seen=find_seen(comparison) if pair.axis != "replica" and evidence.audit is None else None,
        comparison=comparison,
    )
    comparison.release()
    return judged


def _both_nan(comparison: Comparison) -> int | None:
    """The first step at which both losses are NaN, or None."""
    index = first_true(np.logical_and(*(np.isnan(side) for side in comparison.both("loss"))))
    return None if index is None else comparison.first_step + index


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


def _largest(comparison: Comparison) -> Largest:
    """The largest relative difference of the losses; steps where one is NaN do not count."""
    if not comparison.steps:
        return Largest(None, 0.0, 0.0, 0)
    # -1 is below every difference: `argmax` would otherwise choose a NaN.
    sizes = np.where(np.isnan(comparison.loss_rel), -1.0, comparison.loss_rel)
    index = int(np.argmax(sizes))
    ulp = int(comparison.loss_ulp[index])
    sizes_there = float(comparison.loss_abs[index]), float(comparison.loss_rel[index])
    return Largest(comparison.first_step + index, *sizes_there, ulp if ulp >= 0 else None)
