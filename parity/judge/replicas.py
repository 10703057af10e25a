"""Replicas: which do not repeat, how widely they spread, and whether two groups of them are spread alike."""

from functools import cache

import numpy as np
import pyarrow as pa

from parity.judge.permutation_test import SpreadTest, compare_replicas
from parity.store.stored_run import StoredRun
from parity.store.trace import QUANTITIES
from parity.store.traces import read_columns
from parity.store.trials import TrialRecord

# Loss, device (and run) and seed of equal trials.
Group = tuple[str, str, int]


class Replicas:
    """The groups of equal trials of a stored run."""

    def __init__(self, run: StoredRun) -> None:
        self._members: dict[Group, list[TrialRecord]] = {}
        for record in run.trials:
            if not record.noise:
                self._members.setdefault(group_of(record), []).append(record)
        self._traces = run.traces
        self.unsteady = frozenset(group for group in self._members if not self._repeat(group))
        # Each pair of the groups asks the same.
        self.compare = cache(self._compare)

    def _repeat(self, group: Group) -> bool:
        """Whether the replicas are equal to the bit, over the steps that they have in common."""
        first, *others = [record.trial for record in self._members[group]]
        return all(self._equal(first, other) for other in others)

    def _equal(self, one: str, other: str) -> bool:
        for name in (f"{quantity}_digest" for quantity in QUANTITIES):
            left, right = (self._column(trial, name) for trial in (one, other))
            steps = min(len(left), len(right))
            if not left.slice(0, steps).equals(right.slice(0, steps)):
                return False
        return True

    def _column(self, trial: str, name: str) -> pa.ChunkedArray:
        return read_columns(self._traces, trial, [name])[name]

    def _compare(self, baseline: Group, candidate: Group) -> SpreadTest | None:
        """Whether the candidate's losses are spread as the baseline's; None where a group has no whole trial."""
        sides = [
            [self._column(record.trial, "loss").to_numpy() for record in self._members[group] if _whole(record)]
            for group in (baseline, candidate)
        ]
        return compare_replicas(*(np.stack(side) for side in sides)) if all(sides) else None


def group_of(record: TrialRecord) -> Group:
    """The group of a trial."""
    return record.loss_name, record.unit, record.seed


def _whole(record: TrialRecord) -> bool:
    return record.status == "complete"
