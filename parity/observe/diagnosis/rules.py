"""What is wrong with a gradient at one step: the rule that fits it to rounding, or "unknown".

The rules are tried from the most exact to the least. What holds over several steps (only partial batches, from a step
on, which quantity a constant is) is for `causes` to find.

Shapes: R rows, C columns (all further dimensions flattened); gradients are float64 on the CPU.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from parity.observe.audit import Oracle, errors
from parity.observe.diagnosis.hypotheses import gradient, has_low_precision, in_low_precision, other_losses
from parity.plan import lines
from parity.plan.named_constants import name_constant
from parity.tasks.losses import Loss


@dataclass(frozen=True)
class Finding:
    """A row of findings.parquet: what fits the gradient of one step.

    Attributes:
        step: From 0.
        kind: One of `trace.FINDINGS`.
        value: Of a scaled gradient the factor, of an offset what is added, else None.
        detail: Which rows, which loss, ...; "" where the kind says it all.
    """

    step: int
    kind: str
    value: float | None
    detail: str


@dataclass(frozen=True)
class _Case:
    """A wrong gradient; all of it float64[R, C] but for the tensors that the losses take.

    Attributes:
        grad: The candidate's.
        exact: The oracle's.
        fit: What rounding may leave of a rule that fits, relative.
    """

    output: torch.Tensor
    target: torch.Tensor
    raw: torch.Tensor
    grad: np.ndarray
    exact: np.ndarray
    baseline: Loss
    oracle: Oracle
    fit: float

    @property
    def error(self) -> float:
        return _norm(self.grad - self.exact)

    def fits(self, other: np.ndarray, *, fit: float | None = None) -> bool:
        """Whether another gradient is the candidate's, to rounding or to `fit`."""
        return _norm(self.grad - other) <= (self.fit if fit is None else fit) * _norm(other)


def diagnose(
    step: int, output: torch.Tensor, target: torch.Tensor, output_grad: torch.Tensor, *, baseline: Loss, oracle: Oracle
) -> Finding | None:
    """Looks for what is wrong with a gradient.

    Args:
        step: From 0.
        output: What the loss got; dtype[R, ...] on the CPU.
        target: What the loss got.
        output_grad: What its backward gave, of the output's shape and dtype.
        baseline: The loss it is held against, in the dtypes that it is given.
        oracle: The same in float64.

    Returns:
        The first rule that fits; None where the gradient is as near to the oracle's as the baseline's.

    Raises:
        OracleUnavailable: As `audit.errors`.
    """
    own_u = _own_error_u(output, target, baseline=baseline, oracle=oracle)
    unit = torch.finfo(output.dtype).eps / 2
    case = _Case(
        output=output.detach(),
        target=target.detach(),
        raw=output_grad,
        grad=_flat(output_grad.detach().double().numpy()),
        exact=_flat(np.asarray(oracle(output, target)[1], dtype=np.float64)),
        baseline=baseline,
        oracle=oracle,
        fit=lines.RULE_FIT.value * own_u * unit,
    )
    if not np.isfinite(case.exact).all() or case.error <= lines.SUSPICIOUS_GRADIENT.value * own_u * unit * _norm(
        case.exact
    ):
        return None
    for rule in _RULES:
        found = rule(case)
        if found:
            return Finding(step, *found)
    size = _norm(case.grad) / _norm(case.exact) if case.exact.any() else math.inf
    cosine = float((case.grad * case.exact).sum()) / (_norm(case.grad) * _norm(case.exact) or math.inf)
    return Finding(step, "unknown", None, f"norm {size:.6g} times the float64 one's, cosine {cosine:.6g}")


_Found = tuple[str, float | None, str] | None


def _nonfinite(case: _Case) -> _Found:
    wrong = ~np.isfinite(case.grad) & np.isfinite(case.exact)
    if not wrong.any():
        return None
    return "nan", None, f"{int(wrong.sum())} of {wrong.size} elements of the gradient are not finite"


def _zero(case: _Case) -> _Found:
    return None if case.grad.any() else ("zero", None, "")


def _root(case: _Case) -> _Found:
    """Of the square root of the baseline's loss: a scale that changes with the loss."""
    loss = case.oracle(case.output, case.target)[0]
    if not loss > 0 or not case.fits(case.exact / (2 * math.sqrt(loss))):
        return None
    is_mse = case.target.is_floating_point() and case.target.shape == case.output.shape
    return "other loss", None, "RMSE" if is_mse else "the square root of the baseline's"


def _scaled(case: _Case) -> _Found:
    size = float((case.exact**2).sum())
    factor = float((case.grad * case.exact).sum()) / size if size else 0.0
    return ("scaled", factor, "") if factor and case.fits(factor * case.exact) else None


def _offset(case: _Case) -> _Found:
    difference = case.grad - case.exact
    added = float(difference.mean())
    left = _norm(difference - added)
    fits = left <= max(
        case.fit / lines.RULE_FIT.value * lines.SUSPICIOUS_GRADIENT.value / 2 * _norm(case.exact),
        lines.OFFSET_FIT.value * case.error,
    )
    return ("offset", added, "") if fits and left < case.error / 2 else None


def _permuted(case: _Case) -> _Found:
    if not np.allclose(np.sort(case.grad, axis=None), np.sort(case.exact, axis=None), rtol=case.fit, atol=_atol(case)):
        return None
    for name, other in _orders(case.exact):
        if case.fits(other):
            return "permuted", None, name
    return "permuted", None, "the right numbers at other places"


def _orders(exact: np.ndarray) -> Sequence[tuple[str, np.ndarray]]:
    rows, columns = exact.shape
    steps = [step for size in (rows, columns) for step in (1, -1) if size > 1]
    rolled = [
        (f"{name} shifted by {step}", np.roll(exact, step, axis=axis))
        for axis, name in enumerate(("rows", "columns"))
        for step in dict.fromkeys(steps)
    ]
    return [
        ("rows in reverse", exact[::-1]),
        ("columns in reverse", exact[:, ::-1]),
        ("rows and columns in reverse", exact[::-1, ::-1]),
        ("column-major order taken for row-major", exact.T.reshape(rows, columns)),
        ("row-major order taken for column-major", exact.reshape(columns, rows).T),
        *rolled,
    ]


def _precision(case: _Case) -> _Found:
    left = [
        (_norm(case.grad - _flat(other)), name)
        for name, other in in_low_precision(
            case.output,
            case.target,
            baseline=case.baseline,
            oracle=case.oracle,
            exact=case.exact.reshape(case.raw.shape),
        )
    ]
    least = min(left)[0]
    if least <= lines.PRECISION_FIT.value * case.error:
        # float16 and TF32 have the same bits but for the exponent, so both may fit.
        names = dict.fromkeys(name for size, name in left if size <= 1.5 * least)
        return "precision", None, " or ".join(names)
    found = has_low_precision(case.raw) if case.error <= 2.0**-5 * _norm(case.exact) else None
    return ("precision", None, found) if found else None


def _other_loss(case: _Case) -> _Found:
    shaped = case.grad.reshape(case.raw.shape)
    best, found = case.error / 4, None
    for name, loss in other_losses(case.output, case.target, shaped).items():
        other = gradient(loss, case.output, case.target)
        if other is None or not other.any():
            continue
        other = _flat(other)
        factor = float((case.grad * other).sum()) / float((other**2).sum())
        left = _norm(case.grad - factor * other)
        if (
            left <= lines.OTHER_LOSS_FIT.value * _norm(case.grad)
            and left < best
            and (times := _times(factor, case)) is not None
        ):
            best, found = left, name + times
    return ("other loss", None, found) if found else _smoothed_labels(case)


def _times(factor: float, case: _Case) -> str | None:
    """What to say of the factor: nothing of 1; None of one that stands for nothing, so that the loss does not fit."""
    if abs(factor - 1) <= lines.OTHER_LOSS_FIT.value:
        return ""
    rows = len(case.grad)
    named = name_constant([factor], rows=[rows], elements=[case.grad.size]) if factor > 0 else None
    return f" times {named}" if named else None


def _smoothed_labels(case: _Case) -> _Found:
    """Of label smoothing: the gradient has a part of (label - 1/C) too much, the same in every row."""
    if case.target.is_floating_point() or case.output.dim() != 2 or case.target.shape != case.output.shape[:1]:
        return None
    rows, classes = case.grad.shape
    direction = np.full((rows, classes), -1 / classes)
    direction[np.arange(rows), case.target.numpy()] += 1
    difference = case.grad - case.exact
    share = float((difference * direction).sum()) / float((direction**2).sum())
    if _norm(difference - share * direction) > max(
        lines.OTHER_LOSS_FIT.value * _norm(difference), case.fit * _norm(case.grad)
    ):
        return None
    return "other loss", None, f"label smoothing of {share * rows:.3g}"


def _lines(case: _Case) -> _Found:
    """Of rows or columns that are wrong while the others are right."""
    wrong_elements = _wrong_elements(case)
    for axis, kind in ((1, "rows"), (0, "columns")):
        wrong = np.linalg.norm(case.grad - case.exact, axis=axis) > case.fit * (
            np.linalg.norm(case.exact, axis=axis) + _atol(case) * math.sqrt(case.grad.shape[axis])
        )
        if not 0 < wrong.sum() < wrong.size:
            continue
        grad, exact, elements = (
            np.compress(wrong, side, axis=1 - axis) for side in (case.grad, case.exact, wrong_elements)
        )
        how = _how(grad, exact, case.fit) or _how_each(grad, exact, axis, case.fit)
        # Else these are lines that single wrong elements are in, or the right ones are so by chance.
        if elements.sum() > elements.size / 2 and (how or 2 * wrong.sum() <= wrong.size):
            return kind, None, f"{kind} {_ranges(np.flatnonzero(wrong))} of {wrong.size} {how}".strip()
    return None


def _elements(case: _Case) -> _Found:
    wrong = _wrong_elements(case)
    if not wrong.any() or wrong.all():
        return None
    how = _how(case.grad[wrong], case.exact[wrong], case.fit)
    if not how and 2 * wrong.sum() > wrong.size:  # the right ones may be so by chance
        return None
    row, column = np.argwhere(wrong)[0]
    return "elements", None, f"{wrong.sum()} of {wrong.size} elements, the first [{row}, {column}] {how}".strip()


def _wrong_elements(case: _Case) -> np.ndarray:
    """bool[R, C]."""
    wrong: np.ndarray = np.abs(case.grad - case.exact) > case.fit * np.abs(case.exact) + _atol(case)
    return wrong


def _how(grad: np.ndarray, exact: np.ndarray, fit: float) -> str:
    """What is wrong with the wrong part."""
    if not grad.any():
        return "(zero)"
    size = float((exact**2).sum())
    factor = float((grad * exact).sum()) / size if size else 0.0
    return f"({factor:.6g} times)" if factor and _norm(grad - factor * exact) <= fit * _norm(grad) else ""


def _how_each(grad: np.ndarray, exact: np.ndarray, axis: int, fit: float) -> str:
    """Whether each line is the right one times a factor of its own."""
    sizes = (exact**2).sum(axis=axis, keepdims=True)
    factors = (grad * exact).sum(axis=axis, keepdims=True) / np.where(sizes == 0, 1, sizes)
    fits = _norm(grad - factors * exact) <= fit * _norm(grad)
    return f"(each times a factor of its own, {factors.min():.6g} to {factors.max():.6g})" if fits else ""


_RULES: tuple[Callable[[_Case], _Found], ...] = (
    _nonfinite,
    _zero,
    _root,
    _scaled,
    _permuted,
    _offset,
    _precision,
    _other_loss,
    _lines,
    _elements,
)


def _own_error_u(output: torch.Tensor, target: torch.Tensor, *, baseline: Loss, oracle: Oracle) -> float:
    """The baseline's own error on this output, at least 1 u."""
    leaf = output.detach().clone().requires_grad_()
    loss = baseline(leaf, target.detach().clone())
    (grad,) = torch.autograd.grad(loss, leaf)
    own_u = errors(oracle, output, target, loss=loss, output_grad=grad)[0]
    return max(1.0, own_u) if math.isfinite(own_u) else 1.0


def _atol(case: _Case) -> float:
    """What an element that is nearly zero may be off by: rounding of an ordinary one."""
    return case.fit * math.sqrt(float((case.exact**2).mean()))


def _ranges(indices: np.ndarray) -> str:
    """Indices as people write them: "0, 3 to 7", "1, 3, 5, ..." when there are many."""
    gaps = np.diff(indices)
    if len(indices) > 3 and gaps[0] > 1 and (gaps == gaps[0]).all():
        return f"{indices[0]}, {indices[1]}, … {indices[-1]} (every {_ordinal(int(gaps[0]))})"
    starts = [0, *(np.flatnonzero(gaps != 1) + 1)]
    runs = [indices[start:stop] for start, stop in itertools.pairwise([*starts, len(indices)])]
    shown = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs[:4]]
    return ", ".join(shown) + (f", … ({len(indices)})" if len(runs) > 4 else "")


def _ordinal(number: int) -> str:
    return "second" if number == 2 else "third" if number == 3 else f"{number}th"


def _flat(array: np.ndarray) -> np.ndarray:
    """[R, C] of an array of any shape with rows."""
    return array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array))
