"""Two traces side by side, in segments: only what is not known to be equal is read.

A segment lies in one block of each side, and these are read at a time; of a trace without blocks, one whole column is.

Letters: S steps that both traces have; N rows of a segment; P parameter tensors.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from parity.judge.columns import TENSOR_DIGESTS, Blocks, Columns, contents, lists, numbers, tensor_digests, words
from parity.judge.ulp import bits_differ
from parity.store.trials import TrialRecord

# Most results of single blocks that are kept, each of 10,000 bytes or so.
_MOST_KNOWN = 1_000


@dataclass(frozen=True)
class Span:
    """Some rows of one block.

    Attributes:
        number: The number of the block; None for the whole trace.
        begin: The first row, from the beginning of the block.
        rows: The number of rows.
    """

    number: int | None
    begin: int
    rows: int


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a trace that are compared with as many of another one.

    Attributes:
        columns: Where the trace is read.
        record: The trial.
        begin: The first row.
    """

    columns: Columns
    record: TrialRecord
    begin: int

    def read(self, names: Sequence[str], span: Span) -> dict[str, pa.ChunkedArray]:
        """Some columns of a span.

        Raises:
            Trouble: The trace is damaged.
        """
        if span.number is None:
            found = {name: self.columns.get(self.record, name) for name in names}
        else:
            found = dict(self.columns.block(self.record, names, span.number))
        return {name: column.slice(span.begin, span.rows) for name, column in found.items()}

    def tensors(self, name: str, span: Span) -> np.ndarray:
        """The digests of all parameter tensors in a span; uint64[N, P].

        Args:
            name: One of `columns.TENSOR_DIGESTS`.
            span: Which rows.

        Raises:
            Trouble: The trace is damaged.
        """
        return tensor_digests(self.record, name, self.read([name], span)[name])

    def address(self, name: str, span: Span) -> tuple[bytes, int] | None:
        """What the rows of a column are known by, or None.

        Raises:
            Trouble: The trace is damaged.
        """
        found = None if span.number is None else self.columns.addresses(self.record, name)
        return (found[span.number], span.begin) if found and span.number is not None else None


@dataclass(frozen=True)
class Segment:
    """Rows of two traces in one block of each.

    Attributes:
        begin: Position of the first among the common steps.
        left: Where they are in the one trace.
        right: Where they are in the other one.
    """

    begin: int
    left: Span
    right: Span

    @property
    def end(self) -> int:
        """Position after the last."""
        return self.begin + self.left.rows


def segments(left: Rows, right: Rows, steps: int) -> Iterator[Segment]:
    """Yields the segments of two traces in their order.

    Args:
        left: The one, from its first common step.
        right: The other, from its first common step.
        steps: The number of common steps, S.

    Raises:
        Trouble: A trace is damaged.
    """
    sides = [_Cursor(side.columns.blocks(side.record), side.begin) for side in (left, right)]
    begin = 0
    while begin < steps:
        rows = int(min(steps - begin, *(side.left() for side in sides)))
        one, other = (side.take(rows) for side in sides)
        yield Segment(begin, one, other)
        begin += rows


class _Cursor:
    """Goes through the blocks of a trace."""

    def __init__(self, blocks: Blocks | None, begin: int) -> None:
        self._blocks, self._at, self._number = blocks, begin, 0

    def left(self) -> float:
        """Number of rows that are left of the block."""
        if self._blocks is None:
            return np.inf
        while self._number < len(self._blocks) - 1 and self._at >= self._blocks[self._number][1]:
            self._number += 1
        return self._blocks[self._number][1] - self._at

    def take(self, rows: int) -> Span:
        """The next rows of the block."""
        at, self._at = self._at, self._at + rows
        if self._blocks is None:
            return Span(None, at, rows)
        return Span(self._number, at - self._blocks[self._number][0], rows)


def same(name: str, left: Rows, right: Rows, steps: int) -> bool:
    """Whether two columns are equal to the bit, over so many rows.

    Raises:
        Trouble: A trace is damaged.
    """
    for segment in segments(left, right, steps):
        address = left.address(name, segment.left)
        if address is None or address != right.address(name, segment.right):
            sides = [
                list(contents(side.record, name, side.read([name], span)[name]))
                for side, span in ((left, segment.left), (right, segment.right))
            ]
            if not all(map(_equal_bits, *sides)):
                return False
    return True


def _equal_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


def rows_differ(name: str, left: Rows, right: Rows, columns: Sequence[pa.ChunkedArray]) -> np.ndarray:
    """Whether the rows of a column of numbers, or of lists of integers, differ in any bit; bool[N].

    Args:
        name: Name of the column.
        left: The one trace.
        right: The other one.
        columns: N rows of the column of each.

    Raises:
        Trouble: A trace is damaged.
    """
    if name in TENSOR_DIGESTS:
        pairs = zip((left.record, right.record), columns, strict=True)
        one, other = (tensor_digests(record, name, each) for record, each in pairs)
        return _lists_differ(one, other)
    if pa.types.is_list(columns[0].type):
        alike = [words(each) for each in columns]
        if alike[0] is not None and alike[1] is not None and alike[0].shape == alike[1].shape:
            return _lists_differ(alike[0], alike[1])
        each = zip(*map(lists, columns), strict=True)
        return np.fromiter((not equal_lists(one, other) for one, other in each), bool, len(columns[0]))
    one, other = map(numbers, columns)
    return np.not_equal(one, other) if one.dtype == np.uint64 else bits_differ(one, other)


def _lists_differ(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    differs: np.ndarray = (one != other).any(axis=1)
    return differs


def equal_lists(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether two lists are equal; two nulls are."""
    return (one is None) == (other is None) and (one is None or other is None or np.array_equal(one, other))


@dataclass(frozen=True, eq=False)
class Task:
    """What of two traces is to be compared row by row.

    Attributes:
        left: The one trace, from its first common step.
        right: The other trace, from its first common step.
        first_step: Number of the first common step.
        steps: Number of common steps, S.
        columns: The columns, by what they belong to.
    """

    left: Rows
    right: Rows
    first_step: int
    steps: int
    columns: Mapping[str, Sequence[str]]

    @cached_property
    def owners(self) -> Mapping[str, str]:
        """What each column belongs to."""
        return {name: of for of, names in self.columns.items() for name in names}

    def segments(self, number: int) -> Iterator[tuple[int, int, Segment]]:
        """Yields the segments after their first step and the number that is given."""
        for segment in segments(self.left, self.right, self.steps) if any(self.columns.values()) else ():
            yield self.first_step + segment.begin, number, segment


def find_unequal(tasks: Sequence[Task]) -> list[dict[str, np.ndarray]]:
    """Finds the rows that differ in any bit, in one pass over all traces that are compared.

    Args:
        tasks: What is compared.

    Returns:
        For each task, by what its columns belong to, whether any of them differs in a row; bool[S].

    Raises:
        Trouble: A trace is damaged.
    """
    found = [{of: np.zeros(task.steps, bool) for of in task.columns} for task in tasks]
    # What was found last of blocks that are known: many traces of a run may hold the same.
    known: OrderedDict[tuple[object, ...], np.ndarray] = OrderedDict()
    # In the order of the steps, so that a block is read once for all that it is compared with while it stays in memory.
    for _, number, segment in heapq.merge(*(task.segments(number) for number, task in enumerate(tasks))):
        task = tasks[number]
        left, right = task.left, task.right
        wanted: dict[str, tuple[object, ...] | None] = {}
        for name in task.owners:
            mine, theirs = left.address(name, segment.left), right.address(name, segment.right)
            if mine is None or theirs is None or mine != theirs:
                wanted[name] = None if mine is None or theirs is None else (mine, theirs, segment.left.rows)
        lacking = [name for name, key in wanted.items() if key is None or (name, key) not in known]
        # Of a trace without blocks each column is read as a whole, and one alone is in memory.
        alone = segment.left.number is None or segment.right.number is None
        for names in [[name] for name in lacking] if alone else [lacking] if lacking else []:
            sides = [left.read(names, segment.left), right.read(names, segment.right)]
            for name in names:
                differ = rows_differ(name, left, right, [side[name] for side in sides])
                found[number][task.owners[name]][segment.begin : segment.end] |= differ
                if wanted[name] is not None:
                    known[name, wanted[name]] = differ
        for name in wanted.keys() - set(lacking):
            found[number][task.owners[name]][segment.begin : segment.end] |= known[name, wanted[name]]
            known.move_to_end((name, wanted[name]))
        while len(known) > _MOST_KNOWN:
            known.popitem(last=False)
    return found
