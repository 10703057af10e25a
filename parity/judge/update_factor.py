"""What an update that is a multiple of the baseline's in all tensors comes from, as the steps that follow show.

One step cannot tell a learning rate from a bias correction or from Nesterov's momentum: any of them may multiply the
update by the same number. The factor of a bias correction changes from step to step as its powers of beta do, that of a
learning rate stays, and Nesterov's momentum makes the first update a multiple, and none after it.

Letters: T parameter tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.step_sketches import FIT, factor_between, gradients_at, sketches_at

# Steps that are looked at after the first, and how many of them a cause takes at least.
_FOLLOWING = 8
_AT_LEAST = 2
# A later update is still a multiple where it leaves this part, relative: by then the parameters differ.
_STILL_MULTIPLE = 0.2
# Largest part that the updates of Nesterov's momentum may leave of what it makes of the gradients, relative.
_NESTEROV_FIT = 0.05

# The factor at each step, from the first on, and by which part it may be off.
_Course = list[tuple[float, float]]


def describe_multiple(comparison: Comparison, index: int, left: np.ndarray, right: np.ndarray) -> str:
    """What an update that is a multiple of the baseline's is, in words.

    Args:
        comparison: The two traces.
        index: Position of the step among the common ones.
        left: The sketches of the baseline's update; float64[T, 8].
        right: Those of the candidate's; float64[T, 8].

    Raises:
        Trouble: A trace is damaged.
    """
    course = _course(comparison, index)
    fitting = [each is not None for each in _factors(left, right)]
    of = "all tensors" if all(fitting) else f"{sum(fitting)} of {len(fitting)} tensors"
    text = f"the update is {_factor(left, right):.5g} times the baseline's in {of}"
    if len(course) <= _AT_LEAST:
        return text
    number = comparison.first_step + index + 1
    for group in _groups(comparison, index):
        betas = _numbers(group.get("betas"))
        # As Adam has them: 1 - beta is what it divides by.
        if len(betas) > 1 and all(0 <= beta < 1 for beta in betas) and _is_bias_correction(betas, course, number):
            return f"{text}: the bias correction of one side is missing, or counts other steps"
        if _is_nesterov(comparison, index, sum(_numbers([group.get("momentum")]))):
            return f"{text}: Nesterov's momentum on one side"
    if _fits(course, [course[0][0]] * len(course)):
        return f"{text}, and so it stays in the steps that follow: the rate, or what it is divided by"
    return text


def is_common(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether the factor of all updates together is that of each tensor whose update is a multiple of the baseline's.

    A tensor whose update is not a multiple does not count: where a gradient is nothing but rounding, Adam still makes
    whole steps, and each side makes others.

    Args:
        left: The sketches of the baseline's update; float64[T, 8].
        right: Those of the candidate's; float64[T, 8].
    """
    common = _factor(left, right)
    return all(each is None or abs(each - common) <= FIT * abs(common) for each in _factors(left, right))


def _factors(left: np.ndarray, right: np.ndarray) -> list[float | None]:
    """By how much each tensor's update is multiplied, of those that moved on either side; None where by no number."""
    return [factor_between(one, other) for one, other in zip(left, right, strict=True) if one.any() or other.any()]


def _groups(comparison: Comparison, index: int) -> list[dict[str, Any]]:
    """The groups of parameters of both sides' optimizers: either side may be the one that says what it does."""
    texts = [side.texts("settings")[index] for side in comparison.common]
    optimizers = [each for text in texts if text for each in json.loads(text).get("optimizers") or ()]
    return [group for optimizer in optimizers for group in (optimizer or {}).get("groups", ())]


def _numbers(setting: Any) -> list[float]:
    """The numbers of a setting that is a list of numbers; an empty list for any other setting."""
    numbers = isinstance(setting, list) and all(isinstance(each, int | float) for each in setting)
    return [float(each) for each in setting] if numbers else []


def _course(comparison: Comparison, index: int) -> _Course:
    """The factors of the updates from a step on, for as long as each update is a multiple of the baseline's."""
    course: _Course = []
    for step in range(index, min(index + 1 + _FOLLOWING, comparison.steps)):
        left, right = (sketches_at(side, "update", step) for side in comparison.common)
        if left is None or right is None or left.shape != right.shape or not left.any() or not right.any():
            break
        factor = _factor(left, right)
        rest = float(np.linalg.norm(right - factor * left) / np.linalg.norm(right))
        if not rest <= _STILL_MULTIPLE:
            break
        course.append((factor, max(FIT, rest)))
    return course


def _factor(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.sum(left * right) / np.sum(left * left))


def _fits(course: _Course, expected: Sequence[float]) -> bool:
    """Whether the factors are those that are expected."""
    return all(abs(factor / value - 1) < off for (factor, off), value in zip(course, expected, strict=True))


def _is_bias_correction(betas: Sequence[float], course: _Course, number: int) -> bool:
    """Whether factors of Adam's update are those of a bias correction that one side lacks or counts otherwise.

    Args:
        betas: Those of Adam.
        course: The factors.
        number: Number of the first of these steps, from 1.
    """
    first, second = betas[:2]

    def corrections(steps: int) -> tuple[float, float]:
        return 1 - first**steps, float(np.sqrt(1 - second**steps))

    def expected(steps: int) -> Iterator[float]:
        """The factors at a step, for each of the ways in which a correction may be wrong."""
        now = corrections(steps)
        others = [(1.0, 1.0), (1.0, now[1]), (now[0], 1.0)]
        for miscounted in (max(steps - 1, 1), steps + 1):
            other = corrections(miscounted)
            others += [other, (other[0], now[1]), (now[0], other[1])]
        for other in others:
            value = now[0] / other[0] * other[1] / now[1]
            yield from (value, 1 / value)

    ways = zip(*(expected(number + step) for step in range(len(course))), strict=True)
    # Factors that stay are a rate's as well.
    return any(_fits(course, way) and not _fits(course, [way[0]] * len(way)) for way in ways)


def _is_nesterov(comparison: Comparison, index: int, momentum: float) -> bool:
    """Whether one side's first updates are those of Nesterov's momentum, and the other's of plain momentum."""
    begins = not comparison.first_step + index
    if not momentum or not begins:
        return False
    for plain, nesterov in (comparison.common, comparison.common[::-1]):
        rate = None
        for side, looks_ahead in ((plain, False), (nesterov, True)):
            gradients = [gradients_at(side, step) for step in range(index, index + 1 + _AT_LEAST)]
            updates = [sketches_at(side, "update", step) for step in range(index, index + 1 + _AT_LEAST)]
            made = list(_with_momentum(gradients, momentum, looks_ahead=looks_ahead))
            known = [each for each in updates if each is not None and each.shape == made[0].shape] if made else []
            if len(made) != len(updates) or len(known) != len(updates):
                return False
            # The same rate on both sides, and in each step.
            rate = _factor(made[0], known[0]) if rate is None else rate
            if any(
                np.linalg.norm(update - rate * each) > _NESTEROV_FIT * np.linalg.norm(update)
                for each, update in zip(made, known, strict=True)
            ):
                break
        else:
            return True
    return False


def _with_momentum(
    gradients: Sequence[np.ndarray | None], momentum: float, *, looks_ahead: bool
) -> Iterator[np.ndarray]:
    """Yields what momentum makes of the first gradients, up to the first that is not known; float64[T, 8] each."""
    velocity: np.ndarray | None = None
    for gradient in gradients:
        if gradient is None or (velocity is not None and gradient.shape != velocity.shape):
            return
        velocity = gradient if velocity is None else momentum * velocity + gradient
        yield gradient + momentum * velocity if looks_ahead else velocity
