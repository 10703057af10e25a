"""Verdicts: the words, what each means, and what was found about a pair and about a run."""

from dataclasses import dataclass
from typing import Literal

from parity.judge.causes import Cause
from parity.judge.decide_device import DeviceAudit
from parity.judge.decide_loss import Audit, Decision, LossAudit
from parity.judge.differences import Comparison, Difference
from parity.judge.fleet import Fleet
from parity.judge.pairs import Pair, Role
from parity.judge.seen import Seen
from parity.judge.spread import SpreadTest
from parity.judge.state_settings import StateDifference

VerdictWord = Literal["identical", "report-only", "rounding", "inconclusive", "diverged", "failed"]


@dataclass(frozen=True)
class Meaning:
    """What a verdict means, to scripts and to people; every renderer reads it here.

    Attributes:
        exit_status: Exit status of a run whose worst pair has this verdict.
        tone: "good", "doubt" or "bad": decides its colour on a terminal and in the page.
        symbol: One character that stands for it in the page.
        sentence: One sentence about `{candidate}` and `{baseline}`.
        of_all: Sentence for a run whose `{count}` pairs all have this verdict; None where the sentence of the worst
            pair is shown instead.
        explained: Whether the cause adds to the sentence; else only the sentence is shown.
    """

    exit_status: int
    tone: Literal["good", "doubt", "bad"]
    symbol: str
    sentence: str
    of_all: str | None = None
    explained: bool = True

    @property
    def passing(self) -> bool:
        """Whether nothing was found wrong."""
        # By the exit status, so that a report and the exit status of its run cannot disagree.
        return self.exit_status == 0


# By word, from the best to the worst: the verdict of a run is the worst of its pairs.
VERDICTS: dict[VerdictWord, Meaning] = {
    "identical": Meaning(
        0,
        "good",
        "=",
        "{candidate} trains exactly as {baseline}: equal to the bit at every step.",
        of_all="All {count} pairs train the same to the bit.",
        explained=False,
    ),
    # Better than rounding: the difference never reaches a parameter.
    "report-only": Meaning(
        0,
        "good",
        "=",
        "{candidate} trains exactly as {baseline}; only the loss that it reports differs.",
        explained=False,
    ),
    "rounding": Meaning(
        0,
        "good",
        "≈",
        "{candidate} trains as {baseline}: the differences are rounding.",
        of_all="All {count} pairs train the same except for rounding.",
    ),
    # A doubt outranks what passes, and is outranked by what was proven wrong.
    "inconclusive": Meaning(3, "doubt", "?", "It is not known whether {candidate} trains as {baseline}."),
    "diverged": Meaning(1, "bad", "≠", "{candidate} does not train as {baseline}."),
    "failed": Meaning(1, "bad", "✕", "{candidate} violates the contract that {baseline} meets."),
}


def rank(word: VerdictWord) -> int:
    """The position of a verdict among all, from 0 for the best.

    >>> rank("identical") < rank("rounding") < rank("diverged")
    True
    """
    # The table is in the order of the ranks, so a verdict is declared in one place only.
    return list(VERDICTS).index(word)


@dataclass(frozen=True)
class NotFinite:
    """A number that is not finite on one side only.

    Attributes:
        side: The side.
        word: "NaN" or "infinite".
    """

    side: Role
    word: Literal["NaN", "infinite"]


@dataclass(frozen=True)
class Onset:
    """The first difference beyond rounding.

    Attributes:
        step: Optimizer step, from 0.
        epoch: Epoch, from 0.
        batch: Batch of the epoch, from 0.
        quantity: One of `trace.QUANTITIES`.
        tensor: Name of the parameter, or None for a quantity that is compared as a whole.
    """

    step: int
    epoch: int
    batch: int
    quantity: str
    tensor: str | None


@dataclass(frozen=True)
class Largest:
    """The largest relative difference of the losses.

    Attributes:
        step: The step, from 0; None where there is no common step.
        abs: |candidate - baseline| at this step.
        rel: abs / |baseline|.
        ulp: Distance in the dtype of the loss; None beside a NaN.
    """

    step: int | None
    abs: float
    rel: float
    ulp: int | None


@dataclass(frozen=True)
class FirstErrors:
    """Errors of both sides against float64 at their first difference, in the quantity and tensor that differ.

    Attributes:
        baseline_u: The baseline's error, in u.
        candidate_u: The candidate's error, in u.
    """

    baseline_u: float
    candidate_u: float


@dataclass(frozen=True)
class OnsetSize:
    """How far off the quantity and tensor of the onset are there; all relative, so that 0.25 is 25 %.

    Attributes:
        off: How far the candidate is off; infinite where it is off from zero.
        baseline_off: How far the baseline itself is off from float64; None where that is not known.
        explained: The largest that rounding explains; None where that is not known.
        reference: What the candidate is off from: "float64", or the "baseline" where no error against float64 decides.
        ratio: Size of the candidate's tensor over that of the reference; None where it is not known.
    """

    off: float
    baseline_off: float | None
    explained: float | None
    reference: Literal["float64", "baseline"]
    ratio: float | None


@dataclass(frozen=True)
class PairVerdict:
    """What was found about a pair.

    Attributes:
        pair: The two trials.
        verdict: One of `VERDICTS`.
        cause: Why, in words; None for an identical pair.
        causes: What is wrong with the candidate, the gravest first; empty where nothing is, or where it is not known.
        first: The first difference of any size, or None.
        first_apart: Relative distance of the tensors there, of one of several beside the whole; None where it is not
            known, or 0.
        first_errors: The errors of both sides there; None where they are not known.
        onset: The first difference beyond rounding of a diverged pair, else None.
        onset_size: How far off it is there; None where there is no onset, or that is not known.
        settings: What differs by name in the states before the step, where that is the onset's cause.
        beyond: Why rounding cannot explain the onset, in words; None where there is none.
        because: What explains the onset, where that is more than how far it is off; else None.
        not_finite: The only side on which the number of the onset is NaN or infinite; or None.
        largest: The largest difference of the losses.
        loss_audit: The audited steps and the lines that decided them; None where there are none, and for pairs of
            devices within a run.
        device_audit: The steps from shared states and the lines that decided them; for pairs of devices and of runs,
            else None.
        spread: Whether the replicas of both sides are spread alike; None where they are equal to the bit.
        steps: Number of steps that both traces have.
        both_nan: The first step at which both losses are NaN, or None.
        seen: What would have been seen without an audit; None where there is one, or no distance is known.
        comparison: The two traces, side by side.
    """

    pair: Pair
    verdict: VerdictWord
    cause: str | None
    causes: tuple[Cause, ...]
    first: Difference | None
    first_apart: float | None
    first_errors: FirstErrors | None
    onset: Onset | None
    onset_size: OnsetSize | None
    settings: tuple[StateDifference, ...]
    beyond: str | None
    because: str | None
    not_finite: NotFinite | None
    largest: Largest
    # Evidence is kept beside the verdict, so that renderers show what decided and compute nothing again.
    loss_audit: LossAudit | None
    device_audit: DeviceAudit | None
    spread: SpreadTest | None
    steps: int
    both_nan: int | None
    seen: Seen | None
    comparison: Comparison

    @property
    def meaning(self) -> Meaning:
        """What the verdict means."""
        return VERDICTS[self.verdict]

    @property
    def audit(self) -> Audit | None:
        """The candidate's worst audited step; None where there is no audit of the losses."""
        return self.loss_audit.worst if self.loss_audit else None

    @property
    def decision(self) -> Decision | None:
        """The largest audited errors and their lines; None where there is no audit of the losses."""
        return self.loss_audit.decision if self.loss_audit else None


@dataclass(frozen=True)
class Judgement:
    """What was found about a run.

    Attributes:
        verdict: The worst verdict of the pairs; "inconclusive" where there are none.
        exit_status: 0, 1, 2 or 3, as `plan.options.EXIT_STATUSES` explains.
        trouble: Why the exit status is 2, or None.
        pairs: The verdicts on the pairs, in the order of `make_pairs`.
        fleet: The devices of the run, in classes.
    """

    verdict: VerdictWord
    exit_status: int
    trouble: str | None
    pairs: tuple[PairVerdict, ...]
    fleet: Fleet

    @property
    def meaning(self) -> Meaning:
        """What the verdict of the run means."""
        return VERDICTS[self.verdict]
