"""The stored columns of a run's traces: each is read when it is needed, and long ones block by block.

A block is a row group of a long trace. Blocks of equal addresses are equal, and need not be read to be known as such.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from parity.ground.errors import Trouble
from parity.judge.tensor_distances import TensorDistances
from parity.store.trace import AUDIT_COLUMNS, NORMED_QUANTITIES, QUANTITIES, SKETCHED_QUANTITIES, TENSOR_QUANTITIES
from parity.store.traces import KEPT_BYTES, Traces, estimated_bytes, is_long, read_columns
from parity.store.trials import TrialRecord

DIGESTS = tuple(f"{quantity}_digest" for quantity in QUANTITIES)
TENSOR_DIGESTS = tuple(f"{quantity}_digests" for quantity in TENSOR_QUANTITIES)
NORMS = tuple(f"{quantity}_norm" for quantity in NORMED_QUANTITIES)
# Columns of the state before a step, beside the digest of its tensors.
STATE_COLUMNS = ("settings", "state_counts", "generator_digests")
# The columns that are judged; a short trace is read once for all of them.
_JUDGED = (
    *STATE_COLUMNS,
    *(f"{quantity}_{kind}" for quantity in SKETCHED_QUANTITIES for kind in ("norms", "sketches")),
    *("step", "epoch", "batch", "rows", "elements", "output_grad_strided"),
    *("loss", *AUDIT_COLUMNS),
    *(*DIGESTS, *TENSOR_DIGESTS, *NORMS, "step_grad_norm"),
)
_PLACES = {name: place for place, name in enumerate(_JUDGED)}
# The first row of each block, and that after its last.
Blocks = tuple[tuple[int, int], ...]


class Columns:
    """The columns of a run's traces, each read from storage once while what was read fits into memory.

    Args:
        traces: Traces by the name of their trial.
        most_bytes: Most bytes that are kept of short traces; the columns of long ones are kept by `store.Traces`.
    """

    def __init__(self, traces: Mapping[str, pa.Table], *, most_bytes: int = KEPT_BYTES) -> None:
        self._traces = traces
        self._most_bytes = most_bytes
        # By trial, the columns `_JUDGED` of a short trace, and their bytes.
        self._kept: OrderedDict[str, tuple[pa.Table, int]] = OrderedDict()
        self._kept_bytes = 0
        # By column, shape and last row, the long traces with distinct content, and the fingerprint of each.
        self.fingerprinted: dict[tuple[str, int, int, bytes], list[tuple[TrialRecord, bytes]]] = {}
        # Distances of short traces, by what they are computed from; those that were asked for last.
        self.measured: OrderedDict[tuple[object, ...], TensorDistances] = OrderedDict()
        # By trial, column and rows, the digests of the lists of short traces.
        self._digests: dict[tuple[str, str, int, int], bytes] = {}

    def get(self, record: TrialRecord, name: str) -> pa.ChunkedArray:
        """A column of a trial's trace.

        Args:
            record: The trial.
            name: Name of the column.

        Raises:
            Trouble: The trace is damaged.
        """
        # `store.Traces` keeps single columns of long traces itself.
        if name not in _PLACES or is_long(record):
            return read_columns(self._traces, record.trial, [name])[name]
        if record.trial in self._kept:
            # The traces that were used last are dropped last.
            self._kept.move_to_end(record.trial)
            return self._kept[record.trial][0].column(_PLACES[name])
        # All at once: a trace's columns lie in one file, and the judge needs most of them.
        table = read_columns(self._traces, record.trial, _JUDGED)
        # Settings are texts of any length.
        size_bytes = estimated_bytes(record) + table.column(_PLACES["settings"]).nbytes
        self._kept[record.trial] = table, size_bytes
        self._kept_bytes += size_bytes
        # Even the trace just read may go; its reader has the column already.
        while self._kept_bytes > self._most_bytes:
            self._kept_bytes -= self._kept.popitem(last=False)[1][1]
        return table.column(_PLACES[name])

    def blocks(self, record: TrialRecord) -> Blocks | None:
        """The blocks of a long trace, or None where they are not known.

        Raises:
            Trouble: The trace is damaged.
        """
        return self._traces.blocks(record.trial) if isinstance(self._traces, Traces) else None

    def addresses(self, record: TrialRecord, name: str) -> tuple[bytes, ...] | None:
        """What the blocks of a column are known by, or None where that is not known.

        Raises:
            Trouble: The trace is damaged.
        """
        return self._traces.addresses(record.trial, name) if isinstance(self._traces, Traces) else None

    def block(self, record: TrialRecord, names: Sequence[str], number: int) -> Mapping[str, pa.ChunkedArray]:
        """Some columns of one of the `blocks` of a trace.

        Raises:
            Trouble: The trace is damaged.
        """
        assert isinstance(self._traces, Traces), "traces in memory have no blocks"
        return self._traces.block(record.trial, names, number)

    def nulls(self, record: TrialRecord, name: str) -> int:
        """Number of steps without a value in a column.

        Raises:
            Trouble: The trace is damaged.
        """
        if isinstance(self._traces, Traces) and is_long(record):
            return self._traces.nulls(record.trial, name)
        return int(self.get(record, name).null_count)

    def list_digest(self, record: TrialRecord, name: str, begin: int, rows: int) -> bytes:
        """A digest of some rows of a column of lists of a short trace, which is computed once.

        Args:
            record: The trial.
            name: Name of the column.
            begin: The first row.
            rows: The number of rows.

        Raises:
            Trouble: The trace is damaged.
        """
        key = (record.trial, name, begin, rows)
        if key not in self._digests:
            self._digests[key] = _digest_of_lists(self.get(record, name).slice(begin, rows))
        return self._digests[key]


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column of N numbers, with NaN for a null of floats and 0 for that of a digest; dtype[N]."""
    # NumPy would make floats of integers among nulls, which do not hold a digest.
    return np.asarray(
        (pc.fill_null(column, 0) if column.null_count and column.type == pa.uint64() else column).to_numpy()
    )


def tensor_digests(record: TrialRecord, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """A column of N lists of the digests of all P parameter tensors; uint64[N, P].

    Raises:
        Trouble: A row has more or fewer digests than there are parameters.
    """
    # Arrow stores lists in one flat array: one reshape instead of a Python list for each step.
    count = len(record.param_names)
    flat = pc.list_flatten(column).to_numpy()
    # A reshape would mix up rows of different lengths without an error.
    if flat.size != len(column) * count:
        raise Trouble(f"Trace {record.trace} is damaged: its {name} are not {count} in each row.")
    return np.asarray(flat.reshape(len(column), count))


def lists(column: pa.ChunkedArray) -> list[np.ndarray | None]:
    """A column of lists, row by row; None for a null."""
    rows = column.combine_chunks()
    offsets, values = rows.offsets.to_numpy(), rows.values.to_numpy(zero_copy_only=False)
    valid = rows.is_valid().to_numpy(zero_copy_only=False)
    return [
        values[begin:end] if known else None for begin, end, known in zip(offsets, offsets[1:], valid, strict=False)
    ]


def matrix(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray] | None:
    """A column of N lists of numbers, as one array.

    Returns:
        The numbers, float64[N, W], NaN in a row that is null; and whether each row is a list, bool[N]. None where two
        of the lists have different lengths.
    """
    rows = column.combine_chunks()
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


def _digest_of_lists(column: pa.ChunkedArray) -> bytes:
    """A digest of 128 bits of a column of lists of numbers: equal ones are equal to the bit."""
    rows = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    digest = xxhash.xxh3_128(f"{rows.type} {len(rows)}".encode())
    # Between two offsets lies a list; a null has whatever length it has.
    offsets = rows.offsets.to_numpy()
    digest.update(np.diff(offsets))
    if rows.null_count:
        digest.update(np.packbits(rows.is_valid().to_numpy(zero_copy_only=False)).tobytes())
        values = rows.flatten().to_numpy(zero_copy_only=False)
    else:
        # Much faster than to flatten them, and the same.
        values = rows.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
    digest.update(np.ascontiguousarray(values).data)
    return digest.digest()


def words(column: pa.ChunkedArray) -> np.ndarray | None:
    """A column of N lists of integers, dtype[N, W]; None where their lengths are not all W, or a row is null."""
    if column.null_count or not len(column):
        return None
    lengths = pc.list_value_length(column).to_numpy()
    if (lengths != lengths[0]).any():
        return None
    return np.asarray(pc.list_flatten(column).to_numpy().reshape(len(column), int(lengths[0])))


def contents(record: TrialRecord, name: str, column: pa.ChunkedArray) -> Iterator[np.ndarray]:
    """Yields arrays that are equal to the bit where columns are.

    Raises:
        Trouble: The column is damaged.
    """
    if name in TENSOR_DIGESTS:
        yield tensor_digests(record, name, column)
    elif name not in STATE_COLUMNS:
        yield numbers(column)
    else:
        whole = column.combine_chunks()
        yield whole.is_valid().to_numpy(zero_copy_only=False)
        if pa.types.is_list(whole.type):
            yield pc.list_value_length(whole).fill_null(-1).to_numpy()
            yield pc.list_flatten(whole).to_numpy()
        else:
            # Numbered by their first appearance, since a file may keep its texts in any order.
            encoded = whole.cast(pa.string()).dictionary_encode()
            yield encoded.indices.fill_null(-1).to_numpy()
            yield np.frombuffer("\0".join(filter(None, encoded.dictionary.to_pylist())).encode(), np.uint8)
