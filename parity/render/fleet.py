"""The fleet on a terminal: the classes of equal devices, and the odd ones; as long as there are odd ones, not nodes."""

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.judge.fleet import DeviceClass, OddDevice
from parity.judge.odd_elements import explain
from parity.judge.verdict import Judgement, PairVerdict
from parity.render.wrapping import WIDTH, flat, wrap
from parity.store.stored_run import StoredRun

# Groups of a class without a majority that are told one by one.
_GROUPS = 4


def render(run: StoredRun, judgement: Judgement, console: Console, *, width: int = WIDTH) -> None:
    """Prints the table of classes, and a few lines for each odd device."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, side in (("class", "left"), ("devices", "right"), ("odd", "right"), ("equal devices", "left")):
        table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
    for each in judgement.fleet.classes:
        odd = Text(str(len(each.odd)), style="bold red" if each.odd else "green")
        table.add_row(each.label, str(len(each.devices)), odd, Text(flat(each.hardware.explain())))
    console.print(table, width=width)
    for head, *facts in paragraphs(run, judgement):
        console.print("\n".join(wrap(head, width=width, then="  ")), soft_wrap=True, markup=False, highlight=False)
        for fact in facts:
            told = "\n".join(wrap(fact, width=width, first="  ", then="    "))
            console.print(told, soft_wrap=True, markup=False, highlight=False)


def lines(run: StoredRun, judgement: Judgement) -> Iterator[str]:
    """A sentence for each class without a majority, and for each odd device."""
    return map("; ".join, paragraphs(run, judgement))


def paragraphs(run: StoredRun, judgement: Judgement) -> Iterator[list[str]]:
    """For each class without a majority a sentence; for each odd device which it is, and what is known of it."""
    repeats = {row["trial"]: explain(row) for row in run.evidence["replays"].to_pylist()}
    for each in judgement.fleet.classes:
        yield from ([line] for line in _split_lines(each))
        yield from (_odd_facts(unit, each, judgement, repeats) for unit in each.odd)


def columns(judgement: Judgement) -> dict[str, tuple[str, ...]]:
    """Headings of the matrix, and the devices below each: equal ones that are not odd share one."""
    found: dict[str, tuple[str, ...]] = {}
    for each in judgement.fleet.classes:
        odd = {unit.device for unit in each.odd}
        rest = tuple(device for device in each.devices if device not in odd)
        if len(rest) > 1:
            found[f"{rest[0]} and {len(rest) - 1} equal"] = rest
        else:
            found |= {device: (device,) for device in rest}
        found |= {device: (device,) for device in odd}
    return found


def telling_pairs(judgement: Judgement) -> list[tuple[PairVerdict, int]]:
    """The pairs to print a line of, each with the number of pairs that it stands for; see `alike_pairs`."""
    return [(verdicts[0], len(verdicts)) for verdicts in alike_pairs(judgement)]


def alike_pairs(judgement: Judgement) -> list[list[PairVerdict]]:
    """The pairs, those together of which the first stands for the others.

    Where a class has several devices, the first of all that is alike on them stands for the others: for the replicas,
    and for the devices but the odd ones.
    """
    alike: dict[tuple[object, ...], list[PairVerdict]] = {}
    for verdict in judgement.pairs:
        candidate = verdict.pair.candidate
        each = judgement.fleet.of(candidate)
        odd = any(unit.device == candidate.unit for unit in each.odd)
        equal = verdict.meaning.passing and not odd
        place = each.label if equal else candidate.unit
        key = (verdict.pair.axis, candidate.loss_name, place, verdict.verdict, None if equal else verdict.cause)
        several = len(each.devices) > 1
        alike.setdefault(key if several else (candidate.trial, verdict.pair.axis), []).append(verdict)
    return list(alike.values())


def _split_lines(each: DeviceClass) -> Iterator[str]:
    if len(each.devices) == 2 and not each.odd:
        yield f"Class {each.label} has only two devices, which is no majority: if they part, either may be the odd one."
    for vote in each.votes:
        if len(each.devices) > 1 and len(vote.groups) > 1 and not vote.decided:
            groups = [f"{len(group)} with {group[0].device}" for group in vote.groups[:_GROUPS]]
            more = f" and {len(vote.groups) - _GROUPS} more" if len(vote.groups) > _GROUPS else ""
            yield (
                f"Class {each.label} has no majority for {vote.groups[0][0].loss_name}: its traces fall into "
                f"{len(vote.groups)} groups ({', '.join(groups)}{more}), and nothing that is known of the devices "
                "tells them apart."
            )


def _odd_facts(unit: OddDevice, each: DeviceClass, judgement: Judgement, repeats: dict[str, str]) -> list[str]:
    """The odd device: which it is, how often it parts, where first, and which elements."""
    trials = {record.trial for record in unit.trials}
    pairs = [
        verdict
        for verdict in judgement.pairs
        if verdict.pair.candidate.trial in trials and verdict.pair.axis in ("device", "replica") and verdict.first
    ]
    told = [f"Odd: {unit.device} (class {each.label}, {len(each.devices)} devices)", unit.recurrence]
    if pairs:
        first = min((verdict.first for verdict in pairs if verdict.first), key=lambda first: first.step)
        what = f"{first.quantity} {first.tensor}" if first.tensor else first.quantity
        told.append(f"first at step {first.step} (epoch {first.epoch}, batch {first.batch}), {what}")
    return told + [repeats[trial] for trial in repeats if trial in trials]
