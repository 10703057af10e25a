"""How far single parameters of two traces are apart after each step: what their updates add up to.

Letters: N steps; A of the parameter tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from parity.judge.columns import matrix
from parity.judge.common_steps import Both
from parity.judge.segments import Segment, segments
from parity.store.trace import SKETCH_SUMS


class Drift:
    """The distances of some parameters of two traces, from the sums of their updates.

    How far they were apart before the first common step is not included.

    Args:
        both: The common steps of the two traces.
        parameters: Numbers of the parameters.
    """

    def __init__(self, both: Both, parameters: Sequence[int]) -> None:
        self._both, self._parameters = both, [*parameters]
        self._segments = tuple(segments(both[0].rows(), both[1].rows(), both[0].steps))
        # What the differences of the updates before each segment add up to; filled as far as somebody has asked.
        self._sums = [np.zeros(len(self._parameters) * SKETCH_SUMS)]

    def between(self, begin: int, end: int) -> np.ndarray:
        """||b - a|| of each after the steps from one position up to another; float64[N, A], infinite if not known.

        Raises:
            Trouble: A trace is damaged.
        """
        return np.concatenate([np.empty((0, len(self._parameters))), *self._parts(begin, end)])

    def _parts(self, begin: int, end: int) -> Iterator[np.ndarray]:
        for number, segment in enumerate(self._segments):
            if segment.begin >= end:
                return
            # Of a segment before the first step only its sum counts, which may be known.
            if segment.end <= begin and number + 1 < len(self._sums):
                continue
            with np.errstate(invalid="ignore", over="ignore"):
                sums = self._sums[number] + np.cumsum(self._differences(segment), axis=0)
                if number + 1 == len(self._sums):
                    self._sums.append(sums[-1])
                wanted = sums[max(0, begin - segment.begin) : end - segment.begin]
                found = np.linalg.norm(wanted.reshape(len(wanted), len(self._parameters), SKETCH_SUMS), axis=2)
            yield np.where(np.isnan(found), np.inf, found)

    def _differences(self, segment: Segment) -> np.ndarray:
        """The differences of the updates' sketches; float64[N, A * 8], NaN where they are not known."""
        sides = []
        for side, span in zip(self._both, (segment.left, segment.right), strict=True):
            rows = matrix(side.rows().read(["update_sketches"], span)["update_sketches"])
            if rows is None or rows[0].shape[1] % SKETCH_SUMS:
                return np.full((segment.left.rows, len(self._sums[0])), np.nan)
            sides.append(rows[0].reshape(len(rows[0]), -1, SKETCH_SUMS)[:, self._parameters])
        return np.asarray((sides[1] - sides[0]).reshape(len(sides[0]), -1))
