"""What was found of a pair, fact by fact: for a block of lines, for one line, and for a row of a table."""

import math
from dataclasses import dataclass

import numpy as np

from parity.judge.differences import Difference
from parity.judge.verdict import PairVerdict
from parity.render.phrases import named
from parity.render.wrapping import flat
from parity.store.trace import QUANTITIES


@dataclass(frozen=True)
class Fact:
    """One thing that was found.

    Attributes:
        label: In a word, of the field's own: cause, onset, first, drift, compared, shared or NaN.
        text: For a reader who sees the label; a line break is where it may be broken best.
        phrase: The same for a reader who does not.
    """

    label: str
    text: str
    phrase: str


def pair_facts(verdict: PairVerdict) -> tuple[Fact, ...]:
    """All that is told of a pair, what matters most first."""
    found = []
    cause = flat(_cause(verdict))
    if cause:
        beyond = f"beyond rounding from step {verdict.onset.step}: " if verdict.onset else ""
        found.append(Fact("cause", cause, f"{beyond}{cause}"))
    if verdict.onset:
        onset = verdict.onset
        where = f"step {onset.step} (epoch {onset.epoch}, batch {onset.batch})"
        text = f"beyond rounding from {where} on, {flat(named(onset.quantity, onset.tensor))}"
        found.append(Fact("onset", text, "" if cause else f"beyond rounding from step {onset.step}"))
    if verdict.first:
        first = verdict.first
        what, values = _what(first), _values(verdict, first)
        where = f"step {first.step} (epoch {first.epoch}, batch {first.batch})"
        found.append(Fact("first", f"{where}, {what}\n{values}", f"first at step {first.step}, {what} {values}"))
        if verdict.largest.rel:
            drift = f"the losses drift to rel {verdict.largest.rel:.2g} at step {verdict.largest.step}"
            found.append(Fact("drift", drift, drift))
    if verdict.steps:
        found.append(_alike("compared", f"{verdict.steps} steps, {len(QUANTITIES)} quantities{_audited(verdict)}"))
    if verdict.device_audit and verdict.verdict == "rounding":
        worst = verdict.device_audit.worst
        told = (
            f"{len(verdict.device_audit.steps)} steps from shared states, {worst.quantity} nearest to its line "
            f"({worst.error_u:.3g} u of {worst.line_u:.3g} u)"
        )
        found.append(_alike("shared", told))
    if verdict.both_nan is not None:
        found.append(_alike("NaN", f"both losses are NaN at step {verdict.both_nan}"))
    return tuple(found)


def one_line(verdict: PairVerdict) -> str:
    """All that is told of a pair but its trials and its verdict, in one line however long."""
    phrases = (flat(fact.phrase).rstrip(".") for fact in pair_facts(verdict))
    return "; ".join(phrase for phrase in phrases if phrase)


def _alike(label: str, text: str) -> Fact:
    return Fact(label, text, text)


def _audited(verdict: PairVerdict) -> str:
    decision = verdict.decision
    return f"; {decision.audited} of them audited" if decision and decision.audited < verdict.steps else ""


def _cause(verdict: PairVerdict) -> str:
    """Why; empty where the audit says it."""
    if not verdict.cause or verdict.verdict == "rounding":
        return ""
    cause = verdict.cause
    if verdict.onset:
        # The failed items of a contract have a line of their own, and summary.json has it all.
        for extra in verdict.causes[1:]:
            if extra.kind in ("contract", "grad_output"):
                cause = cause.replace(f"; {extra.text}", "")
    return cause


def _what(first: Difference) -> str:
    """What differs; of a tensor its bits are compared by their digest, and where these are equal its norm differs."""
    kind = "" if first.quantity == "loss" else " digest" if isinstance(first.baseline, str) else " norm"
    return f"{flat(named(first.quantity, first.tensor))}{kind}"


def _values(verdict: PairVerdict, first: Difference) -> str:
    """Both values in full precision, and how far they are apart."""
    dtype = verdict.pair.baseline.loss_dtype or "float64"
    baseline, candidate = (_number(value, dtype) for value in (first.baseline, first.candidate))
    size = ""
    if first.ulp is not None:
        size = f" ({first.ulp} ulp)"
    elif first.rel is not None and not math.isnan(first.rel):
        size = f" (rel {first.rel:.2g})"
    return f"{baseline} != {candidate}{size}"


def _number(value: float | str, dtype: str) -> str:
    """As many digits as tell the number from its neighbours in its dtype; a digest as it is."""
    if isinstance(value, str):
        return value
    return str(np.dtype(dtype).type(value)) if dtype in ("float16", "float32") else repr(value)
