"""A pair of loops, what is right to say of it, and what parity says."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parity
from parity.ground.errors import Trouble
from parity.judge.judging import judge
from parity.judge.several_runs import join
from parity.judge.verdict import VERDICTS, PairVerdict, rank
from parity.store.storage import parse_path

from .loop import Loop

# Keywords of `parity.Recorder` without which a pair cannot be recorded.
NEEDS = ("first_step", "also")


@dataclass(frozen=True)
class Pair:
    """A pair of loops.

    Attributes:
        name: What it is called.
        kind: What sort of pair it is ("late", "optimizer", ...).
        source: The public issue of this kind, or where it comes from.
        baseline: The loop that is compared with.
        candidate: The loop that is compared.
        verdicts: What is right to say.
        steps: Of a wrong pair, the steps at which its onset may be reported: one, but the next as well where the two
            were apart by rounding before; empty where no place is asked.
        quantities: Of a wrong pair, the quantities at which its onset may be reported.
        words: Of a wrong pair, words of which one must be in the text of its cause.
        inexact: Why the two need not agree (a right pair) or need not differ (a wrong pair) in float64; None where
            `test_corpus_of_loops` holds them to it.
    """

    name: str
    kind: str
    source: str
    baseline: Loop
    candidate: Loop
    verdicts: frozenset[str]
    steps: tuple[int, ...] = ()
    quantities: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()
    inexact: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether it must be caught."""
        return "diverged" in self.verdicts

    @property
    def ranked(self) -> bool:
        """Whether one of the loops is trained by several processes."""
        return any(loop.rank_share is not None for loop in (self.baseline, self.candidate))

    @property
    def missing(self) -> str | None:
        """The keyword of the Recorder that the pair needs and that it does not have (yet), or None."""
        known = inspect.signature(parity.Recorder).parameters
        needed = {"first_step": bool(self.candidate.first_step), "also": self.kind == "average"}
        return next((name for name in NEEDS if needed[name] and name not in known), None)


def wrong(
    name: str,
    kind: str,
    source: str,
    baseline: Loop,
    candidate: Loop,
    *,
    step: int = 0,
    at: str = "",
    says: str = "",
    slack: int = 0,
    undecided: bool = False,
    inexact: str | None = None,
) -> Pair:
    """A pair that must be caught.

    Args:
        name: What it is called.
        kind: What sort of pair it is.
        source: Where it comes from.
        baseline: The right loop.
        candidate: The wrong one.
        step: The step of its onset.
        at: The quantities that may be named, separated by spaces.
        says: The words of which the cause must have one, separated by "|".
        slack: By how many steps the onset may be reported later.
        undecided: Whether "inconclusive" is right too; no place is asked then.
        inexact: Why the two need not differ in float64.
    """
    return Pair(
        name,
        kind,
        source,
        baseline,
        candidate,
        frozenset({"diverged", "failed", "inconclusive"} if undecided else {"diverged", "failed"}),
        () if undecided else tuple(range(step, step + slack + 1)),
        frozenset(at.split()),
        tuple(says.split("|")),
        inexact,
    )


def right(
    name: str,
    kind: str,
    source: str,
    baseline: Loop,
    candidate: Loop,
    *,
    passes: str = "identical rounding",
    inexact: str | None = None,
) -> Pair:
    """A pair that must pass, with the verdicts that are right, separated by spaces."""
    return Pair(name, kind, source, baseline, candidate, frozenset(passes.split()), inexact=inexact)


@dataclass(frozen=True)
class Answer:
    """What parity says of a pair.

    Attributes:
        verdict: The verdict; "trouble" where the two cannot be compared.
        step: Of the onset, or None.
        quantity: Of the onset, or None.
        tensor: Of the onset, or None.
        cause: All that is said about the cause.
    """

    verdict: str
    step: int | None
    quantity: str | None
    tensor: str | None
    cause: str

    @property
    def flagged(self) -> bool:
        """Whether it says that something is wrong."""
        return self.verdict in VERDICTS and VERDICTS[self.verdict].exit_status == 1

    @property
    def undecided(self) -> bool:
        """Whether it says neither; also where it cannot compare the two."""
        return self.verdict in ("inconclusive", "trouble")

    def __str__(self) -> str:
        place = f" at step {self.step}, {self.quantity} {self.tensor or ''}" if self.step is not None else ""
        return f"{self.verdict}{place}: {self.cause}"


def ask(baseline: Path, candidate: Path) -> Answer:
    """What parity says of two recorded loops; of several ranks, the worst, and of these the earliest."""
    try:
        joined = join([parse_path(str(path)) for path in (baseline, candidate)], across=False)
        verdicts = judge(joined.run, joined.pairs).pairs
    except Trouble as trouble:
        return Answer("trouble", None, None, None, str(trouble))
    worst = max(verdicts, key=_gravity)
    onset = worst.onset
    said = "; ".join(filter(None, [worst.cause, *(cause.text for cause in worst.causes)]))
    if onset is None:
        return Answer(worst.verdict, None, None, None, said)
    return Answer(worst.verdict, onset.step, onset.quantity, onset.tensor, said)


def _gravity(verdict: PairVerdict) -> tuple[int, Any]:
    return rank(verdict.verdict), -verdict.onset.step if verdict.onset else -float("inf")


def placed(pair: Pair, answer: Answer) -> bool:
    """Whether the onset of a wrong pair is where it is right."""
    return not pair.steps or (answer.step in pair.steps and answer.quantity in pair.quantities)


def named(pair: Pair, answer: Answer) -> bool:
    """Whether the cause of a wrong pair has one of its words."""
    return any(word.lower() in answer.cause.lower() for word in pair.words)
