"""The first difference of a pair as a small story: where, which values, how far apart, which is nearer to float64."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from parity.judge.verdict import PairVerdict


@dataclass(frozen=True)
class Side:
    """One of the two at the first difference.

    Attributes:
        role: "baseline" or "candidate".
        trial: Its name.
        value: In full precision; of a tensor its digest.
        norm: L2 norm of a gradient, in full precision, or None.
        error: Against float64, in words, or None.
        nearer: Whether it is the nearer to float64 of the two.
    """

    role: str
    trial: str
    value: str
    norm: str | None
    error: str | None
    nearer: bool


@dataclass(frozen=True)
class First:
    """The first difference as a small story.

    Attributes:
        place: Where.
        before: What was equal up to there.
        what: Quantity and tensor.
        value: What the values of the sides are.
        sides: Baseline and candidate.
        distance: How far they are apart.
        nearer: Which is nearer to float64, in a sentence.
    """

    place: str
    before: str
    what: str
    value: str
    sides: tuple[Side, Side]
    distance: str
    nearer: str


def tell_first(verdict: PairVerdict) -> First | None:
    """The first difference as a small story; None where there is none."""
    first = verdict.first
    if first is None:
        return None
    rows = int(verdict.comparison.both("rows")[1][first.step])
    partial = f", a partial batch of {rows} rows" if rows < verdict.pair.baseline.batch_size else ""
    number = isinstance(first.baseline, float)
    sides = _sides(verdict)
    nearer = [side for side in sides if side.nearer]
    if nearer:
        told = f"The {nearer[0].role} is nearer to float64."
    elif sides[0].error and sides[1].error:
        told = "Both are as near to float64."
    else:
        told = "Neither was held against float64 at this step and quantity."
    return First(
        place=f"step {first.step:,} (epoch {first.epoch}, batch {first.batch}{partial})",
        before=f"after {first.step:,} steps that are equal to the bit" if first.step else "the very first",
        what=f"{first.quantity} of {first.tensor}" if first.tensor else first.quantity,
        value="value" if number and first.quantity == "loss" else "norm" if number else "digest of its bits",
        sides=sides,
        distance=_distance(verdict),
        nearer=told,
    )


def _sides(verdict: PairVerdict) -> tuple[Side, Side]:
    first = verdict.first
    assert first is not None
    found = verdict.first_errors
    errors = (found.baseline_u, found.candidate_u) if found else (math.nan, math.nan)
    known = [not math.isnan(error) for error in errors]
    nearest = min(errors) if all(known) and errors[0] != errors[1] else None
    norms: Sequence[str | None] = (None, None)
    if first.quantity in ("output_grad", "param_grad") and isinstance(first.baseline, str):
        norms = [repr(float(side[first.step])) for side in verdict.comparison.both(f"{first.quantity}_norm")]
    pair = verdict.pair
    left, right = (
        Side(
            role,
            record.trial,
            repr(value) if isinstance(value, float) else value,
            norm,
            f"{error:.4g} u" if not math.isnan(error) else None,
            error == nearest,
        )
        for role, record, value, norm, error in zip(
            ("baseline", "candidate"),
            (pair.baseline, pair.candidate),
            (first.baseline, first.candidate),
            norms,
            errors,
            strict=True,
        )
    )
    return left, right


def _distance(verdict: PairVerdict) -> str:
    first = verdict.first
    assert first is not None
    told = []
    if first.ulp is not None:
        told.append(f"{first.ulp:,} ulp")
    if first.abs is not None and not math.isnan(first.abs):
        told.append(f"absolute {first.abs!r}")
    if first.rel is not None and not math.isnan(first.rel):
        told.append(f"relative {first.rel!r}")
    if told:
        return f"They are apart by {', '.join(told)}."
    if first.abs is not None:
        return "One of them is NaN."
    return "Of a tensor the bits are compared, by their digest."
