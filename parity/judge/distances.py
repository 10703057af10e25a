"""How far the tensors of two traces are apart at each step, estimated from what each of them stored.

Letters: S steps that both traces have; T tensors of a quantity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np

from parity.judge.columns import matrix
from parity.judge.common_steps import Both, CommonSteps
from parity.judge.segments import Rows, Span, segments
from parity.judge.trial_trace import paired
from parity.store.trace import SKETCH_SUMS
from parity.store.trials import TrialRecord

# Number of significant bits of the dtypes that models compute in, the implicit one included.
_BITS = {"float8_e5m2": 3, "float8_e4m3fn": 4, "float16": 11, "bfloat16": 8, "tf32": 11, "float32": 24, "float64": 53}
_BITS |= {"complex32": 11, "complex64": 24, "complex128": 53}

# As `TrialTrace.matrix` returns them.
_Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class TensorDistances:
    """The distances of the tensors of one quantity, ||b - a||, and the norms that they are held against.

    A tensor that only one side has is infinitely far; a distance that is not known is NaN.

    Attributes:
        absolute: ||b - a|| of each tensor; float64[S, T].
        norms: ||a|| of each tensor of the baseline; float64[S, T].
        other_norms: ||b|| of each tensor of the candidate; float64[S, T].
    """

    absolute: np.ndarray
    norms: np.ndarray
    other_norms: np.ndarray

    @cached_property
    def whole_norm(self) -> np.ndarray:
        """Norm of all tensors of the baseline together; float64[S]."""
        with np.errstate(over="ignore"):  # beyond the range of float64 a norm is infinite
            norm: np.ndarray = np.sqrt(np.nansum(np.square(self.norms), axis=1))
        return norm

    @cached_property
    def whole(self) -> np.ndarray:
        """Relative distance of all tensors together; float64[S]."""
        return _over(np.sqrt(np.square(self.absolute).sum(axis=1)), self.whole_norm)

    @cached_property
    def each(self) -> np.ndarray:
        """Relative distance of each tensor, beside its own norm; float64[S, T]."""
        return _over(self.absolute, np.nan_to_num(self.norms))

    @cached_property
    def beside_whole(self) -> np.ndarray:
        """Distance of each tensor beside the norm of all of them; float64[S, T]."""
        return _over(self.absolute, self.whole_norm[:, None])

    @cached_property
    def whole_length(self) -> np.ndarray:
        """How much longer or shorter all tensors together are, | ||b|| - ||a|| | / ||a||; float64[S]."""
        with np.errstate(invalid="ignore", over="ignore"):
            lengths = [np.sqrt(np.square(norms).sum(axis=1)) for norms in (self.norms, self.other_norms)]
            return _over(np.abs(lengths[1] - lengths[0]), self.whole_norm)

    @cached_property
    def length_beside_whole(self) -> np.ndarray:
        """How much longer or shorter each tensor is, beside the norm of all of them; float64[S, T]."""
        with np.errstate(invalid="ignore"):
            return _over(np.abs(self.other_norms - self.norms), self.whole_norm[:, None])

    def without(self, left_out: np.ndarray | None) -> TensorDistances:
        """The same with a distance of 0 for some tensors, which still belong to the norm of all of them.

        Args:
            left_out: Those tensors; bool[S, T]. None for none.
        """
        if left_out is None:
            return self
        # A tensor that one side lacks is infinitely far, whatever its gradient was.
        nothing = left_out & np.isfinite(self.absolute)
        absolute = np.where(nothing, 0.0, self.absolute)
        return TensorDistances(absolute, self.norms, np.where(nothing, self.norms, self.other_norms))

    def upto(self, end: int) -> TensorDistances:
        """Those of the steps before a position, or before one that is counted from the end if it is negative."""
        return TensorDistances(self.absolute[:end], self.norms[:end], self.other_norms[:end])


def measure(both: Both, quantity: str) -> TensorDistances | None:
    """The distances of a quantity; None where a side has no sketches of it, or they cannot be paired.

    Args:
        both: The common steps of the two traces.
        quantity: One of `trace.SKETCHED_QUANTITIES`.

    Raises:
        Trouble: A trace is damaged.
    """
    if quantity in ("param_grad", "step_grad", "update") and not paired(*(side.trace.record for side in both)):
        return None
    if not both[0].steps:
        return None
    left_norms, right_norms = (_complete(side.matrix, side, quantity, "norms") for side in both)
    absolute = None if left_norms is None or right_norms is None else _apart(both, quantity)
    if left_norms is None or right_norms is None or absolute is None:
        return None
    if quantity == "buffer":
        absolute = np.where(_counters(both) | _constant(both), 0.0, absolute)
    missing = np.isnan(left_norms), np.isnan(right_norms)
    one_sided = missing[0] ^ missing[1]
    if quantity in ("param_grad", "step_grad") and one_sided.any():
        # The gradient of a parameter that nobody moves, which one side freezes and the other leaves to no optimizer.
        one_sided = one_sided & ~unmoved(both)
    absolute = np.where(one_sided, np.inf, np.where(missing[0] | missing[1], 0.0, absolute))
    return TensorDistances(absolute, np.nan_to_num(left_norms), np.nan_to_num(right_norms, posinf=np.inf))


def unmoved(both: Both) -> np.ndarray:
    """Whether neither side moves a parameter in any of the common steps; bool[T]. False where that is not known.

    Raises:
        Trouble: A trace is damaged.
    """
    found = [side.matrix("update_norms") for side in both]
    if any(each is None or not each[1].all() for each in found):
        return np.zeros(1, bool)
    norms = [np.nan_to_num(each[0]) for each in found if each]
    return np.asarray(~(norms[0].any(axis=0) | norms[1].any(axis=0)))


def _constant(both: Both) -> np.ndarray:
    """Whether each buffer is a constant on both sides, as a table of positions is: it shows in the outputs."""
    constant = np.ones(1, bool)
    for side in both:
        for name, width in (("buffer_norms", 1), ("buffer_sketches", SKETCH_SUMS)):
            still = _still(side, name) if side.steps > 1 else None
            if still is None:
                return np.zeros(1, bool)
            constant = constant & still.reshape(-1, width).all(axis=1)
    return constant


def _still(side: CommonSteps, name: str) -> np.ndarray | None:
    """Whether each of the W numbers of a column is the same in all rows; bool[W]. None where lengths differ."""
    first, still = None, None
    for segment in segments(side.rows(), side.rows(), side.steps):
        rows = _read(side.rows(), segment.left, name)
        if rows is None or (first is not None and rows[0].shape[1:] != first.shape):
            return None
        if first is None or still is None:
            first, still = rows[0][0], np.ones(rows[0].shape[1], bool)
        still &= (rows[0] == first).all(axis=0)
    return still


def _counters(both: Both) -> np.ndarray:
    """Whether each buffer is a counter of batches: what it does to the training shows in the running averages."""
    names = both[0].trace.record.buffer_names or []
    return np.array([name.endswith("num_batches_tracked") for name in names], bool)


def unit(both: Both) -> float:
    """The unit roundoff u of the coarsest dtype that the baseline's training shows."""
    # Not the candidate's: one that computes in a narrower dtype than the baseline does not differ by rounding only.
    return unit_of(both[0].trace.record)


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


def _apart(both: Both, quantity: str) -> np.ndarray | None:
    """||b - a|| of each tensor by its sketches, float64[S, T]; None where a trace has none, or other tensors."""
    found = []
    # Segment by segment, since the sketches of a long trace take gigabytes.
    for segment in segments(both[0].rows(), both[1].rows(), both[0].steps):
        sides = []
        for side, span in zip(both, (segment.left, segment.right), strict=True):
            read = partial(_read, side.rows(), span)
            sides.append(_complete(read, side, quantity, "sketches"))
        left, right = sides
        if left is None or right is None or left.shape != right.shape or not left.size:
            return None
        with np.errstate(invalid="ignore", over="ignore"):
            squares = np.square(np.subtract(left, right, out=left), out=left)
            found.append(np.sqrt(squares.reshape(len(left), -1, SKETCH_SUMS).sum(axis=2)))
    return np.concatenate(found)  # as wide in each segment, since the norms are, of which each has `SKETCH_SUMS`


def _read(rows: Rows, span: Span, name: str) -> _Rows | None:
    return matrix(rows.read([name], span)[name])


def _complete(
    read: Callable[[str], _Rows | None], side: CommonSteps, quantity: str, kind: Literal["norms", "sketches"]
) -> np.ndarray | None:
    """A quantity's norms or sketches, float64[N, W]; None where one of the N rows that are read lacks them."""
    found = read(f"{quantity}_{kind}")
    if quantity == "step_grad" and side.trace.has("step_grad"):
        # Stored only where something has changed the gradient between backward and the optimizer's step.
        found = _completed(found, read(f"param_grad_{kind}"))
    return found[0] if found is not None and found[1].all() else None


def _completed(one: _Rows | None, other: _Rows | None) -> _Rows | None:
    """Rows, and those of the other where they are null; None where they have different lengths."""
    if one is None or other is None or one[1].all():
        return one
    if not one[1].any():
        return other
    if one[0].shape != other[0].shape:
        return None
    return np.where(one[1][:, None], one[0], other[0]), one[1] | other[1]


def _over(distance: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """Distance / norm: 0 where there is no distance, infinite beside a norm of 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(distance == 0, 0.0, distance / norm)
