"""The stored trace of one trial: each column is read when it is needed, and not again where a digest is enough.

Letters: S steps of the trace, P parameter tensors.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from parity.ground.errors import Trouble
from parity.store.trace import AUDIT_COLUMNS, NORMED_QUANTITIES, QUANTITIES, SKETCHED_QUANTITIES, TENSOR_QUANTITIES
from parity.store.traces import KEPT_BYTES, is_long, read_columns
from parity.store.trials import TrialRecord

_DIGESTS = tuple(f"{quantity}_digest" for quantity in QUANTITIES)
_TENSOR_DIGESTS = tuple(f"{quantity}_digests" for quantity in TENSOR_QUANTITIES)
_NORMS = tuple(f"{quantity}_norm" for quantity in NORMED_QUANTITIES)
# Columns of the state before a step, beside the digest of its tensors.
STATE_COLUMNS = ("settings", "state_counts", "generator_digests")
# What is compared of a quantity beside its digest.
_BESIDE_DIGEST = {"state": STATE_COLUMNS}
# The columns that are judged; a short trace is read once for all of them.
_JUDGED = (
    # What is dropped first comes first: states and distances are asked for once, and only of pairs.
    *STATE_COLUMNS,
    *(f"{quantity}_{kind}" for quantity in SKETCHED_QUANTITIES for kind in ("norms", "sketches")),
    *("step", "epoch", "batch", "rows", "elements", "output_grad_strided"),
    *("loss", *AUDIT_COLUMNS),
    *(*_DIGESTS, *_TENSOR_DIGESTS, *_NORMS, "step_grad_norm"),
)


class Columns:
    """The columns of a run's traces, each read from storage once while what was read fits into memory.

    Args:
        traces: Traces by the name of their trial.
        most_bytes: Most bytes that are kept of short traces; the columns of long ones are kept by `store.Traces`.
    """

    def __init__(self, traces: Mapping[str, pa.Table], *, most_bytes: int = KEPT_BYTES) -> None:
        self._traces = traces
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[str, str], pa.ChunkedArray] = OrderedDict()
        self._kept_bytes = 0

    def get(self, record: TrialRecord, name: str) -> pa.ChunkedArray:
        """A column of a trial's trace.

        Args:
            record: The trial.
            name: Name of the column.

        Raises:
            Trouble: The trace is damaged.
        """
        key = (record.trial, name)
        if key in self._kept:
            # The columns that were used last are dropped last.
            self._kept.move_to_end(key)
            return self._kept[key]
        # `store.Traces` keeps single columns of long traces itself.
        if name not in _JUDGED or is_long(record):
            return read_columns(self._traces, record.trial, [name])[name]
        # All at once: a trace's columns lie in one file, and the judge needs most of them.
        table = read_columns(self._traces, record.trial, _JUDGED)
        for each in _JUDGED:
            self._keep((record.trial, each), table[each])
        return table[name]

    def _keep(self, key: tuple[str, str], column: pa.ChunkedArray) -> None:
        # A trace is read again where only some of its columns were dropped.
        replaced = self._kept.pop(key, None)
        self._kept[key] = column
        self._kept_bytes += column.nbytes - (replaced.nbytes if replaced is not None else 0)
        # Even the column just read may go; its reader has it already.
        while self._kept_bytes > self._most_bytes:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes


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
                self._column(name)
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
        rows = self._column(name).combine_chunks()
        offsets, values = rows.offsets.to_numpy(), rows.values.to_numpy(zero_copy_only=False)
        valid = rows.is_valid().to_numpy(zero_copy_only=False)
        return [
            values[begin:end] if known else None for begin, end, known in zip(offsets, offsets[1:], valid, strict=False)
        ]

    def matrix(self, name: str, begin: int, steps: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Some rows of a column of lists of numbers, as one array; for long traces faster than `lists` by far.

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
        rows = self._column(name).combine_chunks().slice(begin, steps)
        known = rows.is_valid().to_numpy(zero_copy_only=False) if rows.null_count else np.ones(len(rows), bool)
        offsets = rows.offsets.to_numpy()
        lengths = np.diff(offsets)[known]
        width = int(lengths[0]) if lengths.size else 0
        if (lengths != width).any():
            return None
        # Arrow stores the lists in one flat array, where a null may stand for some numbers.
        flat = pc.list_flatten(rows) if rows.null_count else rows.values[offsets[0] : offsets[-1]]
        found = flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(lengths.size, width)
        if rows.null_count:
            found, listed = np.full((len(rows), width), np.nan), found
            found[known] = listed
        return found, known

    def values(self, name: str) -> np.ndarray:
        """A column, with NaN for a null of floats and 0 for that of a digest; dtype[S].

        Args:
            name: Name of the column.

        Raises:
            Trouble: A trace is damaged.
        """
        column = self._column(name)
        # NumPy would make floats of integers among nulls, which do not hold a digest.
        return np.asarray((pc.fill_null(column, 0) if column.type == pa.uint64() else column).to_numpy())

    def digests(self, quantity: str) -> np.ndarray:
        """Digest of each parameter tensor; uint64[S, P].

        Args:
            quantity: One of `trace.TENSOR_QUANTITIES`.

        Raises:
            Trouble: A row has more or fewer digests than there are parameters.
        """
        # Arrow stores lists in one flat array: one reshape instead of a Python list for each step.
        rows = self._column(f"{quantity}_digests")
        count = len(self.record.param_names)
        flat = pc.list_flatten(rows).to_numpy()
        # A reshape would mix up rows of different lengths without an error.
        if flat.size != len(rows) * count:
            raise Trouble(f"Trace {self.record.trace} is damaged: its {quantity}_digests are not {count} in each row.")
        return np.asarray(flat.reshape(len(rows), count))

    def signature(self) -> tuple[bytes, ...]:
        """Fingerprints of all columns that make two traces equal or not; equal for equal traces.

        Raises:
            Trouble: A trace is damaged.
        """
        return tuple(self._fingerprint(name) for name in (*_DIGESTS, *_TENSOR_DIGESTS, *_NORMS, *STATE_COLUMNS))

    def has_same(self, name: str, other: "TrialTrace") -> bool:
        """Whether a column is known to have the same bits in both, without reading it again.

        False also where it is not known: only `signature` reads the columns for this.
        """
        mine, theirs = self._fingerprints.get(name), other._fingerprints.get(name)
        # Two columns without a fingerprint are not known to be equal.
        return mine is not None and mine == theirs

    def _fingerprint(self, name: str) -> bytes:
        """Digest of all bits of a column and of its length; of 128 bits, since equal ones are not compared again."""
        if name not in self._fingerprints:
            digest = xxhash.xxh3_128()
            for values in self._contents(name):
                # The shape first: equal bytes in another shape are another column.
                digest.update(str(values.shape).encode())
                digest.update(np.ascontiguousarray(values.reshape(-1)).data)
            self._fingerprints[name] = digest.digest()
        return self._fingerprints[name]

    def _contents(self, name: str) -> Iterator[np.ndarray]:
        """Yields arrays that are equal where the columns are."""
        if name in _TENSOR_DIGESTS:
            yield self.digests(name.removesuffix("_digests"))
        elif name not in STATE_COLUMNS:
            yield self.values(name)
        else:
            column = self._column(name).combine_chunks()
            yield column.is_valid().to_numpy(zero_copy_only=False)
            if pa.types.is_list(column.type):
                yield pc.list_value_length(column).fill_null(-1).to_numpy()
                yield pc.list_flatten(column).to_numpy()
            else:
                # Numbered by their first appearance, since a file may keep its texts in any order.
                encoded = column.cast(pa.string()).dictionary_encode()
                yield encoded.indices.fill_null(-1).to_numpy()
                yield np.frombuffer("\0".join(filter(None, encoded.dictionary.to_pylist())).encode(), np.uint8)

    def _column(self, name: str) -> pa.ChunkedArray:
        column = self.columns.get(self.record, name)
        self._nulls[name] = column.null_count
        return column
