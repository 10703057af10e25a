"""What happened to the gradients between backward and the optimizer's step, tensor by tensor.

Clipping by the whole norm and a loss scale multiply all tensors by one factor. Whatever else changes them does not.

Letters: T parameter tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.step_sketches import factor_between, sketches_at

# A factor is known to this part, relative: sums of float32 are off by some 1e-6.
_PRECISION = 1e-5
# The most factors of single tensors that are tried as that of all.
_TRIED = 32
# The most tensors that are named.
_NAMED = 4


@dataclass(frozen=True)
class _Change:
    """What one side has done to its gradients.

    Attributes:
        factor: The factor that most of the tensors share; None where no two do.
        others: What happened to each tensor that does not share it, by its number.
        known: Whether each of the others is a multiple of what it was.
        tensors: Number of tensors, T.
    """

    factor: float | None
    others: dict[int, str]
    known: bool
    tensors: int

    def explain(self, names: Sequence[str]) -> str:
        """The change in words."""
        if self.factor is None or len(self.others) > self.tensors / 2:
            return "another multiple of that of backward in each tensor" if self.known else _NO_MULTIPLE
        if not self.others:
            return _times(self.factor)
        by_word: dict[str, list[str]] = {}
        for tensor, word in self.others.items():
            by_word.setdefault(word, []).append(names[tensor])
        words = [f"{word} in {_list(those)}" for word, those in by_word.items()]
        return (
            f"{', '.join(words[:_NAMED])}{', …' if len(words) > _NAMED else ''} ({_times(self.factor)} in all others)"
        )


_NO_MULTIPLE = "not a multiple of that of backward"


def describe_between(comparison: Comparison, index: int) -> str | None:
    """What happened to the gradients between backward and the optimizer's step; None where that is not known.

    Args:
        comparison: The two traces.
        index: Position of the step among the common ones.

    Raises:
        Trouble: A trace is damaged.
    """
    precision = max(_PRECISION, 4 * comparison.unit)
    left, right = (_change(comparison, side, index, precision) for side in (0, 1))
    if left is None or right is None:
        return None
    names = comparison.baseline.record.param_names
    if left.tensors != right.tensors or len(names) != left.tensors:
        return None
    if not left.others and not right.others:
        if left.factor is None or right.factor is None or abs(left.factor - right.factor) <= precision * left.factor:
            return None
        why = "clipping or the loss scale differs"
    elif max(len(left.others), len(right.others)) > left.tensors / 2:
        why = "something changes it by no common factor, such as clipping by value or of each tensor by itself"
    else:
        why = "something changes single tensors"
    return (
        f"the gradient that the optimizer received is {left.explain(names)} in the baseline and "
        f"{right.explain(names)} in the candidate: "
        f"between backward and the optimizer's step, {why}"
    )


def _change(comparison: Comparison, side: int, index: int, precision: float) -> _Change | None:
    """What one side has done to its gradients; None where its sketches are not stored."""
    steps = comparison.common[side]
    before, after = sketches_at(steps, "param_grad", index), sketches_at(steps, "step_grad", index)
    if before is None or (after is not None and after.shape != before.shape):
        return None
    if after is None or np.array_equal(before, after):
        return _Change(1.0, {}, True, len(before))
    norms = steps.list_at("step_grad_norms", index)
    missing = np.zeros(len(before), bool) if norms is None else np.isnan(np.asarray(norms, np.float64))
    factor, shares = _common_factor(before, after, precision)
    # A gradient of which there was none from backward has nothing that could be missing.
    shares = shares & ~(missing & before.any(axis=1))
    found = {
        int(tensor): _own(before[tensor], after[tensor], bool(missing[tensor])) for tensor in np.flatnonzero(~shares)
    }
    return _Change(factor, found, _NO_MULTIPLE not in found.values(), len(before))


def _common_factor(before: np.ndarray, after: np.ndarray, precision: float) -> tuple[float | None, np.ndarray]:
    """The factor that most tensors share, no change first, and whether each does; bool[T]."""
    best: tuple[float | None, np.ndarray] = (None, np.zeros(len(before), bool))
    for factor in _factors(before, after):
        off = np.linalg.norm(after - factor * before, axis=1)
        shares = off <= precision * np.maximum(
            np.linalg.norm(after, axis=1), abs(factor) * np.linalg.norm(before, axis=1)
        )
        if shares.sum() > best[1].sum():
            best = (factor, shares)
    return best


def _factors(before: np.ndarray, after: np.ndarray) -> Iterator[float]:
    """Factors that all tensors may share: none, the one that fits best, and those of single tensors."""
    yield 1.0
    size = float(np.sum(before * before))
    if size:
        yield float(np.sum(before * after)) / size
    squares = np.sum(before * before, axis=1)
    some = np.flatnonzero(squares)[:_TRIED]
    yield from (np.sum(before[some] * after[some], axis=1) / squares[some]).tolist()


def _own(before: np.ndarray, after: np.ndarray, missing: bool) -> str:
    """What happened to one tensor, in words."""
    if missing:
        return "missing"
    if not after.any():
        return "zero"
    factor = factor_between(before, after, fit=1e-3)
    return _NO_MULTIPLE if factor is None else _times(factor)


def _times(factor: float) -> str:
    return "unchanged" if abs(factor - 1) <= 1e-6 else f"{factor:.4g} times that of backward"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
