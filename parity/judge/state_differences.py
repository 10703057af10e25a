"""In what the states differ from which two trials take their steps: settings, counters, modes, generators.

Letters: S steps that both traces have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from parity.judge.columns import STATE_COLUMNS
from parity.judge.common_steps import Both
from parity.judge.segments import Task, equal_lists, find_unequal
from parity.judge.state_settings import (
    WORDS,
    BatchesOfStep,
    StateDifference,
    batches_of,
    decisive,
    differs_in,
    numbers_by_name,
    settings_that_differ,
)
from parity.judge.trial_trace import unlike_digests
from parity.store.trace import GENERATORS


class StateDifferences:
    """The differences of the states of a pair, step by step.

    Attributes:
        named: Whether settings, counters or modes differ; bool[S].
        begins: Whether a loss scale begins to differ, which says nothing by itself; bool[S].
        accumulated: Whether the losses of the step's batches were multiplied by other factors; bool[S].
        tensors: Whether the tensors of the optimizers' states differ; bool[S].
        generators: For each generator that either side draws from, whether its states differ; bool[S].
        known: Whether both sides have stored their states.
        comparable: Whether their optimizers keep their states in the same form.
    """

    def __init__(self, both: Both, *, generators: bool = True) -> None:
        self._both = both
        # Names belong together where both models have them, in whatever order.
        self._numbers = numbers_by_name(*(side.trace.record.param_names for side in both))
        nothing = np.zeros(both[0].steps, bool)
        self.known = all(side.trace.has("state") for side in both)
        self.named, self.tensors, self.comparable = nothing, nothing, False
        self.begins, self.accumulated = nothing, nothing
        self.generators: dict[str, np.ndarray] = {}
        self._scaled = nothing
        self._read = self.known and (self._numbers is not None or not _all_same(both))
        if not self._read:
            # Columns that are known to be equal need not be read again for each pair.
            self.comparable = self.known
            return
        # Optimizers of other classes keep their states in other forms, of which nothing can be compared.
        self.comparable = _classes(self._texts[0]) == _classes(self._texts[1])
        counts = self.comparable & _unequal(both, "state_counts")
        self.named = counts | _where_texts(lambda one, other: bool(decisive(one, other, self._numbers)), *self._texts)
        self._scaled = _where_texts(lambda one, other: differs_in("scale", one, other), *self._texts)
        self.begins = self._scaled & ~np.concatenate([[False], self._scaled[:-1]])
        self.accumulated = _where_texts(lambda one, other: differs_in("factors", one, other), *self._texts)
        alike = not unlike_digests(both[0].trace.record, both[1].trace.record)
        if self.comparable and alike and not both[0].trace.has_same("state_digest", both[1].trace):
            self.tensors = _unequal(both, "state_digest") & ~counts
        # What is equal throughout differs nowhere.
        if generators and _unequal(both, "generator_digests").any():
            self.generators = dict(_moving_generators(both))

    @cached_property
    def _texts(self) -> tuple[list[str | None], list[str | None]]:
        """The settings of both sides, step by step."""
        one, other = (side.texts("settings") for side in self._both)
        return one, other

    @property
    def decides(self) -> np.ndarray:
        """Whether anything of the states differs that right loops cannot have chosen differently; bool[S]."""
        decides: np.ndarray = np.logical_or.reduce([self.named, self.tensors, *self.generators.values()])
        return decides

    @property
    def differs(self) -> np.ndarray:
        """Whether anything of the states differs, loss scales included; bool[S]."""
        # Not the factors of losses, which belong to how a batch is cut.
        differs: np.ndarray = self.decides | self._scaled
        return differs

    def draws(self, name: str, index: int) -> bool:
        """Whether the baseline draws from a generator in a step; of the last step that is not known, and may be."""
        side, number = self._both[0], GENERATORS.index(name)
        rows = [side.list_at("generator_digests", row) for row in range(index, min(index + 2, side.steps))]
        return len(rows) < 2 or rows[0] is None or rows[1] is None or bool(rows[0][number] != rows[1][number])

    def scale_at(self, index: int) -> tuple[StateDifference, ...]:
        """The difference of the loss scales at a position among the common steps."""
        found = settings_that_differ(self._texts[0][index], self._texts[1][index]) if self._read else ()
        return tuple(each for each in found if each.name == WORDS["scale"])

    def batches_at(self, index: int) -> tuple[BatchesOfStep, BatchesOfStep]:
        """Factors and rows of the batches of a step, on both sides."""
        one, other = (batches_of(side[index]) for side in self._texts)
        return one, other

    def at(self, index: int) -> list[StateDifference]:
        """What differs by name at a position among the common steps."""
        if not self._read:
            return []
        found = [*decisive(self._texts[0][index], self._texts[1][index], self._numbers)]
        sides = [side.list_at("state_counts", index) if self.comparable else None for side in self._both]
        return [*found, *_counters(*sides)]

    def first_at(self, index: int) -> StateDifference | None:
        """The first thing that differs there, with its values or digests; None where only tensors do."""
        for each in (*self.at(index), *self.scale_at(index)):
            return each
        for number, name in enumerate(GENERATORS):
            if name in self.generators and self.generators[name][index]:
                rows = [side.list_at("generator_digests", index) for side in self._both]
                left, right = (f"{int(row[number]):016x}" for row in rows if row is not None)
                return StateDifference("generator", left, right, name)
        return None

    def explain(self, index: int) -> str:
        """What differs at a position among the common steps, in words; empty where nothing does."""
        named = [each.explain() for each in self.at(index)]
        drawn = [name for name, differs in self.generators.items() if differs[index]]
        if drawn:
            named.append(f"random generator of {' and '.join(drawn)}")
        if not named and self.tensors[index]:
            named.append("tensors of the optimizer's state")
        return "; ".join(named)


def _all_same(both: Both) -> bool:
    """Whether everything that is stored of the states is known to be equal, row by row."""
    one, other = both
    names = ("state_digest", *STATE_COLUMNS)
    return one.begin == other.begin and all(one.trace.has_same(name, other.trace) for name in names)


def _unequal(both: Both, name: str) -> np.ndarray:
    """Whether a column of the states differs; bool[S]."""
    one, other = both
    if one.begin == other.begin and one.trace.has_same(name, other.trace):
        return np.zeros(one.steps, bool)
    first_step = one.trace.first_step + one.begin
    rows = (one.trace.rows(one.begin), other.trace.rows(other.begin))
    return find_unequal([Task(*rows, first_step, one.steps, {name: [name]})])[0][name]


def _moving_generators(both: Both) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the generators that either side draws from, and where their states differ."""
    sides = [side.words("generator_digests") for side in both]
    for number, name in enumerate(GENERATORS):
        if any(side is None or side.shape[1] != len(GENERATORS) for side in sides):
            return
        left, right = (side[:, number] for side in sides if side is not None)
        # A generator that nobody draws from has no effect, and is rarely seeded.
        if any((side != side[0]).any() for side in (left, right)):
            yield name, left != right


def _classes(settings: list[str | None]) -> list[str | None]:
    """The classes of the optimizers at the first step at which all of them have stepped."""
    for text in dict.fromkeys(settings):
        optimizers = json.loads(text)["optimizers"] if text else []
        if optimizers and all(optimizers):
            return [optimizer["class"] for optimizer in optimizers]
    return []


def _where_texts(
    differ: Callable[[str | None, str | None], bool], left: list[str | None], right: list[str | None]
) -> np.ndarray:
    """Whether the texts of each step differ, bool[S]; nearly all have the same, so each pair is looked at once."""
    known = {pair: differ(*pair) for pair in set(zip(left, right, strict=True))}
    return np.fromiter((known[pair] for pair in zip(left, right, strict=True)), bool, len(left))


def _counters(left: np.ndarray | None, right: np.ndarray | None) -> Iterator[StateDifference]:
    """The differences of what the optimizers have counted."""
    if left is None or right is None or equal_lists(left, right):
        return
    if len(left) != len(right):
        yield StateDifference("number of optimizers", str(len(left) // 3), str(len(right) // 3), of_optimizer=True)
        return
    for one, other in zip(left.reshape(-1, 3), right.reshape(-1, 3), strict=True):
        if (one[0] < 0) != (other[0] < 0):
            taken = ["skipped" if side[0] < 0 else "taken" for side in (one, other)]
            yield StateDifference("optimizer's step", taken[0], taken[1], of_optimizer=True)
        elif not np.array_equal(one, other):
            counts = bool(one[0] and other[0]) and np.array_equal(one[1:], other[1:])
            yield StateDifference(
                "optimizer's state", _count(one), _count(other), of_optimizer=True, counts_states=counts
            )


def _count(counts: np.ndarray) -> str:
    entries, least, most = (int(count) for count in counts)
    if not entries:
        return "none"
    steps = f"{most} step{'s' * (most != 1)}" if least == most else f"{least} to {most} steps"
    return f"of {entries} parameters after {steps}" if most else f"of {entries} parameters"
