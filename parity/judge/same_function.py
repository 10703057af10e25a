"""Whether two runs compute the same function: their first steps, taken in float64 from equal parameters, agree.

Rounding in float32 is 1e-7 of a tensor, and hides whatever is smaller; in float64 it is 1e-16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.judge.sides import StepErrors
from parity.plan import lines
from parity.store.tables import CHECKED

# A row of step_errors.parquet.
Row = Mapping[str, Any]
# A gradient below this share of all gradients is zero but for rounding in float64, and an optimizer that divides by its
# size makes an update of it that is nothing but rounding.
ZERO_GRADIENT = 1e-12
# The most that what is computed in float32 within a model is moved by its rounding, with a margin.
_FLOAT32 = 16 * 2.0**-24
# Added to the reason where the distance is at most `lines.ROUNDED_CONSTANT`.
ROUNDED_CONSTANT = "which a constant that one of them rounds to float32 explains as well"
# Roundoff of the float64 parameters whose difference is the update, with a margin for both sides.
_UPDATE_ROUNDOFF = 4 * 2.0**-53


@dataclass(frozen=True)
class OtherFunction:
    """Where the first steps of two runs, in float64, are not those of one function.

    Attributes:
        quantity: The first quantity that differs, in the order of computation.
        tensor: The tensor that differs most; None for a quantity of one tensor.
        why: What was found, in words.
        certain: Whether the two compute other functions for certain: they start from equal parameters, and what
            differs is more than a constant that one of them rounds.
        asked: Whether it is not their steps that differ, but what their optimizers were seen to do outside of them.
        elsewhere: Whether it is not their first steps that differ, but what follows a small step of the parameters.
    """

    quantity: str
    tensor: str | None
    why: str
    certain: bool
    asked: bool = False
    elsewhere: bool = False


def paired(baseline: StepErrors, candidate: StepErrors) -> list[tuple[Row, Row]]:
    """The rows of both sides for the same tensors, in the candidate's order.

    Tensors of a quantity are paired by name, or in their order where all are named otherwise: a port of a model has
    names of its own.
    """
    found = []
    for (step, quantity), rows in _grouped(candidate).items():
        others = _grouped(baseline).get((step, quantity), {})
        if len(rows) == len(others) and not rows.keys() & others.keys():
            found += list(zip(others.values(), rows.values(), strict=True))
        else:
            found += [(others[name], row) for name, row in rows.items() if name in others]
    return found


@dataclass(frozen=True)
class Functions:
    """What the first steps of two runs, in float64, show of the functions that they compute.

    Attributes:
        other: Where they are not those of one function, or None where no difference was found.
        same: The quantities that were compared from equal parameters, and are the same.
    """

    other: OtherFunction | None
    same: frozenset[str]

    def shows(self, quantity: str) -> bool:
        """Whether the quantity is that of the same function, for certain."""
        return quantity in self.same


def compare_functions(baseline: StepErrors, candidate: StepErrors, *, equal_start: bool, step: int = 0) -> Functions:
    """Compares the first steps of two runs, as they were taken in float64.

    Args:
        baseline: The rows of the baseline.
        candidate: The rows of the candidate.
        equal_start: Whether both start from the same parameters, to the bit.
        step: Number of the first step that both have.
    """
    # Later steps start from parameters that rounding has already driven apart.
    sides = [{place: row for place, row in side.items() if place[0] == step} for side in (baseline, candidate)]
    pairs: dict[str, list[tuple[Row, Row]]] = {}
    for both in paired(sides[0], sides[1]):
        pairs.setdefault(both[0]["quantity"], []).append(both)
    if "param_grad" in pairs:
        pairs["param_grad"] = list(_of_use(pairs["param_grad"], pairs.get("update", ())))
    same: list[str] = []
    others: dict[str, OtherFunction] = {}
    for quantity in CHECKED:
        rows = pairs.get(quantity, [])
        # What one side lacks is compared nowhere, so it shows nothing. The parameters are their update, and more.
        if quantity == "param" or not rows:
            continue
        sketched = equal_start and all(_is_known(row) for each in rows for row in each)
        # One side took no whole step in float64 (gradients that are clipped, say), so it has no update.
        if not all(any(not math.isnan(row["exact_norm"]) for row in side) for side in zip(*rows, strict=True)):
            continue
        if found := _by_sketches(quantity, rows, pairs) if sketched else _by_norms(quantity, rows):
            others[quantity] = found
        elif sketched:
            same.append(quantity)
    if {"loss", "param_grad"} <= {*same}:
        # Outputs that reach neither: those of padded words, or logits beside their log_softmax.
        others = {quantity: each for quantity, each in others.items() if quantity not in ("output", "output_grad")}
    # In the order of computation: what is computed from another output is another one, too.
    other = next(iter(others.values()), None)
    return Functions(other, frozenset(same[: _before(same, others)] if other else same))


def distance_in_float64(baseline: StepErrors, candidate: StepErrors, *, step: int, quantity: str) -> float:
    """The largest relative distance of a quantity's tensors in one step that both runs took in float64.

    Beyond what explains it: how far each is from what the run itself computed, and the rounding of narrower dtypes in
    which the step in float64 computes, too. 0 where the step is not known in float64. A gradient of a parameter counts
    beside all gradients, since it may be zero but for rounding.

    Args:
        baseline: The rows of the baseline.
        candidate: The rows of the candidate.
        step: Number of the step.
        quantity: A quantity that is not an update.
    """
    sides = [
        {place: row for place, row in side.items() if place[:2] == (step, quantity)} for side in (baseline, candidate)
    ]
    rows = [both for both in paired(*sides) if all(map(_is_known, both))]
    whole = _whole(row for row, _ in rows)
    found = 0.0
    for one, other in rows:
        narrow = [float(row.get("exact_error") or 0.0) for row in (one, other)]
        own = [row["error_u"] * (row.get("unit") or 1.0) * row["exact_norm"] for row in (one, other)]
        explained = lines.SAME_FUNCTION.value * whole + lines.DEVICE.value * math.hypot(*narrow, *own)
        size = whole if quantity == "param_grad" else float(one["exact_norm"])
        beyond = _distance(one, other) - explained
        # A NaN is not known to be beyond it, and a tensor of zeros has no size.
        if beyond > 0 and size > 0:
            found = max(found, beyond / size)
    return found


def _before(same: Sequence[str], others: Mapping[str, OtherFunction]) -> int:
    """Number of the quantities that are the same and are computed before the first that is not."""
    return sum(CHECKED.index(quantity) < min(map(CHECKED.index, others)) for quantity in same)


def _by_sketches(
    quantity: str, rows: Sequence[tuple[Row, Row]], pairs: Mapping[str, Sequence[tuple[Row, Row]]]
) -> OtherFunction | None:
    """The difference of a quantity, if it is larger than rounding in float64 can explain."""
    if quantity == "update":
        rows = list(_with_gradients(rows, pairs.get("param_grad", ())))
    distances = [_distance(*both) for both in rows]
    whole = _whole(row for row, _ in rows)
    distance = math.hypot(*distances)
    line = lines.SAME_FUNCTION.value * whole
    if quantity == "update":
        line += _UPDATE_ROUNDOFF * _whole(row for row, _ in pairs.get("param", ()))
    # A model that converts to a narrower dtype by itself is as inexact as that dtype in its float64 step, too.
    errors = [math.hypot(*(float(row.get("exact_error") or 0.0) for row in side)) for side in zip(*rows, strict=True)]
    # A candidate that computes in a dtype narrower than float32, as the baseline does not, is not excused by that.
    errors[1] = min(errors[1], max(errors[0], _FLOAT32 * whole))
    line += lines.DEVICE.value * math.hypot(*errors)
    if distance <= line:
        return None
    # NaN where a tensor is not finite: it is not known how far apart they are.
    share = distance / whole if whole else math.inf
    tensor = rows[int(np.argmax(np.nan_to_num(distances, nan=math.inf)))][1]["tensor"]
    what = f"{quantity} {tensor}" if tensor else quantity
    explained = line / whole if whole and any(errors) else lines.SAME_FUNCTION.value
    themselves = ", since they compute partly in a dtype narrower than float64 themselves" if any(errors) else ""
    why = (
        f"they compute other functions: taken in float64 from the same parameters, their first steps first differ at "
        f"{what}, by {share:.3g} of the whole {quantity} (rounding explains {explained:.3g}{themselves})"
    )
    if quantity in ("loss", "output_grad"):
        return OtherFunction(quantity, tensor, f"{why}: their criteria differ", certain=False)
    if not share > lines.ROUNDED_CONSTANT.value:
        return OtherFunction(quantity, tensor, f"{why}, {ROUNDED_CONSTANT}", certain=False)
    return OtherFunction(quantity, tensor, why, certain=math.isfinite(share))


def _by_norms(quantity: str, rows: Sequence[tuple[Row, Row]]) -> OtherFunction | None:
    """The first difference of norms, for parameters that differ in their last bits, and for older runs."""
    whole = _whole(row for row, _ in rows)
    for baseline, candidate in rows:
        norms = float(baseline["exact_norm"]), float(candidate["exact_norm"])
        # A norm is NaN where there is no such tensor in float64, and every comparison with a NaN is False. Beside the
        # whole, since a gradient that is zero but for rounding has any norm.
        near = abs(norms[0] - norms[1]) <= lines.SAME_NORM_OF_FUNCTION.value * whole
        if not (near or norms[0] == norms[1] or all(map(math.isnan, norms))):
            tensor = candidate["tensor"]
            what = f"{quantity} {tensor}" if tensor else quantity
            why = (
                f"their first steps do not compute the same function: in float64 the norm of {what} is "
                f"{norms[0]:.9g} and {norms[1]:.9g}"
            )
            return OtherFunction(quantity, tensor, why, certain=False)
    return None


def _of_use(gradients: Sequence[tuple[Row, Row]], updates: Sequence[tuple[Row, Row]]) -> Iterator[tuple[Row, Row]]:
    """The gradients without those that one side lacks and neither uses: of parameters frozen in one way or another."""
    still = {both[0]["tensor"] for both in updates if not any(row["exact_norm"] > 0 for row in both)}
    for both in gradients:
        if both[0]["tensor"] not in still or not any(math.isnan(row["exact_norm"]) for row in both):
            yield both


def _with_gradients(
    updates: Sequence[tuple[Row, Row]], gradients: Sequence[tuple[Row, Row]]
) -> Iterator[tuple[Row, Row]]:
    """The updates of those parameters whose gradient is not zero but for rounding."""
    whole = _whole(row for row, _ in gradients)
    zero = {row["tensor"] for row, _ in gradients if row["exact_norm"] <= ZERO_GRADIENT * whole}
    yield from (both for both in updates if both[0]["tensor"] not in zero)


def _distance(baseline: Row, candidate: Row) -> float:
    """The estimated distance of a tensor in float64 from its counterpart; 0 where neither has one."""
    sketches = [row["exact_sketch"] for row in (baseline, candidate)]
    if None in sketches:
        norms = [
            float(row["exact_norm"]) for row, sketch in zip((baseline, candidate), sketches, strict=True) if sketch
        ]
        return norms[0] if norms else 0.0
    return float(np.linalg.norm(np.subtract(*sketches)))


def _is_known(row: Row) -> bool:
    """Whether the row has a sketch, or needs none because there is no such tensor; older runs have none."""
    return row["exact_sketch"] is not None or math.isnan(row["exact_norm"])


def _whole(rows: Iterator[Row]) -> float:
    """The norm of all tensors together; a missing one has none."""
    return math.hypot(*(norm for row in rows if not math.isnan(norm := float(row["exact_norm"]))))


def _grouped(rows: StepErrors) -> dict[tuple[int, str], dict[str | None, Row]]:
    """The rows by step and quantity, and in each by tensor."""
    found: dict[tuple[int, str], dict[str | None, Row]] = {}
    for (step, quantity, tensor), row in rows.items():
        found.setdefault((step, quantity), {})[tensor] = row
    return found
