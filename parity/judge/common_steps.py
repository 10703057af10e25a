"""The steps that two traces have in common, as one side stored them.

Letters: S common steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.judge.segments import Rows
from parity.judge.trial_trace import TrialTrace


@dataclass(frozen=True, eq=False)
class CommonSteps:
    """The common rows of a trace.

    Attributes:
        trace: The trace.
        begin: The row of its first common step.
        steps: Number of common steps, S.
    """

    trace: TrialTrace
    begin: int
    steps: int

    def _cut(self, rows: Any) -> Any:
        return rows[self.begin : self.begin + self.steps]

    def values(self, name: str) -> np.ndarray:
        """A column, as `TrialTrace.values` returns it; dtype[S].

        Raises:
            Trouble: A trace is damaged.
        """
        found: np.ndarray = self._cut(self.trace.values(name))
        return found

    def digests(self, quantity: str) -> np.ndarray:
        """Digest of each parameter tensor; uint64[S, P].

        Raises:
            Trouble: A trace is damaged.
        """
        found: np.ndarray = self._cut(self.trace.digests(quantity))
        return found

    def at(self, name: str, index: int) -> Any:
        """The value of a column at one of the common steps; 0 for a digest that nobody took, NaN for a number.

        Raises:
            Trouble: A trace is damaged.
        """
        return self.trace.values_at(name, self.begin + index)[0]

    def tensors_at(self, quantity: str, index: int) -> np.ndarray:
        """Digest of each parameter tensor at one of the common steps; uint64[P].

        Raises:
            Trouble: A trace is damaged.
        """
        found: np.ndarray = self.trace.digests_at(quantity, self.begin + index)
        return found

    def words(self, name: str) -> np.ndarray | None:
        """A column of lists of integers, dtype[S, N]; None where they do not all have the same length, or lack some.

        Raises:
            Trouble: A trace is damaged.
        """
        return self.trace.words(name, self.begin, self.steps)

    def list_at(self, name: str, index: int) -> np.ndarray | None:
        """The list of a column at one of the common steps; None for a null.

        Raises:
            Trouble: A trace is damaged.
        """
        return self.trace.list_at(name, self.begin + index)

    def texts(self, name: str) -> list[str | None]:
        """A column of names.

        Raises:
            Trouble: A trace is damaged.
        """
        found: list[str | None] = self._cut(self.trace.texts(name))
        return found

    def lists(self, name: str) -> list[np.ndarray | None]:
        """A column of lists, row by row; None for a null.

        Raises:
            Trouble: A trace is damaged.
        """
        found: list[np.ndarray | None] = self._cut(self.trace.lists(name))
        return found

    def matrix(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """A column of lists of numbers, as `TrialTrace.matrix` returns it.

        Raises:
            Trouble: A trace is damaged.
        """
        return self.trace.matrix(name, self.begin, self.steps)

    def rows(self) -> Rows:
        """The common steps, to be read beside those of another trace."""
        return self.trace.rows(self.begin)


# The baseline's and the candidate's.
Both = tuple[CommonSteps, CommonSteps]


def common_steps(baseline: TrialTrace, candidate: TrialTrace) -> Both:
    """The common steps of two traces: a recording may continue an earlier one, or end before it."""
    first = max(baseline.first_step, candidate.first_step)
    end = min(side.first_step + side.steps for side in (baseline, candidate))
    one, other = (CommonSteps(side, first - side.first_step, max(0, end - first)) for side in (baseline, candidate))
    return one, other
