"""How far off a candidate is at its first difference and at its onset, in relative numbers, and what explains it.

What decided was the same evidence, in u or as a distance; here it is what a reader is shown.
"""

import math

import numpy as np

from parity.judge.decide import other_oracles
from parity.judge.decide_device import DeviceError
from parity.judge.decide_loss import LossAudit
from parity.judge.differences import Comparison, Difference
from parity.judge.evidence import PairEvidence
from parity.judge.not_finite import not_finite
from parity.judge.state_settings import StateDifference
from parity.judge.verdict import NotFinite, Onset, OnsetSize
from parity.store.trace import SKETCHED_QUANTITIES
from parity.store.trials import TrialRecord


def measure_onset(evidence: PairEvidence, onset: Onset) -> OnsetSize | None:
    """How far off the candidate is at its onset; None where no evidence says it, as of a state or an input.

    Args:
        evidence: What is known of the pair.
        onset: Its onset.

    Raises:
        Trouble: A trace is damaged.
    """
    comparison = evidence.comparison
    index = comparison.index_of(onset.step)
    audit = evidence.audit
    if audit and audit.off_oracle is None and audit.audited[index] and onset.quantity in ("loss", "output_grad"):
        return _audited(audit, index, onset.quantity)
    for error in evidence.device_audit.errors if evidence.device_audit else ():
        # A step that is right in float64 says nothing of an onset at which the two compute different functions.
        if error.beyond and (error.step, error.quantity, error.tensor) == (onset.step, onset.quantity, onset.tensor):
            return _checked(error)
    explained = None
    if evidence.parting and (evidence.parting.index, evidence.parting.quantity) == (index, onset.quantity):
        explained = evidence.parting.line
    return _apart(comparison, index, onset, explained)


def measure_first(comparison: Comparison, first: Difference) -> float | None:
    """The relative distance of the tensors at a first difference; None where it is not known, or 0.

    Args:
        comparison: The two traces.
        first: Their first difference; one of several tensors is measured beside the whole quantity.

    Raises:
        Trouble: A trace is damaged.
    """
    distances = comparison.distances(first.quantity) if first.quantity in SKETCHED_QUANTITIES else None
    if distances is None:
        return None
    index, names = comparison.index_of(first.step), comparison.baseline.record.param_names
    here = distances.at(index)
    found = here.beside_whole[0, names.index(first.tensor)] if first.tensor else here.whole[0]
    return float(found) if np.isfinite(found) and found else None


def one_sided(evidence: PairEvidence, onset: Onset, size: OnsetSize | None) -> NotFinite | None:
    """The only side on which the number of the onset is NaN or infinite; None where there is none.

    Args:
        evidence: What is known of the pair.
        onset: Its onset.
        size: How far off it is there.
    """
    # The norm of a gradient may well be infinite on one side, but not where that makes the difference infinite.
    infinite = onset.quantity == "loss" or (size is not None and math.isinf(size.off))
    comparison = evidence.comparison
    return not_finite(comparison, onset.quantity, comparison.index_of(onset.step), infinite=infinite)


def settings_at(evidence: PairEvidence, onset: Onset) -> tuple[StateDifference, ...]:
    """What differs by name in the states of the onset's step; empty where something else is its cause.

    Args:
        evidence: What is known of the pair.
        onset: Its onset.
    """
    if onset.quantity != "state":
        return ()
    index = evidence.comparison.index_of(onset.step)
    found = (each for each in (evidence.parting, evidence.jump) if each and each.index == index)
    return next((each.named for each in found if each.named), ())


def reason_at(evidence: PairEvidence) -> str | None:
    """Why a pair diverges, in words, where that is more than how far it is off; None where it is not.

    Args:
        evidence: What is known of the pair.
    """
    if others := other_oracles(evidence):
        return others[0]
    for found in (evidence.parting, evidence.jump):
        if found and evidence.beyond == found.explain():
            return found.because
    device = evidence.device_audit
    if device and device.first and evidence.beyond == device.first.explain():
        return None
    audit = evidence.audit
    if audit and evidence.onset and evidence.onset.quantity in ("loss", "output_grad"):
        index = evidence.comparison.index_of(evidence.onset.step)
        if evidence.beyond == audit.explain(index, evidence.onset.quantity):
            return None
    return evidence.beyond


def _audited(audit: LossAudit, index: int, quantity: str) -> OnsetSize:
    """The error of an audited loss or of its gradient."""
    errors = audit.loss if quantity == "loss" else audit.gradient
    unit = audit.loss_unit if quantity == "loss" else float(audit.unit[index])
    off, baseline, line = (float(each[index]) * unit for each in (errors.candidate, errors.baseline, errors.line))
    ratio = _known(float(audit.ratio[index])) if quantity == "output_grad" else None
    return OnsetSize(off, _known(baseline), _known(line), "float64", ratio)


def _checked(error: DeviceError) -> OnsetSize:
    """The error of a device in a step from a shared state."""
    return OnsetSize(error.error, _known(error.baseline_error), _known(error.line), "float64", None)


def _apart(comparison: Comparison, index: int, onset: Onset, explained: float | None) -> OnsetSize | None:
    """The distance of the two sides, where no error against float64 is what decides."""
    if onset.quantity == "loss":
        baseline, candidate = (float(side[index]) for side in comparison.both("loss"))
        return OnsetSize(float(comparison.loss_rel[index]), None, explained, "baseline", _over(candidate, baseline))
    distances = comparison.distances(onset.quantity) if onset.quantity in SKETCHED_QUANTITIES else None
    if distances is None:
        return None
    names = _names(comparison.baseline.record, onset.quantity)
    here = distances.at(index)
    if onset.tensor is None or onset.tensor not in names:
        norms = [float(np.sqrt(np.square(each).sum())) for each in (here.norms, here.other_norms)]
        return OnsetSize(float(here.whole[0]), None, explained, "baseline", _over(norms[1], norms[0]))
    tensor = names.index(onset.tensor)
    ratio = _over(float(here.other_norms[0, tensor]), float(here.norms[0, tensor]))
    return OnsetSize(float(here.each[0, tensor]), None, explained, "baseline", ratio)


def _names(record: TrialRecord, quantity: str) -> list[str]:
    """Names of the tensors whose distances are known, in the order of their columns."""
    if quantity == "buffer":
        return record.buffer_names or []
    return record.param_names if quantity in ("param_grad", "step_grad", "update", "param") else []


def _over(one: float, other: float) -> float | None:
    return _known(one / other) if other else None


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
