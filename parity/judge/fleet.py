"""Classes of equal devices, the majority in each, and the odd ones: a function of what is stored.

Devices of equal hardware, software and settings must compute the same bits. So in each class the trials of one loss and
seed vote with their whole traces, and a device whose traces are not those of the majority is odd.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import xxhash

from parity.plan.device import parse_device
from parity.store.trace import NORMED_QUANTITIES, QUANTITIES, TENSOR_QUANTITIES
from parity.store.traces import read_columns
from parity.store.trials import HARDWARE, SOFTWARE, TrialRecord

# What two traces are equal in, if they are equal.
_SIGNED = (
    *(f"{quantity}_digest" for quantity in QUANTITIES),
    *(f"{quantity}_digests" for quantity in TENSOR_QUANTITIES),
    *(f"{quantity}_norm" for quantity in NORMED_QUANTITIES),
)


@dataclass(frozen=True)
class HardwareClass:
    """What devices must have in common to owe each other equal bits.

    Attributes:
        settings: The device without its place.
        facts: Values of `HARDWARE` and `SOFTWARE`; empty of a trial that never began.
    """

    settings: str
    facts: tuple[object, ...]

    def explain(self) -> str:
        """The class in words, without what it does not have."""
        found = dict(zip((*HARDWARE, *SOFTWARE), self.facts, strict=False))
        told = [found.get("gpu_name"), found.get("cpu_model"), found.get("cpu_capability")]
        versions = [f"{name} {found[name]}" for name in ("torch", "numpy", "gpu_driver") if found.get(name)]
        return ", ".join([self.settings, *(str(part) for part in told if part), *versions])


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
        """The trials that are not of the majority; empty where there is none."""
        return tuple(record for group in self.groups[1:] for record in group) if self.decided else ()


@dataclass(frozen=True)
class OddUnit:
    """A device that parts from the majority of its class.

    Attributes:
        device: Its name.
        trials: Of it that part.
        repeats: How many of its replicas were looked at; of trials where there is one replica.
        parted: How many of those part.
        by: "replicas" or "trials".
    """

    device: str
    trials: tuple[TrialRecord, ...]
    repeats: int
    parted: int
    by: str

    @property
    def recurrence(self) -> str:
        """How often it parts, and what that says."""
        count = f"{self.parted} of {self.repeats} {self.by}"
        if self.parted < self.repeats:
            return f"sometimes, {count}: an unreliable unit"
        if self.repeats == 1:
            return f"{count}: add --replicas 5 to tell a broken unit from an unreliable one"
        return f"always, {count}: a wrong setting or a broken unit"


@dataclass(frozen=True)
class DeviceClass:
    """Devices that owe each other equal bits.

    Attributes:
        label: A, B, ... in the order of the plan.
        hardware: What they have in common.
        devices: Names, in the order of the plan.
        votes: One for each loss and seed of which a trial is complete.
        odd: The devices that part from the majority.
        reference: The device that the others are held against: the first that is of the majority in all that it did.
    """

    label: str
    hardware: HardwareClass
    devices: tuple[str, ...]
    votes: tuple[Vote, ...]
    odd: tuple[OddUnit, ...]
    reference: str

    @property
    def split(self) -> bool:
        """Whether some traces differ without a majority that could say whose fault it is."""
        return any(len(vote.groups) > 1 and not vote.decided for vote in self.votes)


class Fleet:
    """The devices of a stored run, in classes."""

    def __init__(self, trials: Sequence[TrialRecord], traces: Mapping[str, pa.Table]) -> None:
        members: dict[tuple[str, HardwareClass], list[TrialRecord]] = defaultdict(list)
        known = {record.unit: class_of(record) for record in trials if record.cpu_model or record.torch}
        for record in trials:
            if not record.noise:
                members[record.run, known.get(record.unit) or class_of(record)].append(record)
        self.classes = tuple(
            _make_class(class_label(number), hardware, records, traces)
            for number, ((_, hardware), records) in enumerate(members.items())
        )
        self._unreachable = {
            each.label
            for each, records in zip(self.classes, members.values(), strict=True)
            if not each.votes and any(record.failure == "node" for record in records)
        }
        self._by_device = {device: each for each in self.classes for device in each.devices}
        self._odd_trials = {record.trial for each in self.classes for unit in each.odd for record in unit.trials}

    def of(self, record: TrialRecord) -> DeviceClass:
        """The class of a trial's device."""
        return self._by_device[record.unit]

    def alike(self, left: TrialRecord, right: TrialRecord) -> bool:
        """Whether two devices are different ones of a class."""
        return left.unit != right.unit and self.of(left) is self.of(right)

    def odd(self, record: TrialRecord) -> bool:
        """Whether the trial is not of the majority of its class."""
        return record.trial in self._odd_trials

    @cached_property
    def first(self) -> DeviceClass:
        """The class that the others are held against: of the first device whose node did not fail it."""
        return next((each for each in self.classes if each.label not in self._unreachable), self.classes[0])

    @property
    def large(self) -> bool:
        """Whether some class has several devices."""
        return any(len(each.devices) > 1 for each in self.classes)


def class_of(record: TrialRecord) -> HardwareClass:
    """The class of a trial's device."""
    facts = [getattr(record, name) for name in (*HARDWARE, *SOFTWARE)]
    known = any(fact is not None for fact in facts)
    name = parse_device(record.device).without_location.name
    return HardwareClass(name, tuple(facts) if known else (record.device,))


def same_hardware(left: TrialRecord, right: TrialRecord) -> bool:
    """Whether two trials ran on devices of a class."""
    return class_of(left) == class_of(right)


def signature(traces: Mapping[str, pa.Table], trial: str) -> int:
    """A digest of all that is compared of a trial's trace."""
    digest = xxhash.xxh3_64()
    for name in _SIGNED:
        for chunk in read_columns(traces, trial, [name])[name].chunks:
            values = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
            digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).data)
    return digest.intdigest()


def software_differences(trials: Sequence[TrialRecord]) -> list[str]:
    """Sentences on the software that is not the same on all nodes of a run; empty where it is."""
    found: list[str] = []
    if any(record.run for record in trials):
        return found  # of several runs, each pair tells it
    for name in SOFTWARE:
        nodes: dict[str, dict[str, None]] = {}
        for record in trials:
            value = getattr(record, name)
            if value is not None:
                nodes.setdefault(value, {})[record.node or record.device] = None
        if len(nodes) > 1:
            told = "; ".join(f"{value} on {_listed(list(where))}" for value, where in nodes.items())
            found.append(f"Software differs between nodes: {name} {told}.")
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"


def _make_class(
    label: str, hardware: HardwareClass, records: Sequence[TrialRecord], traces: Mapping[str, pa.Table]
) -> DeviceClass:
    ballots: dict[tuple[str, int], list[TrialRecord]] = {}
    for record in records:
        if record.status == "complete":
            ballots.setdefault((record.loss_name, record.seed), []).append(record)
    votes = tuple(_count(ballot, traces) for ballot in ballots.values())
    devices = tuple(dict.fromkeys(record.unit for record in records))
    odd = _odd_units(votes, devices)
    parted = {unit.device: len(unit.trials) for unit in odd}
    # Of a class without a majority, the first device of the largest group; of failed ones, whichever did most.
    whole = Counter(record.unit for record in records if record.status == "complete")
    leading = {record.unit for vote in votes for record in vote.groups[0]}
    reference = min(devices, key=lambda device: (parted.get(device, 0), -whole[device], device not in leading))
    return DeviceClass(label, hardware, devices, votes, odd, reference)


def _count(ballot: Sequence[TrialRecord], traces: Mapping[str, pa.Table]) -> Vote:
    groups: dict[int, list[TrialRecord]] = {}
    for record in ballot:
        groups.setdefault(signature(traces, record.trial), []).append(record)
    return Vote(tuple(tuple(group) for group in sorted(groups.values(), key=len, reverse=True)))


def _odd_units(votes: Sequence[Vote], devices: Sequence[str]) -> tuple[OddUnit, ...]:
    trials: dict[str, list[TrialRecord]] = {device: [] for device in devices}
    cast: dict[str, list[TrialRecord]] = {device: [] for device in devices}
    for vote in votes:
        for record in vote.odd:
            trials[record.unit].append(record)
        if vote.decided:
            for record in (record for group in vote.groups for record in group):
                cast[record.unit].append(record)
    return tuple(_odd_unit(device, trials[device], cast[device]) for device in devices if trials[device])


def _odd_unit(device: str, odd: Sequence[TrialRecord], cast: Sequence[TrialRecord]) -> OddUnit:
    replicas = {record.replica for record in cast}
    if len(replicas) > 1:
        parted = {record.replica for record in odd}
        return OddUnit(device, tuple(odd), len(replicas), len(parted), "replicas")
    return OddUnit(device, tuple(odd), len(cast), len(odd), "trials" if len(cast) > 1 else "trial")


def class_label(number: int) -> str:
    """Of a class by its number, from 0: A to Z, then AA and so on."""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters
