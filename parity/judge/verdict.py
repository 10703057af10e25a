"""Verdicts: the words, what each means, and what was found of a pair and of a run."""

from dataclasses import dataclass

from parity.judge.causes import Cause
from parity.judge.decide_device import DeviceAudit
from parity.judge.decide_loss import Audit, Decision
from parity.judge.differences import Comparison, Difference
from parity.judge.fleet import Fleet
from parity.judge.pairs import Pair
from parity.judge.permutation_test import SpreadTest

# From the best to the worst: the verdict of a run is the worst of its pairs.
VERDICTS = ("identical", "report-only", "rounding", "inconclusive", "diverged", "failed")


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


def exit_status_of(worst: str) -> int:
    return {"failed": 1, "diverged": 1, "inconclusive": 3}.get(worst, 0)
