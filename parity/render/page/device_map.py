"""A map of a fleet: a chip with the name of each device, class by class, those first that need attention."""

from dataclasses import dataclass

from parity.judge.fleet import DeviceClass
from parity.judge.verdict import Judgement
from parity.store.stored_run import StoredRun

# States of a device, from those that need no attention to those that do, each with the tone of its chip.
STATES = {"equal": "good", "other code": "doubt", "unfinished": "doubt", "no majority": "doubt", "odd": "bad"}
# Most devices of a class whose chips are shown: those that need attention, and of the equal ones a line or two.
MOST_NOTED, MOST_EQUAL = 200, 24


@dataclass(frozen=True)
class ClassMap:
    """The devices of a class.

    Attributes:
        label: The label of the class.
        devices: Name, state and tone of each device that is shown.
        left_out: Number of devices that are not shown, by state, with the tone.
    """

    label: str
    devices: tuple[tuple[str, str, str], ...]
    left_out: tuple[tuple[int, str, str], ...]


def states(run: StoredRun, each: DeviceClass) -> dict[str, str]:
    """The state of each device of a class, one of `STATES`.

    Args:
        run: The stored run.
        each: The class.
    """
    # Later states replace earlier ones, so the gravest comes last.
    found = dict.fromkeys(each.devices, "equal") | dict.fromkeys(each.apart, "other code")
    for record in run.trials:
        if record.unit in found and record.status != "complete" and not record.noise:
            found[record.unit] = "unfinished"
    for vote in each.votes:
        if not vote.decided:
            # The groups after the largest one: they differ from it, but no group is known to be wrong.
            found |= {record.unit: "no majority" for group in vote.groups[1:] for record in group}
    return found | {unit.device: "odd" for unit in each.odd}


def device_map(run: StoredRun, judgement: Judgement) -> tuple[ClassMap, ...]:
    """The devices of each class, the gravest state first.

    Args:
        run: The stored run.
        judgement: Its judgement.
    """
    return tuple(_class_map(each.label, states(run, each)) for each in judgement.fleet.classes)


def _class_map(label: str, found: dict[str, str]) -> ClassMap:
    devices: list[tuple[str, str, str]] = []
    left_out: list[tuple[int, str, str]] = []
    for state, tone in reversed(STATES.items()):
        names = [device for device, its in found.items() if its == state]
        shown = names[: MOST_EQUAL if state == "equal" else MOST_NOTED]
        devices += [(name, state, tone) for name in shown]
        if names[len(shown) :]:
            left_out.append((len(names) - len(shown), state, tone))
    return ClassMap(label, tuple(devices), tuple(left_out))
