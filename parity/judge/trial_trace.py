"""The stored trace of one trial: each column is read when it is needed, and not again where a digest is enough.

Letters: S steps of the trace, P parameter tensors.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import xxhash

from parity.judge.columns import (
    DIGESTS,
    NORMS,
    STATE_COLUMNS,
    TENSOR_DIGESTS,
    Columns,
    contents,
    lists,
    matrix,
    numbers,
    tensor_digests,
    words,
)
from parity.judge.segments import Rows, same, segments
from parity.store.traces import is_long
from parity.store.trials import TrialRecord

# What is compared of a quantity beside its digest.
_BESIDE_DIGEST = {"state": STATE_COLUMNS}


def unlike_digests(left: TrialRecord, right: TrialRecord) -> str | None:
    """Why the digests of two trials say nothing about each other, and what to do; None where they do."""
    if left.digested_by == right.digested_by:
        return None
    hashed = next(record.trial for record in (left, right) if record.digested_by == "xxh3")
    return (
        f"their tensors cannot be compared: {left.trial} has digests of the kind {left.digested_by}, {right.trial} of "
        f'the kind {right.digested_by}. Record {hashed} again with parity.Recorder(digest="words"), or have '
        "parity.run train on both devices in one run"
    )


def paired(one: TrialRecord, other: TrialRecord) -> bool:
    """Whether the parameter tensors of two trials belong together, one by one: by name, or by order and shape."""
    if one.param_names == other.param_names:
        return True
    # A port of a model may name its parameters otherwise.
    return one.param_shapes is not None and one.param_shapes == other.param_shapes


@dataclass(frozen=True, eq=False)
class TrialTrace:
    """A trial's record and its stored trace."""

    record: TrialRecord
    columns: Columns = field(repr=False)
    # Filled by `signature`; then `has_same` needs no column.
    _fingerprints: dict[str, bytes] = field(default_factory=dict, init=False, repr=False)
    # Number of nulls in each column that was read; then `has` reads none again.
    _nulls: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def steps(self) -> int:
        """Number of steps, S."""
        return len(self._column("step"))

    def rows(self, begin: int) -> Rows:
        """The rows from one on, to be compared with as many of another trace."""
        return Rows(self.columns, self.record, begin)

    @property
    def first_step(self) -> int:
        """Number of the first step."""
        return self.record.first_step or 0

    def has(self, quantity: str) -> bool:
        """Whether the trace has the quantity, all of it, at each step: what is missing on both sides is not equal.

        Args:
            quantity: One of `trace.QUANTITIES`.
        """
        most = 0
        for name in (f"{quantity}_digest", *_BESIDE_DIGEST.get(quantity, ())):
            if name not in self._nulls:
                self._nulls[name] = self.columns.nulls(self.record, name)
            most = max(most, self._nulls[name])
        # A step that the optimizer did not take, such as one that a scaler skips, has no gradient of its own.
        return not most or (quantity == "step_grad" and most < self.steps)

    def texts(self, name: str) -> list[str | None]:
        """A column of names.

        Raises:
            Trouble: The trace is damaged.
        """
        found: list[str | None] = []
        for chunk in self._column(name).chunks:
            # One text for all rows that have it, which `to_pylist` would make anew for each: settings may be long.
            texts = [*chunk.dictionary.to_pylist(), None]
            found += [texts[index] for index in chunk.indices.fill_null(len(texts) - 1).to_pylist()]
        return found

    def lists(self, name: str) -> list[np.ndarray | None]:
        """A column of lists, row by row; None for a null.

        Raises:
            Trouble: The trace is damaged.
        """
        return lists(self._column(name))

    def words(self, name: str, begin: int, steps: int) -> np.ndarray | None:
        """Some rows of a column of lists of integers, dtype[S, N]; None where two lengths differ, or a row is null.

        Raises:
            Trouble: The trace is damaged.
        """
        return words(self._column(name).slice(begin, steps))

    def matrix(self, name: str, begin: int, steps: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Some rows of a column of lists of numbers, as one array; see `columns.matrix`.

        Args:
            name: Name of the column.
            begin: The first row.
            steps: The number of rows, S.

        Returns:
            The numbers, float64[S, N], NaN in a row that is null; and whether each row is a list, bool[S]. None where
            two of the lists have different lengths.

        Raises:
            Trouble: The trace is damaged.
        """
        return matrix(self._column(name).slice(begin, steps))

    def values(self, name: str) -> np.ndarray:
        """A column, with NaN for a null of floats and 0 for that of a digest; dtype[S].

        Args:
            name: Name of the column.

        Raises:
            Trouble: A trace is damaged.
        """
        return numbers(self._column(name))

    def digests(self, quantity: str) -> np.ndarray:
        """Digest of each parameter tensor; uint64[S, P].

        Args:
            quantity: One of `trace.TENSOR_QUANTITIES`.

        Raises:
            Trouble: A row has more or fewer digests than there are parameters.
        """
        name = f"{quantity}_digests"
        return tensor_digests(self.record, name, self._column(name))

    def values_at(self, name: str, row: int) -> np.ndarray:
        """One value of a column, as `values` has it; dtype[1].

        Raises:
            Trouble: The trace is damaged.
        """
        return numbers(self._row(name, row))

    def digests_at(self, quantity: str, row: int) -> np.ndarray:
        """Digest of each parameter tensor in one row; uint64[P].

        Raises:
            Trouble: The trace is damaged.
        """
        name = f"{quantity}_digests"
        found: np.ndarray = tensor_digests(self.record, name, self._row(name, row))[0]
        return found

    def list_at(self, name: str, row: int) -> np.ndarray | None:
        """A list of a column of them; None for a null.

        Raises:
            Trouble: The trace is damaged.
        """
        return lists(self._row(name, row))[0]

    def _row(self, name: str, row: int) -> pa.ChunkedArray:
        """One row of a column; of a long trace no more than its block is read."""
        rows = self.rows(row)
        (segment,) = segments(rows, rows, 1)
        return rows.read([name], segment.left)[name]

    def signature(self) -> tuple[bytes, ...]:
        """Fingerprints of all columns that make two traces equal or not; equal for equal traces.

        Raises:
            Trouble: A trace is damaged.
        """
        return tuple(self._fingerprint(name) for name in (*DIGESTS, *TENSOR_DIGESTS, *NORMS, *STATE_COLUMNS))

    def has_same(self, name: str, other: "TrialTrace") -> bool:
        """Whether a column is known to have the same bits in both, without reading it again.

        False also where it is not known: where neither `signature` has read it, nor the bytes that are stored of both
        are the same.
        """
        if self is other:
            return True
        mine, theirs = self._fingerprints.get(name), other._fingerprints.get(name)
        # Two columns without a fingerprint are not known to be equal.
        if mine is not None and theirs is not None:
            return mine == theirs
        address = self.columns.addresses(self.record, name)
        return address is not None and address == other.columns.addresses(other.record, name)

    def _fingerprint(self, name: str) -> bytes:
        """The same for all columns of a run that are equal to the bit."""
        if name not in self._fingerprints:
            self._fingerprints[name] = self._alike(name) if is_long(self.record) else self._digest(name)
        return self._fingerprints[name]

    def _alike(self, name: str) -> bytes:
        """The fingerprint of an earlier long trace with an equal column, else a new one."""
        record = self.record
        # Most traces that are not equal differ in their last row; the others are compared block by block.
        last = self._digest_of(name, self._row(name, record.rows - 1))
        others = self.columns.fingerprinted.setdefault((name, record.rows, len(record.param_names), last), [])
        for other, fingerprint in others:
            if same(name, self.rows(0), Rows(self.columns, other, 0), record.rows):
                return fingerprint
        addresses = self.columns.addresses(record, name)
        fingerprint = self._digest(name) if addresses is None else xxhash.xxh3_128_digest(b"".join(addresses))
        others.append((record, fingerprint))
        return fingerprint

    def _digest(self, name: str) -> bytes:
        """Digest of all bits of a column and of its length; of 128 bits, since equal ones are not compared again."""
        return self._digest_of(name, self._column(name))

    def _digest_of(self, name: str, column: pa.ChunkedArray) -> bytes:
        """The same of some rows of a column."""
        digest = xxhash.xxh3_128()
        for values in contents(self.record, name, column):
            # The shape first: equal bytes in another shape are another column.
            digest.update(str(values.shape).encode())
            digest.update(np.ascontiguousarray(values.reshape(-1)).data)
        return digest.digest()

    def _column(self, name: str) -> pa.ChunkedArray:
        return self.columns.get(self.record, name)
