"""Compares the scalars of two logs, and says what scalars can show: where they part, by how much, and how that goes on.

What a scalar cannot show is why: whether the trainings differ by rounding or by a fault. No word here says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from parity.judge.ulp import bits_differ, relative, ulp_distance
from parity.plan.tolerance import EXACT, Tolerance
from parity.scalars.growth import Growth, growth_of
from parity.scalars.log import Log, Series
from parity.scalars.precision import Precision

Word: TypeAlias = Literal["identical", "within", "differ", "undecided"]
# From the best to the worst, with the exit status of each.
EXIT_STATUSES: dict[Word, int] = {"identical": 0, "within": 0, "undecided": 3, "differ": 1}


@dataclass(frozen=True)
class Place:
    """A step and both numbers there.

    Attributes:
        units: Distance in the unit of the comparison; -1 where one of them is NaN.
    """

    step: int
    baseline: float
    candidate: float
    absolute: float
    relative: float
    units: int


@dataclass(frozen=True)
class Missing:
    """Steps that one side has and the other one lacks."""

    count: int
    first: int
    last: int


@dataclass(frozen=True)
class ScalarComparison:
    """One scalar of two logs.

    Attributes:
        name, candidate_name: What each side calls it.
        word: What was found.
        unit: What distances are counted in: "ulp of float32", "in the last of 4 decimals", ...
        weak: Whether equality says little, since a side has rounded the numbers when it printed them.
        steps: Number of steps that both sides have.
        different: Number of these at which they differ.
        first, largest: The first difference, and the largest relative one; None where nothing differs.
        growth: How the difference goes on after the first; None where nothing differs.
        rtol, atol: The smallest of each, alone, that would pass; inf where none does.
        only_baseline, only_candidate: Steps that one side lacks, or None.
        blank: Number of steps where a side has a place without a number, and the first of them.
        not_numbers: NaN at the same step on both sides: their number and the first step.
        notes: What a reader should know, such as steps that were logged twice.
    """

    name: str
    candidate_name: str
    word: Word
    unit: str
    weak: str | None
    steps: int
    different: int
    first: Place | None
    largest: Place | None
    growth: Growth | None
    rtol: float
    atol: float
    only_baseline: Missing | None
    only_candidate: Missing | None
    blank: tuple[int, int] | None
    not_numbers: tuple[int, int] | None
    notes: tuple[str, ...]


def compare_series(
    names: tuple[str, str], baseline: Series, candidate: Series, *, tolerance: Tolerance
) -> ScalarComparison:
    """Compares a scalar at the steps that both sides have.

    Args:
        names: What each side calls it.
        baseline: Its numbers in the baseline's log.
        candidate: Its numbers in the candidate's log.
        tolerance: What is allowed.
    """
    steps, places, others = np.intersect1d(baseline.steps, candidate.steps, assume_unique=True, return_indices=True)
    scale = Scale.of(baseline.precision, candidate.precision)
    left, right = scale.round(baseline.values[places]), scale.round(candidate.values[others])
    differs = scale.differs(left, right)
    units = np.where(differs, scale.units(left, right), 0)
    with np.errstate(invalid="ignore"):
        absolute = np.where(differs, np.abs(left - right), 0.0)
    share = relative(absolute, left)
    # NaN on one side, and infinities that are not equal, are further apart than any number.
    unlike = differs & ~np.isfinite(absolute)
    absolute[unlike] = share[unlike] = np.inf
    where = np.flatnonzero(differs)

    def place(index: int) -> Place:
        at = (steps, left, right, absolute, share)
        step, *numbers = (each[index].item() for each in at)
        return Place(step, numbers[0], numbers[1], numbers[2], numbers[3], int(units[index]))

    size = np.where(np.isfinite(left), np.abs(left), 0.0)
    beyond = differs & ~(absolute <= tolerance.atol + tolerance.rtol * size)
    # Without a tolerance all that differs counts, such as zeros of opposite signs.
    within = not (differs if tolerance == EXACT else beyond).any()
    missing = [_missing(baseline.steps, candidate.steps), _missing(candidate.steps, baseline.steps)]
    blank = np.union1d(baseline.blank, candidate.blank)
    both_nan = np.flatnonzero(np.isnan(left) & np.isnan(right))
    undecided = not len(steps) or any(missing) or len(blank)
    word: Word = "differ" if not within else "undecided" if undecided else "within" if len(where) else "identical"
    return ScalarComparison(
        *names,
        word=word,
        unit=scale.unit,
        weak=scale.weak,
        steps=len(steps),
        different=len(where),
        first=place(where[0]) if len(where) else None,
        largest=place(int(np.argmax(share))) if len(where) else None,
        growth=growth_of(steps, share, differs, resolution=scale.resolution(left)) if len(where) else None,
        rtol=float(share.max(initial=0.0)),
        atol=float(absolute.max(initial=0.0)),
        only_baseline=missing[0],
        only_candidate=missing[1],
        blank=(len(blank), int(blank[0])) if len(blank) else None,
        not_numbers=(len(both_nan), int(steps[both_nan[0]])) if len(both_nan) else None,
        notes=tuple(
            f"{side}: {note}"
            for side, series in (("baseline", baseline), ("candidate", candidate))
            for note in series.notes
        ),
    )


def _missing(steps: np.ndarray, others: np.ndarray) -> Missing | None:
    only = np.setdiff1d(steps, others, assume_unique=True)
    return Missing(len(only), int(only[0]), int(only[-1])) if len(only) else None


# Half a unit of the last decimal is what rounding takes; a little more, since decimals are no binary fractions.
_HALF = 0.5 + 1e-6
# Order of the dtypes by their digits; numbers of two dtypes are compared in the one with fewer.
_NARROW_FIRST = ("bfloat16", "float16", "float32", "float64")
# The distance from 1 to the next number.
_EPSILONS = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


@dataclass(frozen=True)
class Scale:
    """What the numbers of two logs are compared in.

    Attributes:
        kind: A dtype, "whole" or "printed".
        decimals: Decimals of the side that has fewer, for "printed".
        printed_alike: For "printed": whether both sides have these decimals.
        mixed: Whether one side keeps more than the other.
    """

    kind: str
    decimals: int
    printed_alike: bool
    mixed: bool

    @classmethod
    def of(cls, baseline: Precision, candidate: Precision) -> "Scale":
        sides = (baseline, candidate)
        printed = [each.decimals for each in sides if each.kind == "printed"]
        kinds = {each.kind for each in sides}
        if printed:
            # Whole numbers among decimals were decimals once: 1 for 1.0.
            alike = (kinds == {"printed"} and printed[0] == printed[-1]) or kinds == {"printed", "whole"}
            return cls("printed", min(printed), alike, not alike)
        floats = [kind for kind in _NARROW_FIRST if kind in kinds]
        return cls(floats[0] if floats else "whole", 0, True, len(floats) > 1)

    @property
    def unit(self) -> str:
        if self.kind == "printed":
            return "in the last decimal" if self.decimals > 0 else "in the last printed digit"
        return "" if self.kind == "whole" else f"ulp of {self.kind}"

    @property
    def weak(self) -> str | None:
        """Why equal numbers say little, or None."""
        if self.kind == "printed":
            plural = "" if self.decimals == 1 else "s"
            kept = f"at most {self.decimals} decimal{plural}" if self.decimals > 0 else "no decimals"
            have = "one log has its numbers with" if self.mixed else "the logs have these numbers with"
            return f"{have} {kept}, so a difference below {self._step / 2:.1g} would not show"
        if self.mixed:
            return f"one log keeps {self.kind}, so the other one is rounded to it before they are compared"
        return None

    @property
    def _step(self) -> float:
        return float(10.0**-self.decimals)

    def round(self, values: np.ndarray) -> np.ndarray:
        """The numbers in the dtype of the comparison; float64[N]."""
        if self.kind in ("float16", "float32") and self.mixed:
            with np.errstate(over="ignore"):
                return values.astype(self.kind).astype(np.float64)
        return values

    def differs(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Whether two numbers differ, bit by bit where the log keeps bits; bool[N].

        A NaN is equal to a NaN: a log may have lost its other bits.
        """
        if self.kind == "printed" and not self.printed_alike:
            with np.errstate(invalid="ignore"):
                same = (np.abs(left - right) <= _HALF * self._step) | (left == right)
        else:
            same = ~bits_differ(left, right)
        result: np.ndarray = ~(same | (np.isnan(left) & np.isnan(right)))
        return result

    def units(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Distance in the unit; int64[N], -1 where it cannot be counted."""
        if self.kind in _NARROW_FIRST:
            return ulp_distance(left, right, dtype=self.kind)
        with np.errstate(invalid="ignore"):
            count = np.rint(np.abs(left - right) / (self._step if self.kind == "printed" else 1.0))
        counted: np.ndarray = np.where(count < 2.0**62, count, -1.0).astype(np.int64)  # NaN is not below either
        return counted

    def resolution(self, values: np.ndarray) -> np.ndarray:
        """The relative size of one unit at each number; float64[N]."""
        if self.kind in _EPSILONS:
            return np.full(len(values), _EPSILONS[self.kind])
        magnitude = np.maximum(np.abs(np.nan_to_num(values, posinf=0.0, neginf=0.0)), np.finfo(np.float64).tiny)
        result: np.ndarray = (self._step if self.kind == "printed" else 1.0) / magnitude
        return result


@dataclass(frozen=True)
class LogComparison:
    """Two logs.

    Attributes:
        scalars: What was compared.
        only_baseline, only_candidate: Names that the other log does not have.
        speed: Names of both that say how fast or large a training was, which are not compared.
        chosen: Whether the user chose the scalars.
    """

    baseline: Log
    candidate: Log
    scalars: tuple[ScalarComparison, ...]
    only_baseline: tuple[str, ...]
    only_candidate: tuple[str, ...]
    speed: tuple[str, ...]
    chosen: bool
    tolerance: Tolerance

    @property
    def word(self) -> Word:
        """The worst of the scalars; undecided where a log has a scalar that was not compared."""
        words: Sequence[Word] = [each.word for each in self.scalars] or ["undecided"]
        if not self.chosen and (self.only_baseline or self.only_candidate):
            words = [*words, "undecided"]
        order = [*EXIT_STATUSES]
        return max(words, key=order.index)

    @property
    def exit_status(self) -> int:
        """Exit status of a command that found this."""
        return EXIT_STATUSES[self.word]
