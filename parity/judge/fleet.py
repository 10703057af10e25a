"""Classes of equal devices, the majority in each, and the odd devices: a function of what is stored.

Devices with equal hardware, software and settings must compute the same bits. So in each class the trials of one loss
and seed vote with their whole traces, and a device whose traces differ from those of the majority is odd.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from parity.judge.node_code import NodeCode
from parity.judge.trial_trace import Columns, TrialTrace
from parity.plan.device import parse_device
from parity.store.trials import HARDWARE, SOFTWARE, TrialRecord


@dataclass(frozen=True)
class HardwareClass:
    """What devices must have in common so that they must produce equal bits.

    Attributes:
        settings: The device's name without its place in the cluster.
        facts: Values of `HARDWARE` and `SOFTWARE`; the device's name alone for a trial that never began.
    """

    settings: str
    facts: tuple[object, ...]

    def explain(self) -> str:
        """The class in words, without the facts that it does not have."""
        # A trial that never began has a single fact, its device's name, which `settings` has already.
        found = dict(zip((*HARDWARE, *SOFTWARE), self.facts, strict=False))
        models = [found.get("gpu_name"), found.get("cpu_model"), found.get("cpu_capability")]
        versions = [f"{name} {found[name]}" for name in ("torch", "numpy", "gpu_driver") if found.get(name)]
        return ", ".join([self.settings, *(str(part) for part in models if part), *versions])


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
        """The trials outside the majority; empty where there is no majority."""
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


@dataclass(frozen=True)
class DeviceClass:
    """Devices that must produce equal bits.

    Attributes:
        label: A, B, ... in the order of the plan.
        hardware: What the devices have in common.
        devices: Their names, in the order of the plan.
        votes: One vote for each loss and seed with a complete trial.
        odd: The devices that differ from the majority.
        reference: The device that the others are compared with: the first that is in the majority in all its trials.
        code: Number of the group of nodes that they are on, in `NodeCode.groups`; 0 where all nodes have equal code.
        deviation: In which files that code differs from that of most nodes, in words; None if it does not.
    """

    label: str
    hardware: HardwareClass
    devices: tuple[str, ...]
    votes: tuple[Vote, ...]
    odd: tuple[OddDevice, ...]
    reference: str
    code: int = 0
    deviation: str | None = None

    def explain(self) -> str:
        """What the devices have in common, in words."""
        return "; ".join([self.hardware.explain(), *([self.deviation] if self.deviation else [])])

    @property
    def split(self) -> bool:
        """Whether some traces differ, without a majority that could show which are wrong."""
        return any(len(vote.groups) > 1 and not vote.decided for vote in self.votes)


class Fleet:
    """The devices of a stored run, in classes.

    Attributes:
        traces: The trace of each trial, by its name.
        classes: The classes, in the order of the plan.
        code: The nodes of the devices, in groups of equal code. Devices of unequal code are in two classes, and what
            differs between them says nothing about either.
    """

    def __init__(self, trials: Sequence[TrialRecord], traces: Mapping[str, pa.Table]) -> None:
        columns = Columns(traces)
        self.traces = {record.trial: TrialTrace(record, columns) for record in trials}
        self.code = NodeCode(trials)
        members: dict[tuple[str, HardwareClass, int], list[TrialRecord]] = defaultdict(list)
        # A trial that never began has no facts of its own; another trial on its device may have recorded them.
        begun = [record for record in trials if record.cpu_model or record.torch]
        known = {record.unit: class_of(record) for record in begun}
        groups = {record.unit: self.code.group(record) for record in reversed(begun)}
        for record in trials:
            # Noise trials differ on purpose, so they take part in no vote.
            if not record.noise:
                # Devices of different runs never vote together: such pairs are decided by what differs between the
                # runs.
                hardware = known.get(record.unit) or class_of(record)
                members[record.run, hardware, groups.get(record.unit, 0)].append(record)
        self.classes = tuple(
            self._make_class(class_label(number), hardware, code, records)
            for number, ((_, hardware, code), records) in enumerate(members.items())
        )
        # Classes of devices that trained nothing because their node failed: no use as a reference.
        self._unreachable = {
            each.label
            for each, records in zip(self.classes, members.values(), strict=True)
            if not each.votes and any(record.failure == "node" for record in records)
        }
        self._by_device = {device: each for each in self.classes for device in each.devices}
        self._odd_trials = {record.trial for each in self.classes for device in each.odd for record in device.trials}

    def of(self, record: TrialRecord) -> DeviceClass:
        """The class of a trial's device."""
        return self._by_device[record.unit]

    def alike(self, left: TrialRecord, right: TrialRecord) -> bool:
        """Whether the trials ran on two different devices of one class."""
        return left.unit != right.unit and self.of(left) is self.of(right)

    def odd(self, record: TrialRecord) -> bool:
        """Whether the trial differs from the majority of its class."""
        return record.trial in self._odd_trials

    def own_code(self, record: TrialRecord) -> bool:
        """Whether a trial had the code of its class; a device that names no node may have been on several."""
        return self.code.group(record) == self.of(record).code

    @cached_property
    def first(self) -> DeviceClass:
        """The class that the others are compared with: that of the first device whose node did not fail."""
        first = next((each for each in self.classes if each.label not in self._unreachable), self.classes[0])
        return self.usual(first)

    def usual(self, own: DeviceClass) -> DeviceClass:
        """The class of the same hardware whose code is on most nodes; mostly the class itself."""
        alike = [each for each in self.classes if each.hardware == own.hardware and each.label not in self._unreachable]
        return min(alike, key=lambda each: each.code, default=own)

    @property
    def large(self) -> bool:
        """Whether some class has several devices."""
        return any(len(each.devices) > 1 for each in self.classes)

    def _make_class(
        self, label: str, hardware: HardwareClass, code: int, records: Sequence[TrialRecord]
    ) -> DeviceClass:
        """The class of some devices, with its votes, its odd devices and its reference."""
        ballots: dict[tuple[str, int], list[TrialRecord]] = {}
        for record in records:
            # A trace that was cut short differs from the others by its length alone.
            if record.status == "complete" and self.code.group(record) == code:
                ballots.setdefault((record.loss_name, record.seed), []).append(record)
        votes = tuple(_count(ballot, self.traces) for ballot in ballots.values())
        devices = tuple(dict.fromkeys(record.unit for record in records))
        odd = _odd_devices(votes, devices)
        deviation = self.code.explain_group(code)
        return DeviceClass(
            label, hardware, devices, votes, odd, _reference(records, devices, votes, odd), code, deviation
        )


def class_of(record: TrialRecord) -> HardwareClass:
    """The class of a trial's device."""
    facts = [getattr(record, name) for name in (*HARDWARE, *SOFTWARE)]
    known = any(fact is not None for fact in facts)
    # Equal GPUs of two nodes are of one class, although their names differ.
    name = parse_device(record.device).without_location.name
    return HardwareClass(name, tuple(facts) if known else (record.device,))


def same_hardware(left: TrialRecord, right: TrialRecord) -> bool:
    """Whether two trials ran on devices of one class."""
    return class_of(left) == class_of(right)


def _reference(
    records: Sequence[TrialRecord], devices: Sequence[str], votes: Sequence[Vote], odd: Sequence[OddDevice]
) -> str:
    """The device that the others of a class are compared with."""
    # The fewest differing trials first, then the most complete ones, then the largest group; `min` keeps the order of
    # the plan among equals.
    differing = {each.device: len(each.trials) for each in odd}
    # Without a majority it is the first device of the largest group; among failed ones, the one that completed most.
    whole = Counter(record.unit for record in records if record.status == "complete")
    leading = {record.unit for vote in votes for record in vote.groups[0]}
    return min(devices, key=lambda device: (differing.get(device, 0), -whole[device], device not in leading))


def _count(ballot: Sequence[TrialRecord], traces: Mapping[str, TrialTrace]) -> Vote:
    """Groups the trials of one loss and seed by equal traces."""
    if len(ballot) == 1:  # alone it agrees with itself, so its trace need not be read
        return Vote((tuple(ballot),))
    groups: dict[tuple[bytes, ...], list[TrialRecord]] = {}
    for record in ballot:
        # Signatures stand for whole traces, so that each trace is read once and not compared with every other.
        groups.setdefault(traces[record.trial].signature(), []).append(record)
    # The sort is stable: of equally large groups the first in the order of the plan leads.
    return Vote(tuple(tuple(group) for group in sorted(groups.values(), key=len, reverse=True)))


def _odd_devices(votes: Sequence[Vote], devices: Sequence[str]) -> tuple[OddDevice, ...]:
    """The devices with trials outside a majority, in the order of the plan."""
    trials: dict[str, list[TrialRecord]] = {device: [] for device in devices}
    cast: dict[str, list[TrialRecord]] = {device: [] for device in devices}
    for vote in votes:
        for record in vote.odd:
            trials[record.unit].append(record)
        # Where there is no majority, nobody is right or wrong, so the vote is not counted.
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


def class_label(number: int) -> str:
    """The label of a class by its number, from 0: A to Z, then AA and so on.

    >>> class_label(0), class_label(27)
    ('A', 'AB')
    """
    letters = ""
    # There is no letter for zero, as in the columns of a spreadsheet, so each digit counts from 1.
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters
