"""Replicas: which groups of them disagree, and whether two groups are spread alike."""

from collections.abc import Iterable
from functools import cache

import numpy as np

from parity.judge.spread import SpreadTest, compare_replicas
from parity.judge.trial_trace import TrialTrace
from parity.store.trace import QUANTITIES
from parity.store.trials import TrialRecord

# The loss, the device (with its run) and the seed of equal trials.
Group = tuple[str, str, int]


class Replicas:
    """The groups of equal trials of a stored run.

    Attributes:
        unsteady: The groups whose replicas disagree.
    """

    def __init__(self, traces: Iterable[TrialTrace]) -> None:
        self._members: dict[Group, list[TrialTrace]] = {}
        for trace in traces:
            # Noise trials are meant to disagree.
            if not trace.record.noise:
                self._members.setdefault(group_of(trace.record), []).append(trace)
        self.unsteady = frozenset(group for group in self._members if not self._repeat(group))
        # Several pairs of trials belong to the same two groups, and a permutation test is expensive.
        self.compare = cache(self._compare)

    def _repeat(self, group: Group) -> bool:
        """Whether the replicas are equal to the bit, over the steps that they have in common."""
        # Equality is transitive, so each replica is compared with the first one only. A group of one repeats itself.
        first, *others = self._members[group]
        return all(_equal(first, other) for other in others)

    def _compare(self, baseline: Group, candidate: Group) -> SpreadTest | None:
        """Whether the losses of two groups are spread alike; None where a group has no complete trial."""
        sides = [
            # Complete trials have equally many steps, so that their losses form one array.
            [trace.values("loss") for trace in self._members.get(group, []) if trace.record.status == "complete"]
            for group in (baseline, candidate)
        ]
        # An empty side has nothing to test.
        return compare_replicas(*(np.stack(side) for side in sides)) if all(sides) else None


def group_of(record: TrialRecord) -> Group:
    """The group of a trial."""
    return record.loss_name, record.unit, record.seed


def _equal(one: TrialTrace, other: TrialTrace) -> bool:
    """Whether all quantities are equal to the bit, over the steps that both traces have."""
    # Digests of parameter tensors are part of the combined ones, so these six columns are enough.
    for name in (f"{quantity}_digest" for quantity in QUANTITIES):
        if not one.has_same(name, other):
            left, right = one.values(name), other.values(name)
            # A replica that was interrupted is shorter, and does not disagree for that.
            steps = min(len(left), len(right))
            if not np.array_equal(left[:steps], right[:steps]):
                return False
    return True
