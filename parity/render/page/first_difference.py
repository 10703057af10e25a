"""The first difference of a pair in words: where it is, both values, their distance, which is closer to float64."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from parity.ground.percent import LEAST_BESIDE, percent
from parity.judge.differences import Difference
from parity.judge.distances import unit_of_quantity
from parity.judge.verdict import PairVerdict
from parity.render.phrases import shortest


@dataclass(frozen=True)
class Side:
    """One side of the first difference.

    Attributes:
        role: "baseline" or "candidate".
        trial: Name of the trial.
        value: The value in full precision, or the digest of a tensor.
        norm: L2 norm of a gradient in full precision, or None.
        error: The relative error against float64 in words, or None.
        nearer: Whether it is closer to float64 than the other side.
    """

    role: str
    trial: str
    value: str
    norm: str | None
    error: str | None
    nearer: bool


@dataclass(frozen=True)
class First:
    """The first difference in words.

    Attributes:
        place: Step, epoch and batch.
        before: What was equal up to there.
        what: Quantity and tensor.
        value: What kind of value the sides have.
        sides: Baseline and candidate.
        distance: The distance between them, in a sentence.
        nearer: Which side is closer to float64, in a sentence.
        rounding: Whether rounding explains it, where a later difference is beyond rounding.
    """

    place: str
    before: str
    what: str
    value: str
    sides: tuple[Side, Side]
    distance: str
    nearer: str
    rounding: bool


def tell_first(verdict: PairVerdict) -> First | None:
    """The first difference in words; None where there is none."""
    first = verdict.first
    if first is None:
        return None
    # A partial batch is where a hard-coded batch size shows first, so it is mentioned.
    index = verdict.comparison.index_of(first.step)
    rows = int(verdict.comparison.both("rows")[1][index])
    partial = f", a partial batch of {rows} rows" if rows < verdict.pair.baseline.batch_size else ""
    sides = _sides(verdict)
    nearer = [side for side in sides if side.nearer]
    if nearer:
        closer = f"The {nearer[0].role} is closer to float64."
    # Both are known, and neither is smaller.
    elif sides[0].error and sides[1].error:
        closer = "Both are equally close to float64."
    else:
        closer = "This quantity was not checked against float64 at this step."
    return First(
        place=f"step {first.step:,} (epoch {first.epoch}, batch {first.batch}{partial})",
        before=f"after {index:,} steps that are equal to the bit" if index else "the first step",
        what=f"{first.quantity} of {first.tensor}" if first.tensor else first.quantity,
        value=_kind(first),
        sides=sides,
        distance=_distance(verdict),
        nearer=closer,
        # Nothing is computed before a state or an input, so no rounding made them differ.
        rounding=first.quantity not in ("state", "input"),
    )


def _kind(first: Difference) -> str:
    """What the values of the first difference are."""
    if first.quantity == "loss" or (first.quantity == "state" and first.tensor):
        return "value"
    # A digest is text.
    return "norm" if isinstance(first.baseline, float) else "digest of its bits"


def _sides(verdict: PairVerdict) -> tuple[Side, Side]:
    """Baseline and candidate at the first difference."""
    first = verdict.first
    assert first is not None
    found = verdict.first_errors
    errors = (found.baseline_u, found.candidate_u) if found else (math.nan, math.nan)
    known = [not math.isnan(error) for error in errors]
    # Equal errors have no closer side, and an unknown one may be smaller.
    nearest = min(errors) if all(known) and errors[0] != errors[1] else None
    norms: Sequence[str | None] = (None, None)
    # Digests say nothing about size, so the norms of gradients are shown beside them.
    if first.quantity in ("output_grad", "param_grad") and isinstance(first.baseline, str):
        index = verdict.comparison.index_of(first.step)
        norms = [repr(float(side[index])) for side in verdict.comparison.both(f"{first.quantity}_norm")]
    pair = verdict.pair
    unit = _unit(verdict)
    loss, dtype = first.quantity == "loss", pair.baseline.loss_dtype or "float64"
    left, right = (
        Side(
            role,
            record.trial,
            value if not isinstance(value, float) else shortest(value, dtype) if loss else repr(value),
            norm,
            percent(error * unit, least=LEAST_BESIDE) if not math.isnan(error) else None,
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


def _unit(verdict: PairVerdict) -> float:
    """The unit roundoff that the errors of the first difference count in."""
    if verdict.loss_audit and verdict.first and verdict.first.quantity != "loss":
        unit = float(verdict.loss_audit.unit[verdict.comparison.index_of(verdict.first.step)])
        if math.isfinite(unit):
            return unit
    if verdict.first is None:
        return verdict.comparison.unit
    return unit_of_quantity(verdict.pair.candidate, verdict.first.quantity, verdict.first.tensor)


def _distance(verdict: PairVerdict) -> str:
    """The distance between the two values, in a sentence."""
    first = verdict.first
    assert first is not None
    distances = []
    # The three distances that apply; ulp exist for losses only, and none beside a NaN.
    if first.ulp is not None:
        distances.append(f"{first.ulp:,} ulp")
    if first.abs is not None and not math.isnan(first.abs):
        distances.append(f"absolute {first.abs:.4g}")
    if first.rel is not None and math.isfinite(first.rel):
        distances.append(f"relative {percent(first.rel)}")
    if distances:
        return f"They differ by {', '.join(distances)}."
    if first.abs is not None:
        # Numbers without a distance.
        return "One of them is NaN."
    if first.quantity == "state":
        return f"They differ in: {verdict.comparison.state.explain(verdict.comparison.index_of(first.step))}."
    if verdict.first_apart is not None:
        return f"They are about {percent(verdict.first_apart)} apart, relative to the baseline."
    return "The bits of a tensor are compared by their digest."
