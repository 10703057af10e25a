"""The odd devices of a run in words: which they are, where they first differ, and how often."""

from parity.ground.listing import listed
from parity.judge.differences import Difference
from parity.judge.verdict import Judgement
from parity.judge.votes import OddDevice
from parity.render.phrases import named

# Most odd devices that have a line of their own.
_MOST_NAMED = 6


def odd_devices(judgement: Judgement) -> list[OddDevice]:
    """The devices that differ from the majority of their class."""
    return [unit for each in judgement.fleet.classes for unit in each.odd]


def odd_headline(judgement: Judgement, odd: list[OddDevice]) -> str:
    """Which devices are odd, in one sentence; of a single one also in what, and from which step on.

    Args:
        judgement: The judgement of the run.
        odd: Its odd devices, at least one.
    """
    if len(odd) == 1:
        (of,) = (each for each in judgement.fleet.classes if odd[0] in each.odd)
        first = _first_of(judgement, odd[0])
        since = f", from step {first.step:,} on" if first else ""
        in_what = f" in {named(first.quantity, first.tensor)}" if first else ""
        return f"{odd[0].device} differs from the {len(of.devices) - 1:,} other devices of its class{in_what}{since}."
    count = sum(len(each.devices) for each in judgement.fleet.classes)
    devices = listed([unit.device for unit in odd])
    return f"{len(odd):,} of {count:,} devices differ from the majority of their class: {devices}."


def odd_places(judgement: Judgement) -> list[str]:
    """Where each odd device first differs, and how often it does; the first few.

    Args:
        judgement: The judgement of the run.
    """
    found = []
    for unit in odd_devices(judgement)[:_MOST_NAMED]:
        first = _first_of(judgement, unit)
        where = f"step {first.step:,}, {named(first.quantity, first.tensor)}; " if first else ""
        found.append(f"{unit.device}: {where}{unit.recurrence}")
    return found


def _first_of(judgement: Judgement, unit: OddDevice) -> Difference | None:
    """The earliest difference of an odd device in any of its pairs with an equal device."""
    trials = {record.trial for record in unit.trials}
    found = [
        verdict.first
        for verdict in judgement.pairs
        if verdict.first and verdict.pair.candidate.trial in trials and verdict.pair.axis in ("device", "replica")
    ]
    return min(found, key=lambda first: first.step, default=None)
