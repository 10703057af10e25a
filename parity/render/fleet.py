"""The fleet as text: its classes of equal devices, and the odd devices.

Its length grows with the number of odd devices, not with the number of nodes.
"""

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.ground.listing import listed
from parity.judge.fleet import DeviceClass
from parity.judge.odd_elements import explain
from parity.judge.verdict import Judgement, PairVerdict
from parity.judge.votes import OddDevice
from parity.render.phrases import amount, named
from parity.render.wrapping import WIDTH, flat, wrap
from parity.store.stored_run import StoredRun
from parity.store.trials import TrialRecord

# Groups of equal traces that are listed for a class without a majority.
_MOST_GROUPS = 5
# Heading of the column that describes the devices of a class.
IN_COMMON = "what they have in common"


def render(run: StoredRun, judgement: Judgement, console: Console, *, width: int = WIDTH) -> None:
    """Prints the table of classes, and a few lines about each odd device.

    Args:
        run: The stored run.
        judgement: Its judgement.
        console: Where to print.
        width: Most columns of a line.
    """
    # Rich folds long cells within the column instead of cutting them off.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, side in (("class", "left"), ("devices", "right"), ("odd", "right"), (IN_COMMON, "left")):
        table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
    for each in judgement.fleet.classes:
        # `Text`, since Rich would read markup in a plain string.
        odd = Text(str(len(each.odd)), style="bold red" if each.odd else "green")
        table.add_row(each.label, str(len(each.devices)), odd, Text(flat(each.explain())))
    console.print(table, width=width)
    for head, *facts in paragraphs(run, judgement):
        # `soft_wrap` leaves the lines as they were wrapped; names are printed without markup or highlighting.
        console.print("\n".join(wrap(head, width=width, then="  ")), soft_wrap=True, markup=False, highlight=False)
        for fact in facts:
            text = "\n".join(wrap(fact, width=width, first="  ", then="    "))
            console.print(text, soft_wrap=True, markup=False, highlight=False)


def lines(run: StoredRun, judgement: Judgement) -> Iterator[str]:
    """A line about each class without a majority, and about each odd device.

    Args:
        run: The stored run.
        judgement: Its judgement.
    """
    return map("; ".join, paragraphs(run, judgement))


def paragraphs(run: StoredRun, judgement: Judgement) -> Iterator[list[str]]:
    """The sentences about each class without a majority, and about each odd device: which it is, and what is known.

    Args:
        run: The stored run.
        judgement: Its judgement.

    Yields:
        The sentences about one class or device; the first says which it is.
    """
    # By the odd trial that was repeated; a device may have several odd trials, and one repeat.
    repeats = {row["trial"]: explain(row) for row in run.evidence["replays"].to_pylist()}
    for each in judgement.fleet.classes:
        # Each sentence about a class is a paragraph of its own, without facts below it.
        yield from ([line] for line in _split_lines(each))
        yield from (_odd_facts(unit, each, judgement, repeats) for unit in each.odd)


def columns(judgement: Judgement) -> dict[str, tuple[str, ...]]:
    """The columns of the matrix by heading, with their devices: the equal devices of a class share one."""
    found: dict[str, tuple[str, ...]] = {}
    for each in judgement.fleet.classes:
        odd = [unit.device for unit in each.odd]
        # Odd devices, and those of other code, have columns of their own: the others of their class must not hide them.
        alone = [device for device in each.devices if device in odd or device in each.apart]
        rest = tuple(device for device in each.devices if device not in alone)
        if len(rest) > 1:
            found[f"{rest[0]} and {len(rest) - 1} equal"] = rest
        else:
            found |= {device: (device,) for device in rest}
        found |= {device: (device,) for device in alone}
    return found


def representative_pairs(judgement: Judgement) -> list[tuple[PairVerdict, int]]:
    """The pairs to print, each with the number of pairs that it stands for; see `alike_pairs`."""
    return [(verdicts[0], len(verdicts)) for verdicts in alike_pairs(judgement)]


def alike_pairs(judgement: Judgement) -> list[list[PairVerdict]]:
    """The pairs in groups; the first pair of a group stands for the others.

    Where a class has several devices, pairs with the same axis, loss and verdict form a group. Where the verdict is
    passing, or the same was found about the loss, it has those of all devices of the class but the odd ones; else
    those of one device with the same cause. Every other pair is a group of its own.
    """
    alike: dict[tuple[object, ...], list[PairVerdict]] = {}
    for verdict in judgement.pairs:
        candidate = verdict.pair.candidate
        each = judgement.fleet.of(candidate)
        odd = any(unit.device == candidate.unit for unit in each.odd)
        # An odd device is never hidden behind the others, even where one of its pairs passes.
        equal = not odd and (verdict.meaning.passing or _about_the_loss(verdict))
        place = each.label if equal else candidate.unit
        found = None if equal and verdict.meaning.passing else _found(verdict)
        key = (verdict.pair.axis, candidate.loss_name, place, verdict.verdict, found)
        # On a single machine every pair is shown, since there is nothing to shorten.
        several = len(each.devices) > 1
        alike.setdefault(key if several else (candidate.trial, verdict.pair.axis), []).append(verdict)
    return list(alike.values())


def _about_the_loss(verdict: PairVerdict) -> bool:
    """Whether what was found is about the loss, and not about the device: it fails on the reference in the same way."""
    pair = verdict.pair
    failed = pair.candidate.status == "failed"
    return pair.axis == "loss" or (failed and _failure(pair.baseline) == _failure(pair.candidate))


def _found(verdict: PairVerdict) -> object:
    """What was found, without the names of the trials that a failure has in its cause."""
    candidate = verdict.pair.candidate
    return _failure(candidate) if candidate.status == "failed" else verdict.cause


def _failure(record: TrialRecord) -> tuple[object, ...]:
    return record.failure, record.failed_step, record.error


def _split_lines(each: DeviceClass) -> Iterator[str]:
    """Sentences about a class that cannot have a majority, or has none."""
    # Without replicas, a vote of two devices can only be unanimous or tied.
    if len(each.devices) == 2 and not each.odd:
        yield (
            f"Class {each.label} has only two devices, so there is no majority: if they differ, either may be the odd "
            "one."
        )
    for vote in each.votes:
        if len(each.devices) > 1 and len(vote.groups) > 1 and not vote.decided:
            groups = listed([f"{len(group)} with {group[0].device}" for group in vote.groups], most=_MOST_GROUPS)
            yield (
                f"Class {each.label} has no majority for {vote.groups[0][0].loss_name}: its traces fall into "
                f"{len(vote.groups)} groups ({groups}), and no recorded fact about the devices explains "
                "the difference."
            )


def _odd_facts(unit: OddDevice, each: DeviceClass, judgement: Judgement, repeats: dict[str, str]) -> list[str]:
    """An odd device: which it is, how often it differs, where it first does, and in which elements."""
    trials = {record.trial for record in unit.trials}
    pairs = [
        verdict
        for verdict in judgement.pairs
        if verdict.pair.candidate.trial in trials and verdict.pair.axis in ("device", "replica") and verdict.first
    ]
    facts = [f"Odd: {unit.device} (class {each.label}, {amount(len(each.devices), 'device')})", unit.recurrence]
    if pairs:
        # The earliest over all its pairs, which may belong to several losses and seeds.
        first = min((verdict.first for verdict in pairs if verdict.first), key=lambda first: first.step)
        what = named(first.quantity, first.tensor)
        facts.append(f"first at step {first.step} (epoch {first.epoch}, batch {first.batch}), {what}")
    return facts + [repeats[trial] for trial in repeats if trial in trials]
