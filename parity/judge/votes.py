"""The votes of equal devices: trials of one loss and seed in groups of equal traces, and those outside the majority."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parity.judge.trial_trace import TrialTrace
from parity.store.trials import TrialRecord


@dataclass(frozen=True)
class Vote:
    """How the trials of one loss and seed agree within a class.

    Attributes:
        groups: Trials with equal traces, the largest group first.
    """

    groups: tuple[tuple[TrialRecord, ...], ...]

    @property
    def decided(self) -> bool:
        """Whether more than half of the trials agree."""
        return 2 * len(self.groups[0]) > sum(map(len, self.groups))

    @property
    def odd(self) -> tuple[TrialRecord, ...]:
        """The trials outside the majority; empty if there is no majority."""
        return tuple(record for group in self.groups[1:] for record in group) if self.decided else ()


@dataclass(frozen=True)
class OddDevice:
    """A device with trials that differ from the majority of its class.

    Attributes:
        device: Name of the device.
        trials: Its trials that differ from the majority.
        repeats: Number of its replicas that took part in a vote; number of its trials if it has only one replica.
        differing: Number of those that differ from the majority.
        by: What is counted, "replicas", "trials" or "trial".
    """

    device: str
    trials: tuple[TrialRecord, ...]
    repeats: int
    differing: int
    by: str

    @property
    def recurrence(self) -> str:
        """How often the device differs, and what that says about it."""
        count = f"{self.differing} of {self.repeats} {self.by}"
        if self.differing < self.repeats:
            return f"sometimes, {count}: an unreliable device"
        if self.repeats == 1:
            return f"{count}: add --replicas 5 to distinguish a broken device from an unreliable one"
        return f"always, {count}: a wrong setting or a broken device"


def count(ballot: Sequence[TrialRecord], traces: Mapping[str, TrialTrace]) -> Vote:
    """Groups the trials of one loss and seed by equal traces."""
    if len(ballot) == 1:  # alone it agrees with itself, so its trace need not be read
        return Vote((tuple(ballot),))
    groups: dict[tuple[bytes, ...], list[TrialRecord]] = {}
    for record in ballot:
        # Signatures stand for whole traces, so that each trace is read once and not compared with every other.
        groups.setdefault(traces[record.trial].signature(), []).append(record)
    # The sort is stable: of equally large groups the first in the order of the plan leads.
    return Vote(tuple(tuple(group) for group in sorted(groups.values(), key=len, reverse=True)))


def odd_devices(votes: Sequence[Vote], devices: Sequence[str]) -> tuple[OddDevice, ...]:
    """The devices with trials outside a majority, in the order of the plan."""
    trials: dict[str, list[TrialRecord]] = {device: [] for device in devices}
    cast: dict[str, list[TrialRecord]] = {device: [] for device in devices}
    for vote in votes:
        for record in vote.odd:
            trials[record.unit].append(record)
        # Without a majority nobody is right or wrong, so the vote is not counted.
        if vote.decided:
            for record in (record for group in vote.groups for record in group):
                cast[record.unit].append(record)
    return tuple(_odd_device(device, trials[device], cast[device]) for device in devices if trials[device])


def _odd_device(device: str, odd: Sequence[TrialRecord], cast: Sequence[TrialRecord]) -> OddDevice:
    replicas = {record.replica for record in cast}
    # Only replicas show whether a fault recurs: other losses and seeds are other computations.
    if len(replicas) > 1:
        differing = {record.replica for record in odd}
        return OddDevice(device, tuple(odd), len(replicas), len(differing), "replicas")
    return OddDevice(device, tuple(odd), len(cast), len(odd), "trials" if len(cast) > 1 else "trial")
