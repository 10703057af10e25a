"""Classes of equal devices, the majority in each, and the odd devices: a function of what is stored.

Devices with equal hardware, software and settings must compute the same bits. So in each class the trials of one loss
and seed vote with their whole traces, and a device whose traces differ from those of the majority is odd.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from parity.judge.columns import Columns
from parity.judge.node_code import NodeCode
from parity.judge.trial_trace import TrialTrace
from parity.judge.votes import OddDevice, Vote, count, odd_devices
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
class DeviceClass:
    """Devices that must produce equal bits.

    Attributes:
        label: A, B, ... in the order of the plan.
        hardware: What the devices have in common.
        devices: Their names, in the order of the plan.
        votes: One vote for each loss, seed and group of equal code with a complete trial.
        odd: The devices that differ from the majority.
        reference: The device that the others are compared with: the first that is in the majority in all its trials.
        references: The same for each loss and group of equal code, by the loss and the group's number in `NodeCode`.
        deviation: In which files the code of all devices differs from that of most nodes, for every loss, in words;
            None if it does not.
        apart: The devices whose code for some loss differs from that of the other devices of the class.
    """

    label: str
    hardware: HardwareClass
    devices: tuple[str, ...]
    votes: tuple[Vote, ...]
    odd: tuple[OddDevice, ...]
    reference: str
    references: Mapping[tuple[str, int], str]
    deviation: str | None = None
    apart: tuple[str, ...] = ()

    def explain(self) -> str:
        """What the devices have in common, in words."""
        return "; ".join([self.hardware.explain(), *([self.deviation] if self.deviation else [])])

    def reference_of(self, loss: str) -> str:
        """The reference for a loss, among the devices whose code for it is on most nodes."""
        return min(
            ((number, device) for (of, number), device in self.references.items() if of == loss),
            default=(0, self.reference),
        )[1]

    @property
    def split(self) -> bool:
        """Whether some traces differ, without a majority that could show which are wrong."""
        return any(len(vote.groups) > 1 and not vote.decided for vote in self.votes)


class Fleet:
    """The devices of a stored run, in classes.

    Attributes:
        traces: The trace of each trial, by its name.
        classes: The classes, in the order of the plan.
        code: The nodes of the devices, for each loss in groups of equal code. What differs between two groups says
            nothing about a device, so trials of unequal code never vote together, and devices whose code differs for
            every loss are in two classes.
    """

    def __init__(self, trials: Sequence[TrialRecord], traces: Mapping[str, pa.Table]) -> None:
        columns = Columns(traces)
        self.traces = {record.trial: TrialTrace(record, columns) for record in trials}
        self.code = NodeCode(trials)
        members: dict[tuple[str, HardwareClass, int], list[TrialRecord]] = defaultdict(list)
        # A trial that never began has no facts of its own; another trial on its device may have recorded them.
        begun = [record for record in trials if record.cpu_model or record.torch]
        known = {record.unit: class_of(record) for record in begun}
        # The first trial that began decides, so it comes last.
        latest = (*reversed(trials), *reversed(begun))
        self._groups = {(record.loss_name, record.unit): self.code.group(record) for record in latest}
        links = _links(self._groups)
        for record in trials:
            # Noise trials differ on purpose, so they take part in no vote.
            if not record.noise:
                # Devices of different runs never vote together: such pairs are decided by what differs between the
                # runs.
                hardware = known.get(record.unit) or class_of(record)
                members[record.run, hardware, links[record.unit]].append(record)
        self.classes = tuple(
            self._make_class(class_label(number), hardware, records)
            for number, ((_, hardware, _), records) in enumerate(members.items())
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
        """Whether the trials ran on two different devices of one class, with equal code."""
        equal = left.loss_name != right.loss_name or self._group(left) == self._group(right)
        return left.unit != right.unit and self.of(left) is self.of(right) and equal

    def odd(self, record: TrialRecord) -> bool:
        """Whether the trial differs from the majority of its class."""
        return record.trial in self._odd_trials

    def own_code(self, record: TrialRecord) -> bool:
        """Whether a trial had the code of its device; one that names no node may have been on several."""
        return self.code.group(record) == self._group(record)

    def leads(self, record: TrialRecord) -> bool:
        """Whether a trial's device is the reference of its class for devices with its code."""
        return self.of(record).references[record.loss_name, self._group(record)] == record.unit

    def counterpart(self, record: TrialRecord, *, across: bool) -> str:
        """The device that a trial's device is compared with: its own where it is the reference of all.

        Args:
            record: The trial.
            across: Whether classes are compared with each other. Otherwise only those of unequal code are.
        """
        own, loss = self.of(record), record.loss_name
        # Code that another device of its hardware does not have is never left to itself.
        usual = self.first if across else self.usual(own)
        choices = (own.references[loss, self._group(record)], own.reference_of(loss), usual.reference_of(loss))
        return next((device for device in choices if device != record.unit), record.unit)

    @cached_property
    def first(self) -> DeviceClass:
        """The class that the others are compared with: that of the first device whose node did not fail."""
        first = next((each for each in self.classes if each.label not in self._unreachable), self.classes[0])
        return self.usual(first)

    def usual(self, own: DeviceClass) -> DeviceClass:
        """The class of the same hardware whose code is on most nodes; mostly the class itself."""
        alike = [each for each in self.classes if each.hardware == own.hardware and each.label not in self._unreachable]
        return min(alike, key=lambda each: min(number for _, number in each.references), default=own)

    @property
    def large(self) -> bool:
        """Whether some class has several devices."""
        return any(len(each.devices) > 1 for each in self.classes)

    def _group(self, record: TrialRecord) -> int:
        """The group of a trial's device, by its code for the trial's loss."""
        return self._groups[record.loss_name, record.unit]

    def _make_class(self, label: str, hardware: HardwareClass, records: Sequence[TrialRecord]) -> DeviceClass:
        """The class of some devices, with its votes, its odd devices and its references."""
        ballots: dict[tuple[str, int, int], list[TrialRecord]] = {}
        holders: dict[tuple[str, int], dict[str, None]] = {}
        for record in records:
            group = self._group(record)
            holders.setdefault((record.loss_name, group), {})[record.unit] = None
            # A trace that was cut short differs from the others by its length alone.
            if record.status == "complete" and self.own_code(record):
                ballots.setdefault((record.loss_name, record.seed, group), []).append(record)
        votes = tuple(count(ballot, self.traces) for ballot in ballots.values())
        devices = tuple(dict.fromkeys(record.unit for record in records))
        odd = odd_devices(votes, devices)
        lowest = {loss: min(number for of, number in holders if of == loss) for loss, _ in holders}
        others = {unit for (loss, number), units in holders.items() if number > lowest[loss] for unit in units}
        apart = tuple(device for device in devices if device in others)
        ranks = _ranks(records, devices, votes, odd, apart)
        return DeviceClass(
            label,
            hardware,
            devices,
            votes,
            odd,
            reference=min(devices, key=ranks.__getitem__),
            references={key: min(units, key=ranks.__getitem__) for key, units in holders.items()},
            deviation=None if 0 in lowest.values() else self.code.deviation(records[0]),
            apart=apart,
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


def _links(groups: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """A number for each device, equal for those that have equal code for some loss, or are linked by others.

    Args:
        groups: The group of equal code by loss and device.
    """
    held: dict[str, set[tuple[str, int]]] = {}
    for (loss, unit), number in groups.items():
        held.setdefault(unit, set()).add((loss, number))
    linked: list[frozenset[tuple[str, int]]] = []
    for own in {frozenset(each) for each in held.values()}:
        apart = [each for each in linked if not each & own]
        linked = [*apart, own.union(*(each for each in linked if each & own))]
    return {unit: next(n for n, each in enumerate(linked) if own <= each) for unit, own in held.items()}


def _ranks(
    records: Sequence[TrialRecord],
    devices: Sequence[str],
    votes: Sequence[Vote],
    odd: Sequence[OddDevice],
    apart: Sequence[str],
) -> dict[str, tuple[int, bool, int, bool]]:
    """How well each device of a class serves as the one that the others are compared with; the least serves best."""
    # The fewest differing trials first, then code that the others have, then the most complete ones, then the largest
    # group; `min` keeps the order of the plan among equals.
    differing = {each.device: len(each.trials) for each in odd}
    # Without a majority it is the first device of the largest group; among failed ones, the one that completed most.
    whole = Counter(record.unit for record in records if record.status == "complete")
    leading = {record.unit for vote in votes for record in vote.groups[0]}
    return {
        device: (differing.get(device, 0), device in apart, -whole[device], device not in leading) for device in devices
    }


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
