"""What a difference between two traces looks like, where a few signed sums of each tensor show it.

Sketches are linear: that of a sum of tensors is the sum of theirs. So a gradient that is twice another, a gradient that
still has that of the step before in it, or an update with a decay too many can be recognised from the sketches alone.

Letters: T tensors of a quantity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.gradient_factors import describe_between
from parity.judge.moved_parameters import describe_moved, describe_unequal_update
from parity.judge.step_sketches import FIT, factor_between, parameters_before, sketches_at
from parity.judge.update_factor import describe_multiple, is_common


def describe_pattern(comparison: Comparison, index: int, quantity: str) -> str | None:
    """What the difference of a quantity looks like, in words; None where no pattern fits.

    Args:
        comparison: The two traces.
        index: Position among the common steps.
        quantity: The quantity at which they differ beyond rounding.

    Raises:
        Trouble: A trace is damaged.
    """
    return next((text for text in _patterns(comparison, index, quantity)), None)


def _patterns(comparison: Comparison, index: int, quantity: str) -> Iterator[str]:
    if precision := _precision(comparison, quantity):
        yield precision
    if quantity == "output" and index + 1 < comparison.steps:
        drawn = [name for name, differs in comparison.state.generators.items() if differs[index + 1]]
        if drawn and not any(comparison.state.generators[name][index] for name in drawn):
            yield f"the random generator of {' and '.join(drawn)} was seeded or drawn from in between"
    if quantity == "param_grad":
        yield from _of_gradients(comparison, index)
    if quantity == "step_grad" and (between := describe_between(comparison, index)):
        yield between
    if quantity in ("update", "param"):
        yield from _of_updates(comparison, index)
        if unequal := describe_unequal_update(comparison, index):
            yield unequal
    if quantity == "output" and index and (moved := describe_moved(comparison, index)):
        yield moved


def _precision(comparison: Comparison, quantity: str) -> str | None:
    """Which dtypes differ, in words."""
    sides = (comparison.baseline.record, comparison.candidate.record)
    for what in ("output", "loss"):
        left, right = (getattr(side, f"{what}_dtype") for side in sides)
        if left and right and left != right:
            return f"another precision: the {what} is {left} in the baseline and {right} in the candidate"
    left, right = (side.computed_dtype for side in sides)
    # Only where the model's own results differ first: what follows it may be wrong for a reason of its own.
    if quantity == "output" and left and right and left != right:
        return f"another precision: the model computes in {left} in the baseline and in {right} in the candidate"
    return None


def _of_gradients(comparison: Comparison, index: int) -> Iterator[str]:
    baseline, candidate = comparison.common
    left, right = (sketches_at(side, "param_grad", index) for side in (baseline, candidate))
    if left is None or right is None or left.shape != right.shape:
        return
    for one, other, whose in ((left, right, "candidate"), (right, left, "baseline")):
        before = (
            sketches_at(candidate if whose == "candidate" else baseline, "param_grad", index - 1) if index else None
        )
        if before is not None and _fits(other, [one, before], [1.0, 1.0]):
            yield (
                f"the {whose}'s gradient still has that of the step before in it: zero_grad() is missing, or gradients "
                "are accumulated"
            )
    names = comparison.baseline.record.param_names
    factors = {names[tensor]: factor for tensor, factor in _scaled(left, right).items() if tensor < len(names)}
    if factors:
        yield _in_words("gradient", factors, len(left))


def _of_updates(comparison: Comparison, index: int) -> Iterator[str]:
    baseline, candidate = comparison.common
    left, right = (sketches_at(side, "update", index) for side in (baseline, candidate))
    if left is None or right is None or left.shape != right.shape:
        return
    for one, whose in ((left, "baseline"), (right, "candidate")):
        if not one.any():
            yield f"the {whose}'s parameters are not updated: its optimizer's step was skipped"
            return
    parameters = parameters_before(baseline, index)
    gradients = sketches_at(baseline, "step_grad", index)
    gradients = sketches_at(baseline, "param_grad", index) if gradients is None else gradients
    before = sketches_at(baseline, "update", index - 1)
    for sources, words in (
        ([left], None),
        ([parameters], "a multiple of the parameters, as a weight decay does"),
        ([gradients], "a multiple of the gradient, as another momentum, dampening or Nesterov's does"),
        ([before], "a multiple of the update before, as another momentum or velocity does"),
        ([gradients, before], "the gradient and the update before, as another momentum or velocity does"),
        ([parameters, before], "the parameters and the update before, as a weight decay within the momentum does"),
    ):
        known = [source for source in sources if source is not None and source.shape == left.shape]
        if len(known) == len(sources) and _explained(right - left, known):
            if words:
                yield f"the update differs by {words}"
            elif is_common(left, right):
                yield describe_multiple(comparison, index, left, right)
            else:
                # A few large tensors make up nearly all of the sums: their factor says nothing of the others'.
                names = comparison.baseline.record.param_names
                factors = _scaled(left, right)
                yield _in_words("update", {names[tensor]: factor for tensor, factor in factors.items()}, len(left))


def _in_words(what: str, factors: dict[str, float], count: int) -> str:
    """Factors of tensors in words."""
    values = sorted({round(factor, 4) for factor in factors.values()})
    of = "all tensors" if len(factors) == count else ", ".join(list(factors)[:4]) + (", …" if len(factors) > 4 else "")
    if len(values) == 1:
        return f"the {what} is scaled by {values[0]:.4g} in {of}"
    return f"the {what} is scaled by {values[0]:.4g} to {values[-1]:.4g} in {of}"


def _scaled(left: np.ndarray, right: np.ndarray) -> dict[int, float]:
    """The tensors that are a multiple of their counterpart, other than once, and by how much."""
    found = {tensor: factor_between(*both) for tensor, both in enumerate(zip(left, right, strict=True))}
    return {tensor: factor for tensor, factor in found.items() if factor is not None and abs(factor - 1) > FIT}


def _fits(found: np.ndarray, sources: Sequence[np.ndarray], factors: Sequence[float]) -> bool:
    """Whether a sum of sketches gives the one that was found, and none of them alone does."""
    if any(source.shape != found.shape for source in sources):
        return False
    made = sum(factor * source for factor, source in zip(factors, sources, strict=True))
    size = np.linalg.norm(found)
    return bool(
        np.linalg.norm(found - made) <= FIT * size
        and all(np.linalg.norm(found - source) > FIT * size for source in sources)
    )


def _explained(difference: np.ndarray, sources: Sequence[np.ndarray]) -> bool:
    """Whether some multiples of the sources, the same for all tensors, make up a difference."""
    table = np.stack([source.reshape(-1) for source in sources], axis=1)
    found = difference.reshape(-1)
    if not np.isfinite(table).all() or not np.isfinite(found).all() or not found.any():
        return False
    factors, *_ = np.linalg.lstsq(table, found, rcond=None)
    return bool(np.linalg.norm(found - table @ factors) <= FIT * np.linalg.norm(found))
