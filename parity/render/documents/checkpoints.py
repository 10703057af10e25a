"""The report about two checkpoints."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from parity.checkpoints.comparing import CheckpointComparison, Difference, Side, is_generator
from parity.checkpoints.figures import BINS, Figures
from parity.ground.listing import listed
from parity.render.documents.document import Document, Finding
from parity.render.documents.numbers import rounded_up
from parity.render.phrases import amount

# Files that were not read are named, so many of them.
_MOST_UNREAD = 10


def document(found: CheckpointComparison) -> Document:
    """The report: the first tensor that differs in the order of the file, the worst, then the others."""
    differ = [each for each in found.differences if each.word == "differ"]
    worst = max(differ, key=_badness, default=None)
    shown = [*differ, *(each for each in found.differences if each.word != "differ")]
    # The worst comes second, so that it is among those that are shown.
    if worst and worst is not shown[0]:
        shown.remove(worst)
        shown.insert(1, worst)
    return Document(
        subject="checkpoints",
        word=found.word,
        exit_status=found.exit_status,
        headline=_headline(found, differ, worst),
        sides=tuple(
            (label, f"{each.path} ({each.format}, {amount(len(each.tensors), 'tensor')})")
            for label, each in (("baseline", found.baseline), ("candidate", found.candidate))
        ),
        findings=tuple(_finding(each) for each in shown),
        passed=_equal(found),
        notes=(*_notes(found),),
        advice=(*_advice(differ),),
        content=_content(found, worst),
    )


def _headline(found: CheckpointComparison, differ: list[Difference], worst: Difference | None) -> str:
    total = found.equal + found.equal_values + len(found.differences)
    if found.word == "identical":
        equal, noun = (found.equal, "tensor") if found.equal else (found.equal_values, "value")
        subject = f"The only {noun} is" if equal == 1 else f"All {amount(equal, noun)} are"
        return f"{subject} identical, bit for bit ({found.equal_bytes:,} bytes)."
    if found.word == "undecided":
        what = "What was read differs as far as is allowed" if found.differences else "Nothing that was read differs"
        verb = "was" if len(found.unread) == 1 else "were"
        return f"{what}, but {amount(len(found.unread), 'file')} {verb} not read: {found.unread[0]}."
    if not worst:
        first = found.differences[0]
        count = amount(len(found.differences), "tensor")
        return f"{count} of {total:,} differ, all as far as is allowed, such as {first.name}: {message(first)}."
    first = differ[0]
    kind = "tensors and values" if found.equal_values or any(each.kind == "value" for each in differ) else "tensors"
    text = f"{len(differ):,} of {total:,} {kind} differ. The first is {first.name}: {message(first)}."
    if worst is not first and worst.figures:
        text += f" The worst is {worst.name}: {message(worst)}."
    return text


def _badness(each: Difference) -> tuple[int, float]:
    """Order of the differences: numbers that are not finite, missing and other shapes, then the relative difference."""
    if each.figures and each.kind == "numbers":
        return (2 if each.figures.not_finite else 1, each.figures.relative)
    return (0, each.figures.relative if each.figures else 0.0)


def message(each: Difference) -> str:
    """How a tensor differs, in one sentence."""
    mine, other = each.baseline, each.candidate
    if each.same_as:
        return f"the candidate has the same bytes as {each.same_as}"
    if not mine or not other:
        side = "baseline" if mine else "candidate"
        tied = f"; it shares its memory with {each.tied_to}, which both have" if each.tied_to else ""
        return f"only the {side} has it ({_described(mine or other)}){tied}"
    if each.kind == "value":
        return f"{mine.value} and {other.value}"
    if each.kind == "shape":
        return f"shapes {_described(mine)} and {_described(other)}"
    if each.kind == "dtype":
        return _two_dtypes(mine, other, each.figures)
    return _numbers(each.name, mine, each.figures) if each.figures else "its bytes differ"


def _numbers(name: str, side: Side, found: Figures) -> str:
    if is_generator(name, side.dtype):
        return "the state of a random generator, so the trainings draw other numbers from here on"
    of = f"{found.different:,} of {amount(found.elements, 'element')}"
    if found.zeros == found.different:
        return f"only the signs of zeros, in {of}"
    if found.payloads == found.different:
        return f"only the bits of NaN, in {of}"
    if found.not_finite:
        return f"{found.not_finite:,} of {amount(found.elements, 'element')} are NaN or infinite on one side only"
    if found.factor is not None:
        if found.signs == found.different:
            return f"every sign is the opposite, in {of}"
        return f"the candidate is {found.factor:.6g} times the baseline"
    if found.signs == found.different:
        return f"{of} have the opposite sign"
    distance = f"at most {found.ulp:,} ulp, " if found.ulp is not None else ""
    return f"{of}, {distance}relative {found.relative:.3g} (norm of the difference over norm)"


def _two_dtypes(mine: Side, other: Side, found: Figures | None) -> str:
    text = f"{mine.dtype} and {other.dtype}"
    if not found:
        return text
    if not found.different:
        return f"{text}, with the same numbers"
    if found.narrowed:
        return f"{text}: the narrower one is the wider one, rounded"
    return f"{text}, and not the same numbers rounded: relative {found.relative:.3g} after exact widening"


def _described(side: Side | None) -> str:
    if not side:
        return "nothing"
    return side.value or f"{side.dtype}[{', '.join(map(str, side.shape))}]"


def _finding(each: Difference) -> Finding:
    status = 1 if each.word == "differ" else 0
    return Finding(each.name, each.word, status, message(each), (*_facts(each),))


def _facts(each: Difference) -> Iterator[tuple[str, str]]:
    yield "found", message(each)
    mine, other, found = each.baseline, each.candidate, each.figures
    if mine and other and mine.digest is not None and other.digest is not None:
        yield "tensor", _described(mine) if each.kind == "numbers" else f"{_described(mine)} and {_described(other)}"
        yield "digests", f"{mine.digest:016x} and {other.digest:016x}"
    # The largest difference of two states of a generator means nothing.
    if not found or not found.different or (each.kind == "numbers" and found.ulp is None):
        return
    numbers = f"{_number(mine, found.baseline_value)} and {_number(other, found.candidate_value)}"
    yield "largest", f"element {found.largest_at:,}: {numbers} (absolute {found.largest_absolute:.3g})"
    if found.first_at != found.largest_at:
        yield "first", f"element {found.first_at:,}"
    if found.ulp is not None and any(found.histogram):
        yield "ulp", _histogram(found)
    oddities = [
        f"{amount(count, 'element')}: {words}"
        for count, words in (
            (found.zeros, "zeros of opposite signs"),
            (found.payloads, "NaN with other bits"),
            (found.not_finite, "NaN or infinite on one side only"),
        )
        if count
    ]
    if oddities:
        yield "special", "; ".join(oddities)
    yield "norms", f"{found.norm:.8g} and {found.candidate_norm:.8g}, relative difference {found.relative:.3g}"
    if 1e-300 < found.largest_absolute < math.inf and each.kind == "numbers":
        options = [f"--atol {rounded_up(found.largest_absolute)}"]
        if math.isfinite(found.largest_relative):
            options.insert(0, f"--rtol {rounded_up(found.largest_relative)}")
        yield "passes with", " or ".join(options)


def _number(side: Side | None, value: float) -> str:
    """The number with as many digits as its dtype needs."""
    return str(np.float32(value)) if side and side.dtype == "float32" else repr(value)


def _histogram(found: Figures) -> str:
    """Number of elements by distance: `1: 12, 2 to 9: 3`."""
    parts = []
    for place, count in enumerate(found.histogram):
        last = BINS[place + 1] - 1 if place + 1 < len(BINS) else None
        least = f"{BINS[place]:,}"
        label = f"{least} or more" if last is None else least if last == BINS[place] else f"{least} to {last:,}"
        if count:
            parts.append(f"{label} ulp: {count:,}")
    return ", ".join(parts)


def _equal(found: CheckpointComparison) -> str:
    if not found.differences:
        return ""
    values = f" and {amount(found.equal_values, 'value')}" if found.equal_values else ""
    verb = "is" if found.equal == 1 and not values else "are"
    return f"{amount(found.equal, 'tensor')}{values} {verb} identical, bit for bit ({found.equal_bytes:,} bytes)."


def _notes(found: CheckpointComparison) -> Iterator[str]:
    if found.renamed:
        yield f"The names of one side begin with {found.renamed!r}, which is left out."
    for text in found.unread[:_MOST_UNREAD]:
        yield f"Not compared: {text}"
    if len(found.unread) > _MOST_UNREAD:
        yield f"Not compared: {len(found.unread) - _MOST_UNREAD:,} more files that are not the same."
    if found.not_numbers:
        yield f"NaN on both sides, with the same bits, in {listed(found.not_numbers)}."
    yield from (f"No state of the training: {text}" for text in found.not_state)
    both = [note for note in found.baseline.notes if note in found.candidate.notes]
    yield from both
    for side, each in (("baseline", found.baseline), ("candidate", found.candidate)):
        yield from (f"{side}: {note}" for note in each.notes if note not in both)


def _advice(differ: list[Difference]) -> Iterator[str]:
    if any(each.same_as for each in differ):
        yield "Tensors have changed their names or places: compare the code that saves or converts them."
    if any(each.kind == "numbers" for each in differ):
        yield (
            "A checkpoint shows that two trainings have parted, not when or why: record both with parity.Recorder, and "
            "parity report says at which step, and whether it is rounding or a fault."
        )


def _content(found: CheckpointComparison, worst: Difference | None) -> dict[str, Any]:
    sides = {
        side: {"path": each.path, "format": each.format, "tensors": len(each.tensors), "notes": [*each.notes]}
        for side, each in (("baseline", found.baseline), ("candidate", found.candidate))
    }
    differ = [each for each in found.differences if each.word == "differ"]
    return {
        "schema": 1,
        "kind": "checkpoints",
        "verdict": found.word,
        "exit_status": found.exit_status,
        **sides,
        "tolerance": asdict(found.tolerance),
        "equal": found.equal,
        "equal_values": found.equal_values,
        "equal_bytes": found.equal_bytes,
        "first": differ[0].name if differ else None,
        "worst": worst.name if worst else None,
        "nan_in": [*found.not_numbers],
        "renamed": found.renamed,
        "unread": [*found.unread],
        "not_state": [*found.not_state],
        "differences": [{**_plain(each), "words": message(each)} for each in found.differences],
    }


def _plain(each: Difference) -> dict[str, Any]:
    content = asdict(each)
    for side in ("baseline", "candidate"):
        if content[side] and content[side]["digest"] is not None:
            content[side]["digest"] = f"{content[side]['digest']:016x}"  # 64 bits, more than JSON's numbers hold
    if content["figures"]:
        counts = content["figures"].pop("histogram")
        content["figures"]["ulp_histogram"] = {
            f"from {least}": count for least, count in zip(BINS, counts, strict=False)
        }
    return content
