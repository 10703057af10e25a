"""Compares the scalars of two logs, and says what scalars can show: where they part, by how much, and how that goes on.

What a scalar cannot show is why: whether the trainings differ by rounding or by a fault. No word here says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parity.judge.ulp import bits_differ, relative
from parity.plan.tolerance import EXACT, EXIT_STATUSES, Tolerance, Word
from parity.scalars.growth import Growth, growth_of
from parity.scalars.log import Log, Series
from parity.scalars.numbering import Renumbering, renumbering_of
from parity.scalars.scale import Scale


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
        renumbering: The steps from which on both sides agree where they do so with other step numbers, or None.
        rtol, atol: The smallest of each, alone, that would pass; inf where none does.
        only_baseline, only_candidate: Steps that one side lacks, or None.
        blank: Number of steps where a side has a place without a number, and the first of them.
        not_numbers: NaN at the same step on both sides: their number and the first step.
        hidden: Steps where the numbers are not equal, and a log keeps too few digits to say more: number and first.
        repeats: Whether numbers were left out, of steps that were logged again, that are not the same.
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
    renumbering: Renumbering | None
    rtol: float
    atol: float
    only_baseline: Missing | None
    only_candidate: Missing | None
    blank: tuple[int, int] | None
    not_numbers: tuple[int, int] | None
    hidden: tuple[int, int] | None
    repeats: bool
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
    given = baseline.values[places], candidate.values[others]
    left, right = map(scale.round, given)
    differs = scale.differs(left, right)
    units = np.where(differs, scale.units(left, right), 0)
    with np.errstate(invalid="ignore", over="ignore"):
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

    within = not _beyond(left, right, differs, tolerance).any()
    unequal = scale.hidden(*given)
    hidden = np.flatnonzero(_beyond(*given, unequal, tolerance))
    repeats = not _repeats_agree(baseline, candidate, scale, tolerance)
    missing = [_missing(baseline.steps, candidate.steps), _missing(candidate.steps, baseline.steps)]
    blank = np.union1d(baseline.blank, candidate.blank)
    both_nan = np.flatnonzero(np.isnan(left) & np.isnan(right))
    undecided = not len(steps) or any(missing) or len(blank) or len(hidden) or repeats
    equal = not len(where) and not unequal.any()
    growth = growth_of(steps, share, differs, resolution=scale.resolution(left)) if len(where) else None
    apart = not len(steps) or (growth is not None and growth.kind == "large")
    word: Word = "differ" if not within else "undecided" if undecided else "identical" if equal else "within"
    return ScalarComparison(
        *names,
        word=word,
        unit=scale.unit,
        weak=scale.weak,
        steps=len(steps),
        different=len(where),
        first=place(where[0]) if len(where) else None,
        largest=place(int(np.argmax(share))) if len(where) else None,
        growth=growth,
        renumbering=renumbering_of(baseline, candidate, scale) if apart else None,
        rtol=float(share.max(initial=0.0)),
        atol=float(absolute.max(initial=0.0)),
        only_baseline=missing[0],
        only_candidate=missing[1],
        blank=(len(blank), int(blank[0])) if len(blank) else None,
        not_numbers=(len(both_nan), int(steps[both_nan[0]])) if len(both_nan) else None,
        hidden=(len(hidden), int(steps[hidden[0]])) if len(hidden) else None,
        repeats=repeats,
        notes=tuple(
            f"{side}: {note}"
            for side, series in (("baseline", baseline), ("candidate", candidate))
            for note in series.notes
        ),
    )


def _beyond(left: np.ndarray, right: np.ndarray, differs: np.ndarray, tolerance: Tolerance) -> np.ndarray:
    """Which of the numbers that differ do so beyond the tolerance; bool[N]."""
    # Without a tolerance all that differs counts, such as zeros of opposite signs.
    if tolerance == EXACT:
        return differs
    size = np.where(np.isfinite(left), np.abs(left), 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        absolute, allowed = np.abs(left - right), tolerance.atol + tolerance.rtol * size
    result: np.ndarray = differs & ~(np.isfinite(absolute) & (absolute <= allowed))
    return result


def _repeats_agree(baseline: Series, candidate: Series, scale: Scale, tolerance: Tolerance) -> bool:
    """Whether nothing is lost with the numbers that do not count, since their step was logged again."""
    (steps, values), (other_steps, others) = baseline.repeated, candidate.repeated
    if np.array_equal(steps, other_steps):
        left, right = scale.round(values), scale.round(others)
        beyond = _beyond(left, right, scale.differs(left, right), tolerance)
        if not (beyond | _beyond(values, others, scale.hidden(values, others), tolerance)).any():
            return True
    for series in (baseline, candidate):
        steps, values = series.repeated
        counted = series.values[np.searchsorted(series.steps, steps)]
        if (bits_differ(values, counted) & ~(np.isnan(values) & np.isnan(counted))).any():
            return False
    return True


def _missing(steps: np.ndarray, others: np.ndarray) -> Missing | None:
    only = np.setdiff1d(steps, others, assume_unique=True)
    return Missing(len(only), int(only[0]), int(only[-1])) if len(only) else None


@dataclass(frozen=True)
class LogComparison:
    """Two logs.

    Attributes:
        scalars: What was compared.
        only_baseline, only_candidate: Names that the other log does not have.
        speed: Names of both that say how fast or large a training was, which are not compared.
        chosen: Whether the user chose the scalars.
        doubts: What else was not compared, though it could matter; a sentence each.
    """

    baseline: Log
    candidate: Log
    scalars: tuple[ScalarComparison, ...]
    only_baseline: tuple[str, ...]
    only_candidate: tuple[str, ...]
    speed: tuple[str, ...]
    chosen: bool
    tolerance: Tolerance
    doubts: tuple[str, ...] = ()

    @property
    def word(self) -> Word:
        """The worst of the scalars; undecided where a log has something that was not compared."""
        words: Sequence[Word] = [each.word for each in self.scalars] or ["undecided"]
        if self.doubts or (not self.chosen and (self.only_baseline or self.only_candidate)):
            words = [*words, "undecided"]
        order = [*EXIT_STATUSES]
        return max(words, key=order.index)

    @property
    def exit_status(self) -> int:
        """Exit status of a command that found this."""
        return EXIT_STATUSES[self.word]
