"""What is wrong with a candidate, in one sentence with its size, as a headline says it.

`says` has a function for each kind of cause; a difference without a named cause is described by where it is.
"""

import math
from collections.abc import Callable

from parity.ground.listing import listed
from parity.ground.percent import LEAST_BESIDE, percent, percent_at_most, percent_off, times
from parity.judge.causes import Cause, CauseKind
from parity.judge.verdict import OnsetSize, PairVerdict
from parity.render.names import possessive, subjects
from parity.render.phrases import named
from parity.render.wrapping import flat

# Settings that a headline names; the pair has the others.
_MOST_SETTINGS = 2
# Kinds of causes beside which a NaN of one side is the news.
_BESIDE_NAN = ("nan", "random", "contract", "unknown", "pattern")
# What a quantity is called in a sentence, where its name is that of a column.
QUANTITIES = {
    "state": "starting state",
    "input": "input",
    "output": "output",
    "loss": "loss",
    "output_grad": "gradient",
    "target_grad": "target gradient",
    "param_grad": "parameter gradient",
    "step_grad": "gradient at the optimizer's step",
    "update": "parameter update",
    "param": "parameter",
    "buffer": "buffer",
}


def what_is_wrong(verdict: PairVerdict) -> str:
    """What is wrong with the candidate of a diverged or failed pair, in one sentence that ends with a period.

    Args:
        verdict: The pair and its verdict.
    """
    candidate, baseline = subjects(verdict)
    if verdict.verdict == "failed" and verdict.pair.candidate.status == "failed":
        return _failure(verdict, candidate)
    what, when = _chosen(verdict)
    if verdict.not_finite and (what is None or what.kind in _BESIDE_NAN):
        return _nan(verdict, candidate, baseline)
    if what is None and when is not None:
        return f"{candidate} is {flat(when.text)}."
    if what is None:
        return f"{_unexplained(verdict, candidate, baseline)}."
    return f"{_SAYS[what.kind](what, verdict, candidate)}{_since(verdict, when)}."


def other_causes(verdict: PairVerdict) -> tuple[Cause, ...]:
    """The causes of a diverged or failed pair that the sentence of `what_is_wrong` does not have.

    Args:
        verdict: The pair and its verdict.
    """
    what, when = _chosen(verdict)
    nan = bool(verdict.not_finite) and (what is None or what.kind in _BESIDE_NAN)
    ended = verdict.verdict == "failed" and verdict.pair.candidate.status == "failed"
    said = ("nan", "unknown", "random") if nan else ("raised", "mutates", "detached") if ended else ()
    return tuple(
        cause
        for cause in verdict.causes
        if cause.kind not in said and (nan or ended or cause not in (what, when)) and not (nan and cause is when)
    )


def _chosen(verdict: PairVerdict) -> tuple[Cause | None, Cause | None]:
    """The gravest cause that says what is wrong, and the one that says in which steps."""
    # The step of a fault is no cause of its own: it belongs to what is wrong in it.
    when = next((cause for cause in verdict.causes if cause.kind in ("partial batch", "from step")), None)
    return next((cause for cause in verdict.causes if cause is not when), None), when


def _since(verdict: PairVerdict, when: Cause | None) -> str:
    """From which step on, in words that end a sentence; empty without an onset."""
    if verdict.onset is None:
        return ""
    step = verdict.onset.step
    if when is not None and when.kind == "partial batch" and when.value:
        return f" on partial batches (of {when.value} rows), first at step {step:,}"
    return f", from step {step:,} on"


def _failure(verdict: PairVerdict, candidate: str) -> str:
    """What ended the candidate's training."""
    record = verdict.pair.candidate
    where = "" if record.failed_step is None else f" at step {record.failed_step:,}"
    error = flat(record.error or "the reason is not known").rstrip(".")
    raised = error.removeprefix("the loss raised ")
    if raised != error:
        exception, colon, message = raised.partition(": ")
        return f"{candidate} raised {exception}{where}{colon}{message}."
    return f"{candidate} failed{where}: {error}."


def _nan(verdict: PairVerdict, candidate: str, baseline: str) -> str:
    """The NaN or infinity of one side."""
    onset = verdict.onset
    found = verdict.not_finite
    assert onset is not None and found is not None, "a NaN of one side is an onset"
    who, other = (candidate, baseline) if found.side == "candidate" else (baseline, candidate)
    number = f"{possessive(who)} {_quantity(onset.quantity)}"
    return f"{number} is {found.word} at step {onset.step:,}; that of {other} is not."


def _unexplained(verdict: PairVerdict, candidate: str, baseline: str) -> str:
    """A difference without a named cause: which quantity is how far off, or which settings differ."""
    onset, size = verdict.onset, _size(verdict)
    if onset is None:
        reason = flat(verdict.cause or "").rstrip(".")
        return f"{candidate} does not train as {baseline}{f': {reason}' if reason else ''}"
    if verdict.settings:
        settings = listed([flat(each.explain()) for each in verdict.settings], most=_MOST_SETTINGS)
        return f"{candidate} and {baseline} start step {onset.step:,} from different states: {settings}"
    since = f", from step {onset.step:,} on"
    if verdict.device_audit and verdict.device_audit.unrepeated is not None:
        again = "a step repeated from the same state gives different bits"
        return f"{candidate} does not reproduce its own results{since}: {again}"
    if verdict.pair.axis == "device" and verdict.device_audit is None:
        return f"{candidate} differs from {baseline}, an equal device, in {_of(verdict)}{since}"
    if onset.quantity == "input":
        return f"{candidate} and {baseline} get different inputs or targets{since}"
    if onset.quantity == "state":
        return f"{candidate} and {baseline} start from different optimizer states{since}"
    if why := verdict.because or (verdict.beyond if size is None else None):
        return f"{candidate} diverges from {baseline}{since}: {flat(why).rstrip('.')}"
    if size is None:
        return f"{possessive(candidate)} {_of(verdict)} is not that of {baseline}{since}"
    return f"{possessive(candidate)} {_of(verdict)} is {_off(verdict)}{since}"


def _size(verdict: PairVerdict) -> OnsetSize | None:
    """How far off the onset is; None where that is within what rounding explains, so that something else decided."""
    size = verdict.onset_size
    within = size is not None and size.explained is not None and size.off <= size.explained
    return None if within else size


def _off(verdict: PairVerdict) -> str:
    """How far off the candidate is at its onset, as a predicate."""
    size = _size(verdict)
    if size is None:
        return "wrong"
    if size.reference == "float64":
        return percent_off(size.off)
    # A tensor that one side lacks is infinitely far; the candidate's, if it is the baseline's that has a length.
    if math.isinf(size.off) and size.ratio == 0:
        return "missing, where the baseline has one"
    text = percent_off(size.off, zero="the baseline's is")
    return f"{text.removesuffix(' off')} away from the baseline's" if text.endswith(" off") else text


def _quantity(quantity: str) -> str:
    return QUANTITIES.get(quantity, quantity)


def _of(verdict: PairVerdict) -> str:
    """The quantity of the onset, with its tensor."""
    onset = verdict.onset
    assert onset is not None
    return f"{_quantity(onset.quantity)}{f' of {flat(onset.tensor)}' if onset.tensor else ''}"


def _scaled(cause: Cause, _: PairVerdict, candidate: str) -> str:
    whose = f"{possessive(candidate)} gradient{_part(cause)}"
    if cause.factor is None:
        return f"{whose} is scaled by {flat(cause.value)}"
    sign = " and has the wrong sign" if cause.factor < 0 else ""
    size = times(cause.factor)
    # A constant with a name, such as 1/784, says more than its digits do.
    name = cause.constant
    # Of a part, the constant is the part.
    by = "" if not name or size.startswith("half ") else f" ({name})" if size.endswith(" be") else f" (by {name})"
    return f"{whose} is {size}{by}{sign}"


def _part(cause: Cause) -> str:
    """The part of an output tree, in words; empty for an output of one tensor."""
    return f" {flat(cause.detail)}" if cause.detail.startswith("in ") else ""


def _in_part(text: str) -> Callable[[Cause, PairVerdict, str], str]:
    return lambda cause, _, candidate: f"{possessive(candidate)} gradient{_part(cause)} {text}"


def _offset(cause: Cause, _: PairVerdict, candidate: str) -> str:
    return f"{possessive(candidate)} gradient{_part(cause)} has {cause.value} added to each element"


def _detail(text: str) -> Callable[[Cause, PairVerdict, str], str]:
    """A sentence with `{whose}`, `{candidate}`, `{detail}` and `{off}` in it."""

    def say(cause: Cause, verdict: PairVerdict, candidate: str) -> str:
        detail = flat(cause.detail or cause.text).rstrip(".")
        return text.format(whose=possessive(candidate), candidate=candidate, detail=detail, off=_off(verdict))

    return say


def _precision(cause: Cause, verdict: PairVerdict, candidate: str) -> str:
    # Of a device, the error of its first tensor and the rounding that explains it.
    first = verdict.device_audit.first if verdict.device_audit else None
    if first and first.rounding:
        return (
            f"{candidate} computes matrix products in {first.rounding}, so that its {_of(verdict)} is {_off(verdict)}"
        )
    return f"{possessive(candidate)} gradient has less precision: {flat(cause.detail)}"


def _unknown(cause: Cause, verdict: PairVerdict, candidate: str) -> str:
    if verdict.onset is None:
        return f"{candidate}: {flat(cause.text)}"
    return f"{possessive(candidate)} {_of(verdict)} is {_off(verdict)}, with no known pattern"


def _device_or_unknown(cause: Cause, verdict: PairVerdict, candidate: str) -> str:
    if verdict.device_audit and verdict.device_audit.first:
        return f"{possessive(candidate)} {_of(verdict)} is {_off(verdict)}"
    return _unknown(cause, verdict, candidate)


def _report(_: Cause, verdict: PairVerdict, candidate: str) -> str:
    # An infinite difference is that of an infinite loss, or from a zero one.
    rel = verdict.largest.rel
    off = f" ({percent_off(rel)})" if rel and not math.isinf(rel) else ""
    return f"{candidate} reports a wrong loss{off}; its gradient is right"


def _pattern(cause: Cause, _: PairVerdict, candidate: str) -> str:
    # Its text is a clause about both sides.
    return f"{candidate} diverges: {flat(cause.text)}"


def size_of(verdict: PairVerdict) -> str:
    """How far off the onset is, beside the baseline's own error and what rounding explains; empty if not known.

    Args:
        verdict: The pair and its verdict.
    """
    size, onset = _size(verdict), verdict.onset
    # Nothing is off by a NaN, and the headline has it.
    if size is None or onset is None or verdict.not_finite:
        return ""
    text = f"{named(onset.quantity, onset.tensor)} is {_off(verdict)}"
    if size.reference == "float64":
        beside = "" if math.isinf(size.off) else " in float64"
        text = f"{text.removesuffix(' off')} away from float64" if text.endswith(" off") else f"{text}{beside}"
    others = []
    if size.baseline_off is not None:
        others.append(f"the baseline is {percent(size.baseline_off, least=LEAST_BESIDE)} away")
    if size.explained is not None:
        others.append(f"rounding explains {percent_at_most(size.explained, least=LEAST_BESIDE)}")
    return f"{text}; {', '.join(others)}" if others else text


# By kind of cause: the sentence, without its step and its period. Those that say in which steps have none: `_chosen`.
_SAYS: dict[CauseKind, Callable[[Cause, PairVerdict, str], str]] = {
    "scaled": _scaled,
    "sign": _in_part("has the wrong sign"),
    "zero": _in_part("is zero"),
    "offset": _offset,
    "permuted": _detail("{whose} gradient has its elements in the wrong places ({detail})"),
    "precision": _precision,
    "other loss": _detail("{candidate} is another loss ({detail})"),
    "rows": _detail("{whose} gradient is wrong in some rows: {detail}"),
    "columns": _detail("{whose} gradient is wrong in some columns: {detail}"),
    "elements": _detail("{whose} gradient is wrong in some elements: {detail}"),
    "nan": _detail("{candidate} gives NaN or infinity where the baseline has numbers: {detail}"),
    "unknown": _device_or_unknown,
    "random": _detail("{candidate} is random: {detail}"),
    "mutates": _detail("{candidate} changes the tensors that it is given: {detail}"),
    "detached": _detail("{candidate} is cut off from the graph: {detail}"),
    "raised": _detail("{candidate} failed: {detail}"),
    "report": _report,
    "grad_output": _detail("{candidate} ignores grad_output: {detail}"),
    "contract": _detail("{candidate} breaks the contract of a loss: {detail}"),
    "pattern": _pattern,
}
