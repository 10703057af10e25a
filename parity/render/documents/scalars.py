"""The report about two logs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from parity.ground.listing import listed
from parity.plan.tolerance import EXIT_STATUSES
from parity.render.documents.document import Document, Finding
from parity.render.documents.numbers import rounded_up
from parity.render.phrases import amount
from parity.scalars.comparing import LogComparison, Missing, Place, ScalarComparison
from parity.scalars.growth import Growth
from parity.scalars.numbering import Renumbering


def document(found: LogComparison) -> Document:
    """The report, with the scalars that differ first."""
    order = [*EXIT_STATUSES]
    worst_first = sorted(found.scalars, key=lambda each: -order.index(each.word))
    # A resumed log has logged all of its scalars twice, which is said once.
    shared = _shared(found.scalars)
    sides = tuple(
        (label, f"{log.path} ({log.format})")
        for label, log in (("baseline", found.baseline), ("candidate", found.candidate))
    )
    return Document(
        subject="logs",
        word=found.word,
        exit_status=found.exit_status,
        headline=_headline(found, worst_first),
        sides=sides,
        findings=tuple(finding(each, shared) for each in worst_first),
        passed="",
        notes=(*_notes(found), *(f"All scalars: {note}." for note in shared)),
        advice=(*_advice(found),),
        content=_content(found),
    )


def _shared(scalars: Sequence[ScalarComparison]) -> list[str]:
    first = scalars[0].notes if len(scalars) > 1 else ()
    return [note for note in first if all(note in each.notes for each in scalars)]


def finding(each: ScalarComparison, shared: Sequence[str] = ()) -> Finding:
    """What was found about a scalar, without the notes that all scalars share."""
    facts = (*_facts(each, shared),)
    return Finding(_name(each), each.word, EXIT_STATUSES[each.word], message(each), facts)


def message(each: ScalarComparison) -> str:
    """What was found about a scalar, in one sentence."""
    steps = amount(each.steps, "step")
    if not each.steps:
        return "there is no step at which both have a number"
    if not each.first:
        equal = "equal as printed" if each.weak else "identical, bit for bit,"
        if each.hidden or each.word == "within":
            _, ulp, dtype = each.unit.partition("ulp of ")
            equal = f"equal after rounding to {dtype}" if ulp else "equal to the decimals that both have"
        return f"{equal} at {steps}{'; ' + _lacking(each) if each.word == 'undecided' else ''}"
    where = f"parts at step {each.first.step:,} by {_distance(each, each.first)}"
    if each.word == "within":
        return f"{where}; all {steps} are within the tolerance"
    # Step and distance are facts about the training; the growth is not.
    return f"{where}; {each.different:,} of {steps} differ; {_growth(each)}"


def _headline(found: LogComparison, worst_first: list[ScalarComparison]) -> str:
    worst = worst_first[0]
    same = [each for each in found.scalars if each.word == "identical"]
    if found.word == "identical":
        weak = [_name(each) for each in same if each.weak]
        words = "identical, bit for bit" if not weak else "the same"
        words += f" ({'all' if len(weak) == len(same) else listed(weak)} as printed)" if weak else ""
        subject = f"{_name(same[0])} is" if len(same) == 1 else f"All {len(same):,} scalars are"
        nan = [_name(each) for each in same if each.not_numbers]
        also = f" {listed(nan)} {'has' if len(nan) == 1 else 'have'} NaN at the same steps." if nan else ""
        return f"{subject} {words}, at {amount(max(each.steps for each in same), 'step')}.{also}"
    if found.word == "within":
        return f"All that differs is within the tolerance: {_name(worst)} {message(worst)}."
    if found.word == "differ":
        # The scalar that parts first is nearest to the cause.
        parts = [each for each in found.scalars if each.word == "differ" and each.first]
        first = min(parts, key=lambda each: each.first.step if each.first else 0)
        return f"The logs differ. {_name(first)} {message(first)}."
    if worst.word == "undecided":
        return f"No answer: {_name(worst)}: {message(worst)}."
    equal = "equal" if worst.word == "identical" else "within the tolerance"
    return f"No answer: what was compared is {equal}, but not all could be ({_one_sided(found)})."


def _one_sided(found: LogComparison) -> str:
    sides = (("baseline", found.only_baseline), ("candidate", found.only_candidate))
    one_sided = [] if found.chosen else [f"only the {side} has {listed(names)}" for side, names in sides if names]
    return "; ".join([*one_sided, *found.doubts])


def _facts(each: ScalarComparison, shared: Sequence[str]) -> Iterator[tuple[str, str]]:
    if each.first:
        yield "first", _place(each, each.first)
        if each.largest and each.different > 1:
            yield "largest", _place(each, each.largest)
        yield "growth", _growth(each)
        yield "passes with", _passing(each)
    compared = (
        f"{amount(each.steps, 'step')}, {each.different:,} of them differ"
        if each.steps
        else "no step at which both have a number"
    )
    yield "compared", compared
    if each.renumbering:
        yield "numbering", _numbering(each.renumbering)
    if each.word == "undecided" or each.only_baseline or each.only_candidate or each.blank:
        yield "missing", _lacking(each)
    if each.not_numbers:
        count, step = each.not_numbers
        yield "NaN", f"on both sides at {amount(count, 'step')}, the first is step {step:,}"
    if each.weak:
        yield "precision", each.weak
    for note in each.notes:
        if note not in shared:
            yield "note", note


def _numbering(found: Renumbering) -> str:
    return (
        f"from step {found.candidate:,} on the candidate has what the baseline has from step {found.baseline:,} on: "
        "their steps are counted differently, or one side lags behind"
    )


def _lacking(each: ScalarComparison) -> str:
    """Which steps could not be compared."""
    parts = [
        _missing(side, missing)
        for side, missing in (("baseline", each.only_baseline), ("candidate", each.only_candidate))
        if missing
    ]
    if each.blank:
        count, step = each.blank
        parts.append(
            f"{amount(count, 'place')} without a number, the first at step {step:,}: some tools write a NaN so, "
            "and it equals nothing"
        )
    if each.hidden:
        count, step = each.hidden
        parts.append(
            f"the numbers of {amount(count, 'step')}, the first at step {step:,}, are not equal, and a log keeps too "
            "few digits to say whether they differ"
        )
    if each.repeats:
        parts.append("steps are logged more than once with other numbers, and only the last of each is compared")
    return "; ".join(parts) or "there is no step at which both have a number"


def _missing(side: str, missing: Missing) -> str:
    if missing.count == 1:
        return f"only the {side} has step {missing.first:,}"
    return f"only the {side} has {missing.count:,} steps, from {missing.first:,} to {missing.last:,}"


def _place(each: ScalarComparison, place: Place) -> str:
    numbers = f"{_number(each, place.baseline)} and {_number(each, place.candidate)}"
    if place.units < 0 or not math.isfinite(place.absolute):
        return f"step {place.step:,}: {numbers}"
    return (
        f"step {place.step:,}: {numbers}, {_distance(each, place)} "
        f"(absolute {place.absolute:.3g}, relative {place.relative:.3g})"
    )


def _number(each: ScalarComparison, value: float) -> str:
    """The number with as many digits as tell it from its neighbours, and no more."""
    if each.unit != "ulp of float32" or abs(value) > float(np.finfo(np.float32).max):
        return repr(value)
    return str(np.float32(value))


def _distance(each: ScalarComparison, place: Place) -> str:
    if place.units < 0 or not math.isfinite(place.absolute):
        return f"more than any number ({_number(each, place.baseline)} and {_number(each, place.candidate)})"
    if not place.units and not place.absolute:
        return "the sign of a zero"
    if place.units >= 10**9:
        return f"{place.absolute:.3g}"
    return f"{place.units:,} {each.unit}".strip()


def _growth(each: ScalarComparison) -> str:
    growth: Growth | None = each.growth
    if not growth:
        return "no difference"
    if growth.kind == "not finite":
        return f"one side is not finite, or both differ in it, from step {growth.step:,} on"
    if growth.kind == "jump":
        return f"jumps at step {growth.step:,} to {growth.factor:,.0f} times the largest difference before it"
    if growth.kind == "large":
        return "the first difference is large: more than rounding of one step leaves, if each step is logged"
    if each.different == 1:
        return "no other step differs"
    return (
        "grows without a jump, as rounding does and a small fault may: the largest difference is "
        f"{growth.factor:,.0f} times the first"
    )


def _passing(each: ScalarComparison) -> str:
    if not math.isfinite(each.atol):
        return "no tolerance: a number that is not finite equals only the same one"
    options = [f"--atol {rounded_up(each.atol)}"]
    if math.isfinite(each.rtol):
        options.insert(0, f"--rtol {rounded_up(each.rtol)}")
    return " or ".join(options)


def _name(each: ScalarComparison) -> str:
    return each.name if each.name == each.candidate_name else f"{each.name} = {each.candidate_name}"


def _notes(found: LogComparison) -> Iterator[str]:
    for side, log in (("baseline", found.baseline), ("candidate", found.candidate)):
        for note in log.notes:
            yield f"{side}: {note}"
    for doubt in found.doubts:
        yield f"Not compared: {doubt}."
    if found.speed:
        yield f"Not compared, since they measure speed or memory: {listed(found.speed, most=8)}."
    if not found.chosen:
        for side, names in (("baseline", found.only_baseline), ("candidate", found.only_candidate)):
            if names:
                yield f"Only the {side} has {listed(names, most=8)}."


def _advice(found: LogComparison) -> Iterator[str]:
    if any(each.renumbering for each in found.scalars):
        yield "If only the steps are counted differently, number them alike in both logs, and compare them again."
    if found.word == "differ":
        yield (
            "Scalars show that and where two trainings part, not why: record both with parity.Recorder, and "
            "parity report says whether it is rounding or a fault."
        )
    if found.word == "undecided":
        one_sided = not found.chosen and (found.only_baseline or found.only_candidate)
        if one_sided:
            yield "Choose what counts with --scalar NAME, or --scalar BASELINE=CANDIDATE where the names differ."
        if any(each.only_baseline or each.only_candidate or each.blank for each in found.scalars):
            yield "Give logs of the same steps, in which a NaN is written as nan."


def _content(found: LogComparison) -> dict[str, Any]:
    sides = {
        side: {"path": log.path, "format": log.format, "notes": [*log.notes]}
        for side, log in (("baseline", found.baseline), ("candidate", found.candidate))
    }
    return {
        "schema": 1,
        "kind": "logs",
        "verdict": found.word,
        "exit_status": found.exit_status,
        **sides,
        "tolerance": asdict(found.tolerance),
        "scalars": [{**asdict(each), "words": message(each)} for each in found.scalars],
        "only_baseline": [*found.only_baseline],
        "only_candidate": [*found.only_candidate],
        "not_compared": [*found.speed],
        "doubts": [*found.doubts],
    }
