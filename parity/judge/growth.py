"""How a quantity of two traces grows apart: at which steps it is suddenly further off than in the steps before.

Two measures are looked at: the distance, ||b - a||, and the length, | ||b|| - ||a|| |. Once trainings have drifted
apart by rounding, their gradients point in other directions and are still as long as each other's, so that a gradient
that is cut in half shows in its length long after it has ceased to show in its distance.

Letters: S steps that both traces have; T tensors of a quantity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.distances import Distances
from parity.judge.floors import Averages, least_jump, least_jumps, noise_of, starts_in_buffers, updates_in_buffers
from parity.judge.starts import equal_parameters
from parity.judge.stretch import Stretch, Sudden, first_in
from parity.judge.window import (
    MOST,
    STAYS,
    before,
    each_length,
    each_tensor,
    largest_before,
    stay,
    varied,
    whole,
    whole_length,
)
from parity.plan import lines
from parity.store.trace import QUANTITIES

# What may differ without a trace in the training.
FORWARDS = ("output", "output_grad", "target_grad")


def reached(comparison: Comparison) -> np.ndarray:
    """Whether a difference of the outputs or of their gradients can have reached the training at each step; bool[S].

    It has not where neither the loss nor the gradient of the parameters is further off than rounding explains, or than
    it was before: the outputs of padded words, say, or logits beside their log_softmax.

    Raises:
        Trouble: A trace is damaged.
    """
    gradients = comparison.distances("param_grad")
    if gradients is None:
        return np.ones(comparison.steps, bool)
    found = np.zeros(comparison.steps, bool)
    for values, line in ((gradients.whole, lines.PARTING_PARAM_GRAD), (comparison.loss_rel, lines.PARTING_OUTPUT)):
        before = largest_before(np.minimum(values, MOST)[:, None])[:, 0]
        # A NaN is not known to be near.
        found |= ~(values <= np.maximum(line.value * comparison.unit, lines.UNREACHED.value * before))
    return found


class Growth:
    """How a quantity grows apart.

    Args:
        comparison: The two traces.
        quantity: One of `trace.SKETCHED_QUANTITIES`.
        parted_at: Position of the step at which the two part.
        parted: The quantity that parts there, which is judged by itself.
    """

    def __init__(self, comparison: Comparison, quantity: str, *, parted_at: int, parted: str) -> None:
        self._comparison, self._quantity = comparison, quantity
        self._parted_at, self._parted, self._averages = parted_at, parted, Averages(comparison)
        # What is computed after what has parted by rounding follows from it in that step, too.
        follows = quantity == "update" or QUANTITIES.index(parted) < QUANTITIES.index(quantity)
        self._begin = parted_at if follows and quantity != "update" else parted_at + 1

    def first(self) -> Sudden | None:
        """The first step at which it is suddenly further off, or None.

        Raises:
            Trouble: A trace is damaged.
        """
        distances = self._comparison.distances(self._quantity)
        if distances is None:
            return None
        found = []
        if self._quantity == "buffer" and self._begin == self._parted_at:
            found = [self._buffer_at_parting(distances)]
        for stretch in self._stretches(distances):
            found += self._in(stretch)
            # Of one step min() keeps the first: all tensors together before one, a distance before a length.
            first = min((each for each in found if each), key=lambda each: each.index, default=None)
            if first is None:
                continue
            if first.tensor is not None or first.of == "length":
                return first
            here = stretch.distances.without(stretch.noise).absolute[stretch.place(first.index)]
            return replace(first, furthest=int(np.argmax(np.nan_to_num(here, nan=np.inf))))
        return None

    def _stretches(self, distances: Distances) -> Iterator[Stretch]:
        """Yields the steps from the parting on."""
        comparison, quantity = self._comparison, self._quantity
        for first, part in distances.each_part(self._parted_at):
            end = first + part.steps
            begin = max(0, first - int(lines.JUMP_WINDOW.value))
            upto = min(comparison.steps, end + STAYS - 1)
            noise = noise_of(comparison, quantity, begin, upto)
            yield Stretch(begin, first, end, distances.between(begin, upto), noise)

    def _in(self, stretch: Stretch) -> list[Sudden | None]:
        """The first step of a stretch in each measure, or None."""
        measures = [(whole, False, self._in_distance), (each_tensor, True, self._in_distance)]
        # Only the lengths of gradients and updates are steady.
        if self._quantity in ("param_grad", "update"):
            measures += [(whole_length, False, self._in_length), (each_length, True, self._in_length)]
        distances, noise = stretch.distances, stretch.noise
        return [
            look(stretch, values(distances, noise), before(values, distances, noise), named=named)
            for values, named, look in measures
        ]

    @cached_property
    def _least(self) -> np.ndarray:
        """The least distance of each step that can be a jump; float64[S, 1]."""
        floor = least_jumps(self._comparison, self._quantity)
        if self._quantity == "step_grad":
            # Computed from the gradient of backward by one operation for each element, as where the two part there.
            floor[self._parted_at] = lines.PARTING_OUTPUT_GRAD.value * self._comparison.unit
        elif self._quantity == "param_grad" and self._parted in ("output_grad", "target_grad"):
            # All that is computed forwards is equal to the bit, so that no kink is met on one side only.
            floor[self._parted_at] = least_jump("output_grad", self._comparison.unit)
        elif self._quantity == "buffer":
            # All buffers together say little there: those of an average have the update in them.
            floor[self._parted_at] = np.inf
        least: np.ndarray = np.maximum(floor, self._explained())[:, None]
        return least

    def _in_distance(self, stretch: Stretch, values: np.ndarray, before: np.ndarray, *, named: bool) -> Sudden | None:
        """The first jump of a distance, float64[N, 1 or T]."""
        least = stretch.of(self._least)
        if self._quantity == "buffer":
            least = self._averages.least(stretch.begin, stretch.begin + len(least), least, each=named)
        limit = np.maximum(least, lines.JUMP.value * before)
        jumps = values > limit
        if self._quantity == "update":
            # Adam makes a step of an element whose gradient is nearly zero; it is over with the next one.
            jumps &= (values > lines.JUMP_FLOOR.value) | stay(values, limit)
        # A kink of the model may move the gradient for a step or two, and nothing else.
        certain = np.ones_like(jumps)
        if self._quantity == "param_grad":
            certain = (
                stay(values, np.maximum(least, lines.JUMP_STAYS.value * before)) & stretch.of(self._varied)[:, None]
            )
            jumps |= certain
        jumps[: stretch.place(self._begin)] = False
        if self._quantity in FORWARDS and jumps.any():
            jumps &= stretch.of(self._reached)[:, None]
        if self._quantity == "update" and named:
            jumps &= self._beyond_the_drift(stretch)
        if self._quantity == "update" and not named and stretch.first == self._parted_at:
            # An optimizer that divides by the gradient's size turns the sign of an element that is nearly zero.
            parted = stretch.place(self._parted_at)
            jumps[parted] = values[parted] > lines.UPDATE_AT_PARTING.value
        return first_in(stretch, jumps, values, before, certain, of="distance", named=named)

    @cached_property
    def _varied(self) -> np.ndarray:
        """Whether the steps at which a jump has to stay have other inputs than the first of them; bool[S]."""
        side = self._comparison.common[0]
        if not self._comparison.compares("input"):
            return np.ones(self._comparison.steps, bool)
        # What the model draws, for dropout, say, is an input as well.
        return varied(side.values("input_digest"), side.words("generator_digests"))

    @cached_property
    def _reached(self) -> np.ndarray:
        return reached(self._comparison)

    def _beyond_the_drift(self, stretch: Stretch) -> np.ndarray:
        """Whether the update of a tensor is off by more than that of all tensors was before; bool[N, T].

        Adam makes a whole step of the first gradient of an element that had none for long, however small it is, and a
        unit of a ReLU wakes up a step earlier in one of two trainings that have drifted apart.
        """
        distances = stretch.distances
        drift = largest_before(np.minimum(np.nan_to_num(distances.whole, nan=np.inf), MOST)[:, None])
        line, own = lines.UPDATE_BESIDE_DRIFT.value, lines.UPDATE_OF_TENSOR.value
        beyond: np.ndarray = ~(distances.beside_whole <= line * drift) | ~(distances.each <= own)
        return beyond

    def _in_length(self, stretch: Stretch, values: np.ndarray, before: np.ndarray, *, named: bool) -> Sudden | None:
        """The first jump of a length, float64[N, 1 or T]."""
        certain = np.ones(values.shape, bool)
        if self._quantity == "param_grad":
            jumps = stay(values, np.maximum(lines.LENGTH_GRADIENT.value, lines.LENGTH_STAYS.value * before))
            certain = certain & stretch.of(self._varied)[:, None]
        else:
            jumps = values > np.maximum(lines.LENGTH_UPDATE.value, lines.LENGTH.value * before)
        # In the first steps after the parting nothing is known yet of how far lengths are off.
        jumps[: stretch.place(max(self._begin, self._parted_at + int(lines.JUMP_WINDOW.value)))] = False
        return first_in(stretch, jumps, values, before, certain, of="length", named=named)

    def _buffer_at_parting(self, distances: Distances) -> Sudden | None:
        """The buffer that is furthest beyond rounding in the step of the parting, or None.

        The buffers of a model are computed from equal parameters and what has parted by rounding; those of an average
        of parameters, from the update besides, whose elements may have turned.
        """
        index = self._parted_at
        here = distances.at(index)
        length = np.maximum(here.norms[0], lines.SCALE_OF_BUFFER.value * here.whole_norm[0])
        limit = lines.PARTING_BUFFER.value * self._comparison.unit * length
        updates = updates_in_buffers(self._comparison, index, index + 1)[0]
        limit = limit + updates
        if not index and self._comparison.first_step and not equal_parameters(self._comparison.common):
            # One side continues a training that had parted before: each of its steps may have added as much.
            starts = starts_in_buffers(self._comparison)
            limit = limit + (self._comparison.first_step * updates if starts is None else starts)
        excess = here.absolute[0] - limit
        tensor = int(np.argmax(excess))
        if not excess[tensor] > 0:
            return None
        return Sudden(index, tensor, "distance", float(here.absolute[0, tensor] / length[tensor]), 0.0, True)

    def _explained(self) -> np.ndarray:
        """The distance that follows from that of the quantity before it, in the same step; float64[S]."""
        source, line = {
            "step_grad": ("param_grad", lines.JUMP_FOLLOWS),
            "update": ("step_grad", lines.JUMP_UPDATE_FOLLOWS),
        }.get(self._quantity, (None, None))
        distances = self._comparison.distances(source) if source else None
        if distances is None or line is None:
            return np.zeros(self._comparison.steps)
        follows: np.ndarray = line.value * np.minimum(np.nan_to_num(distances.whole, nan=np.inf), MOST)
        return follows
