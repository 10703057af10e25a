"""What the distances of two traces were in the steps before each step, and whether they stay.

Letters: S steps that both traces have; T tensors of a quantity.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from parity.judge.tensor_distances import TensorDistances
from parity.plan import lines

# A jump that stays for so many steps is a fault; one that passes may be a kink of the model that one side met.
STAYS = 3
# What a distance that is not known or infinite counts as in the steps before.
MOST = 1e100

# A measure of the distances, of all tensors together, float64[S, 1], or of each, float64[S, T], without some of them.
Measure = Callable[[TensorDistances, np.ndarray | None], np.ndarray]


def whole(distances: TensorDistances, left_out: np.ndarray | None) -> np.ndarray:
    return distances.without(left_out).whole[:, None]


def each_tensor(distances: TensorDistances, left_out: np.ndarray | None) -> np.ndarray:
    return distances.without(left_out).beside_whole


def whole_length(distances: TensorDistances, left_out: np.ndarray | None) -> np.ndarray:
    return distances.without(left_out).whole_length[:, None]


def each_length(distances: TensorDistances, left_out: np.ndarray | None) -> np.ndarray:
    return distances.without(left_out).length_beside_whole


def before(measure: Measure, distances: TensorDistances, noise: np.ndarray | None) -> np.ndarray:
    """The most of a measure in the window before each step, of the tensors that count at that step."""
    if noise is None:
        return largest_before(np.minimum(measure(distances, None), MOST))
    before = np.zeros_like(measure(distances, noise))
    for shift in range(1, min(int(lines.JUMP_WINDOW.value), len(noise) - 1) + 1):
        # A tensor that was noise until just now has a past all the same.
        earlier = np.nan_to_num(measure(distances.cut(0, distances.steps - shift), noise[shift:]), nan=0.0)
        before[shift:] = np.maximum(before[shift:], np.minimum(earlier, MOST))
    return before


def largest_before(values: np.ndarray) -> np.ndarray:
    """The largest value in the window before each step; 0 before the first. float64[S, T]."""
    window = int(lines.JUMP_WINDOW.value)
    # Zeros stand for the steps before the first.
    padded = np.zeros((window + len(values), *values.shape[1:]))
    np.maximum(np.nan_to_num(values, nan=0.0), 0.0, out=padded[window:])
    return np.asarray(largest_in_windows(padded[:-1], window, 1)[0])


def stay(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Whether the values of so many steps from each step on are beyond the limit of that step; bool[S, T]."""
    stay = values > limits
    for shift in range(1, STAYS):
        stay[:-shift] &= values[shift:] > limits[:-shift]
        stay[-shift:] = False
    return stay


def varied(inputs: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
    """Whether the steps in which a value has to stay are more than one batch repeated; bool[S].

    Where a loop repeats one batch, a kink of the model that one side has met is met in each step.

    Args:
        inputs: Digest of the inputs of each step; uint64[S].
        drawn: States of the random generators before each step; uint64[S, G], or None where they are not known.
    """
    repeated = np.diff(inputs) == 0
    if drawn is not None:
        repeated &= (np.diff(drawn, axis=0) == 0).all(axis=1)
    found = np.zeros(len(inputs), bool)
    for shift in range(STAYS - 1):
        found[: len(inputs) - 1 - shift] |= ~repeated[shift:]
    return found


def largest_in_windows(values: np.ndarray, width: int, count: int) -> np.ndarray:
    """The largest values in each window of some width, the largest first.

    Args:
        values: float64[N, ...], without a NaN; N is at least the width.
        width: Number of values of a window.
        count: How many of the largest, K; at most the width.

    Returns:
        float64[K, N - width + 1, ...].

    >>> largest_in_windows(np.array([1.0, 3.0, 2.0, 0.0]), width=3, count=2)
    array([[3., 3.],
           [2., 2.]])
    """
    windows = len(values) - width + 1
    found: list[np.ndarray] = []
    # The largest of windows of 1, 2, 4, … values; a window is put together of those that its width has in binary.
    power, begin = [values], 0
    for bit in range(width.bit_length()):
        if width >> bit & 1:
            found = _merge(found, [each[begin : begin + windows] for each in power], count)
            begin += 1 << bit
        power = _merge([each[: -(1 << bit)] for each in power], [each[1 << bit :] for each in power], count)
    return np.stack(found)


def _merge(one: list[np.ndarray], other: list[np.ndarray], count: int) -> list[np.ndarray]:
    """The largest of two lists of values, each with the largest first."""
    merged = list(one)
    for first, value in enumerate(other):
        rest = value
        # The values of the other list that came before are larger, and have their places before this one.
        for place in range(first, len(merged)):
            merged[place], rest = np.maximum(merged[place], rest), np.minimum(merged[place], rest)
        if len(merged) < count:
            merged.append(rest)
    return merged
