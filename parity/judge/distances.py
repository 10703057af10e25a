"""How far the tensors of two traces are apart at each step, estimated from what each of them stored.

Letters: S steps that both traces have; T tensors of a quantity.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from parity.judge.columns import matrix
from parity.judge.common_steps import Both, CommonSteps
from parity.judge.segments import Segment, Span, segments
from parity.judge.tensor_distances import TensorDistances, joined
from parity.judge.trial_trace import paired
from parity.judge.unmoved import idle_buffers, unmoved
from parity.store.trace import SKETCH_SUMS
from parity.store.traces import is_long
from parity.store.trials import TrialRecord

# Number of significant bits of the dtypes that models compute in, the implicit one included.
_BITS = {"float8_e5m2": 3, "float8_e4m3fn": 4, "float16": 11, "bfloat16": 8, "tf32": 11, "float32": 24, "float64": 53}
_BITS |= {"complex32": 11, "complex64": 24, "complex128": 53}
# Parts that stay in memory: a step is looked at together with some before and after it.
_KEPT_PARTS = 3
# Distances that are kept of the content of short traces, of which many may be equal, and most bytes of each.
_KNOWN, _KNOWN_BYTES = 64, 2**20

# As `TrialTrace.matrix` returns them.
_Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Distances:
    """The distances of the tensors of one quantity at the common steps of two traces.

    Those of all tensors together are kept. Those of single tensors take gigabytes of a long trace, and are read again
    by who asks for them.

    Attributes:
        whole: Relative distance of all tensors together; float64[S].
        whole_norm: Norm of all tensors of the baseline together; float64[S].
        whole_absolute: ||b - a|| of all tensors together; float64[S].
        tensors: Number of tensors, T.
        parts: Where those of single tensors are read.
    """

    whole: np.ndarray
    whole_norm: np.ndarray
    whole_absolute: np.ndarray
    tensors: int
    parts: _Parts

    def each_part(self, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, TensorDistances]]:
        """Yields the distances of single tensors part by part, each after the position of its first step.

        Args:
            begin: Position of the first step that is asked for.
            end: Position after the last; None for all that follow.

        Raises:
            Trouble: A trace is damaged.
        """
        end = len(self.whole) if end is None else end
        for number, segment in enumerate(self.parts.segments):
            first, last = max(begin, segment.begin), min(end, segment.end)
            if first < last:
                yield first, self.parts.read(number).cut(first - segment.begin, last - segment.begin)

    def between(self, begin: int, end: int) -> TensorDistances:
        """The distances of single tensors at the steps from one position up to another, which is after it.

        Raises:
            Trouble: A trace is damaged.
        """
        return joined([part for _, part in self.each_part(begin, end)])

    def at(self, index: int) -> TensorDistances:
        """The distances of single tensors at one step, of which there is one row.

        Raises:
            Trouble: A trace is damaged.
        """
        return self.between(index, index + 1)


def measure(both: Both, quantity: str) -> Distances | None:
    """The distances of a quantity; None where a side has no sketches of it, or they cannot be paired.

    Args:
        both: The common steps of the two traces.
        quantity: One of `trace.SKETCHED_QUANTITIES`.

    Raises:
        Trouble: A trace is damaged.
    """
    if quantity in ("param_grad", "step_grad", "update") and not paired(*(side.trace.record for side in both)):
        return None
    steps = both[0].steps
    if not steps or any(_lacks(side, quantity) for side in both):
        return None
    parts = _Parts(both, quantity)
    whole, whole_norm, whole_absolute = np.empty((3, steps))
    tensors = None
    for number, segment in enumerate(parts.segments):
        found, rows = parts.measure(number), slice(segment.begin, segment.end)
        if found is None or tensors not in (None, found.tensors):
            return None
        tensors = found.tensors
        whole[rows], whole_norm[rows], whole_absolute[rows] = found.whole, found.whole_norm, found.whole_absolute
    assert tensors is not None, "there are steps"
    return Distances(whole, whole_norm, whole_absolute, tensors, parts)


def _lacks(side: CommonSteps, quantity: str) -> bool:
    """Whether a short trace has no norm of a quantity at any step, nor another gradient that would stand for it."""
    trace = side.trace
    if is_long(trace.record):
        return False
    return quantity != "step_grad" and trace.columns.nulls(trace.record, f"{quantity}_norms") == trace.steps


def has_unchanged_gradient(side: CommonSteps) -> bool:
    """Whether a side stores no gradient of the optimizer's own, since nothing has changed the one of backward.

    Raises:
        Trouble: The trace is damaged.
    """
    trace = side.trace
    columns = [f"step_grad_{kind}" for kind in ("norms", "sketches")]
    return trace.has("step_grad") and all(trace.columns.nulls(trace.record, name) == trace.steps for name in columns)


class _Parts:
    """The distances of a quantity in each segment of two traces; those that were asked for last stay in memory."""

    def __init__(self, both: Both, quantity: str) -> None:
        self._both, self._quantity = both, quantity
        self.segments = tuple(segments(both[0].rows(), both[1].rows(), both[0].steps))
        self._kept: OrderedDict[int, TensorDistances] = OrderedDict()

    def read(self, number: int) -> TensorDistances:
        """Those of a segment that was measured."""
        found = self.measure(number)
        assert found is not None, "a quantity is known in all segments or in none"
        return found

    def measure(self, number: int) -> TensorDistances | None:
        """Those of a segment; None where they are not known.

        Raises:
            Trouble: A trace is damaged.
        """
        if number not in self._kept:
            found = self._measure(self.segments[number])
            if found is None:
                return None
            self._kept[number] = found
            if len(self._kept) > _KEPT_PARTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def _measure(self, segment: Segment) -> TensorDistances | None:
        """Those of a segment; of traces with equal content they are computed once."""
        key, known = self._content(segment), self._both[0].trace.columns.measured
        if key is not None and key in known:
            known.move_to_end(key)
            return known[key]
        found, alone = self._compute(segment)
        # Where a side has a tensor alone, other columns decide as well.
        if key is not None and found is not None and not alone and 3 * found.absolute.nbytes <= _KNOWN_BYTES:
            known[key] = found
            if len(known) > _KNOWN:
                known.popitem(last=False)
        return found

    def _content(self, segment: Segment) -> tuple[object, ...] | None:
        """What the distances of a segment of short traces are computed from; None where it is more than two columns."""
        # Buffers and the gradients of the optimizer look at other columns, too.
        if self._quantity in ("buffer", "step_grad") or any(is_long(side.trace.record) for side in self._both):
            return None
        digests = [
            side.trace.columns.list_digest(side.trace.record, f"{self._quantity}_{kind}", span.begin, span.rows)
            for side, span in zip(self._both, (segment.left, segment.right), strict=True)
            for kind in ("norms", "sketches")
        ]
        return (self._quantity, *digests)

    def _compute(self, segment: Segment) -> tuple[TensorDistances | None, bool]:
        """Those of a segment, or None; and whether a side has a tensor that the other one lacks."""
        quantity = self._quantity
        spans = (segment.left, segment.right)
        left, right = (_read(side, span, quantity) for side, span in zip(self._both, spans, strict=True))
        if left is None or right is None or left[1].shape != right[1].shape or not left[1].size:
            return None, False
        (left_norms, left_sketches), (right_norms, right_sketches) = left, right
        with np.errstate(invalid="ignore", over="ignore"):
            squares = np.square(np.subtract(left_sketches, right_sketches, out=left_sketches), out=left_sketches)
            # A norm and `SKETCH_SUMS` sums of each tensor.
            absolute = np.sqrt(squares.reshape(len(squares), -1, SKETCH_SUMS).sum(axis=2))
        if quantity == "buffer":
            absolute = np.where(self._idle_buffers, 0.0, absolute)
        missing = np.isnan(left_norms), np.isnan(right_norms)
        one_sided = missing[0] ^ missing[1]
        alone = bool(one_sided.any())
        if quantity in ("param_grad", "step_grad") and one_sided.any():
            # A parameter that the loss does not depend on has no gradient on one side, and zeros on the other. If the
            # optimizer treats the two differently (decay, momentum), the update shows it.
            one_sided = one_sided & (left_norms != 0) & (right_norms != 0)
            # The gradient of a parameter that nobody moves: one side freezes it, the other leaves it to no optimizer.
            one_sided = one_sided & ~self._unmoved
        absolute = np.where(one_sided, np.inf, np.where(missing[0] | missing[1], 0.0, absolute))
        return TensorDistances(absolute, np.nan_to_num(left_norms), np.nan_to_num(right_norms, posinf=np.inf)), alone

    @cached_property
    def _idle_buffers(self) -> np.ndarray:
        return idle_buffers(self._both)

    @cached_property
    def _unmoved(self) -> np.ndarray:
        return unmoved(self._both)


def unit(both: Both) -> float:
    """The unit roundoff u of the coarsest dtype that the baseline's training shows."""
    # Not the candidate's: one that computes in a narrower dtype than the baseline does not differ by rounding only.
    return unit_of(both[0].trace.record)


def unit_after_equal_bits(both: Both, quantity: str) -> float:
    """The unit roundoff u in which a quantity is computed where everything before it is equal to the bit.

    Clipping and the optimizer compute in the dtypes of the parameters, even where autocast computes the gradients in a
    narrower one.

    Args:
        both: The two traces.
        quantity: One of `trace.SKETCHED_QUANTITIES`, or "param".
    """
    dtypes = both[0].trace.record.param_dtypes
    return max(map(unit_of_dtype, dtypes)) if dtypes and quantity in ("step_grad", "update", "param") else unit(both)


def unit_of(record: TrialRecord) -> float:
    """The unit roundoff u of the coarsest dtype that a training shows; of float32 where none is known."""
    dtypes = {record.output_dtype, record.computed_dtype, record.loss_dtype, *(record.param_dtypes or ())}
    return max([2.0 ** -_BITS[dtype] for dtype in dtypes if dtype in _BITS], default=2.0**-24)


def unit_of_dtype(dtype: str | None) -> float:
    """The unit roundoff u of a dtype; of float32 where it is not known.

    >>> unit_of_dtype("bfloat16"), unit_of_dtype("float32") == unit_of_dtype(None)
    (0.00390625, True)
    """
    return 2.0 ** -_BITS.get(dtype or "", 24)


def unit_of_quantity(record: TrialRecord, quantity: str, tensor: str | None = None) -> float:
    """The unit roundoff in which errors of a quantity are counted: that of its own dtype.

    Args:
        record: A trial.
        quantity: One of `trace.QUANTITIES`, or "update".
        tensor: The parameter, of a quantity that has one for each.
    """
    if quantity == "loss":
        return unit_of_dtype(record.loss_dtype)
    if quantity in ("output", "output_grad", "target_grad"):
        return unit_of_dtype(record.output_dtype or record.loss_dtype)
    dtypes = dict(zip(record.param_names, record.param_dtypes or (), strict=False))
    return unit_of_dtype(dtypes.get(tensor or "", next(iter(dtypes.values()), None)))


def _read(side: CommonSteps, span: Span, quantity: str) -> tuple[np.ndarray, np.ndarray] | None:
    """A quantity's norms, float64[N, T], and sketches, float64[N, T * 8]; None where one of the N rows lacks them."""
    norms, sketches = _matrices(side, span, quantity)
    known = all(rows is not None and rows[1].all() for rows in (norms, sketches))
    if not known and quantity == "step_grad" and side.trace.has("step_grad"):
        # Stored only where something has changed the gradient between backward and the optimizer's step.
        norms, sketches = map(_completed, (norms, sketches), _matrices(side, span, "param_grad"))
    if norms is None or sketches is None or not norms[1].all() or not sketches[1].all():
        return None
    return norms[0], sketches[0]


def _matrices(side: CommonSteps, span: Span, quantity: str) -> tuple[_Rows | None, _Rows | None]:
    """A quantity's norms and sketches."""
    names = [f"{quantity}_norms", f"{quantity}_sketches"]
    found = side.rows().read(names, span)
    return matrix(found[names[0]]), matrix(found[names[1]])


def _completed(one: _Rows | None, other: _Rows | None) -> _Rows | None:
    """Rows, and those of the other where they are null; None where they have different lengths."""
    if one is None or one[1].all():
        return one
    if other is None or not one[1].any():
        return other
    if one[0].shape != other[0].shape:
        return None
    return np.where(one[1][:, None], one[0], other[0]), one[1] | other[1]
