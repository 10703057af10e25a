"""The findings about a pair, one by one: for a block of lines, for a single line, and for a row of a table."""

import math
from dataclasses import dataclass

import numpy as np

from parity.judge.differences import Difference
from parity.judge.verdict import PairVerdict
from parity.render.differing import distance_at_first
from parity.render.phrases import amount, listed, named
from parity.render.wrapping import clip, flat
from parity.store.trace import QUANTITIES

# Most characters of a value that is a text: a digest has 16, a setting of an optimizer any number.
_VALUE = 200


@dataclass(frozen=True)
class Fact:
    """One finding.

    Attributes:
        label: What kind of finding it is: cause, onset, first, drift, compared, shared or NaN.
        text: The finding for a reader who sees the label; a line break marks the best place to break a long line.
        phrase: The finding for a reader who does not see the label; empty where another phrase says it.
    """

    label: str
    text: str
    phrase: str


def pair_facts(verdict: PairVerdict) -> tuple[Fact, ...]:
    """All findings about a pair, the most important first."""
    found = []
    # A cause may quote an error message, which may have several lines.
    cause = flat(_cause(verdict))
    if cause:
        beyond = f"beyond rounding from step {verdict.onset.step}: " if verdict.onset else ""
        found.append(Fact("cause", cause, f"{beyond}{cause}"))
    if verdict.onset:
        onset = verdict.onset
        where = f"step {onset.step} (epoch {onset.epoch}, batch {onset.batch})"
        text = f"beyond rounding from {where} on, {flat(named(onset.quantity, onset.tensor))}"
        # The phrase of the cause has the step already.
        found.append(Fact("onset", text, "" if cause else f"beyond rounding from step {onset.step}"))
    if verdict.first:
        first = verdict.first
        what, values = _what(first), _values(verdict, first)
        where = f"step {first.step} (epoch {first.epoch}, batch {first.batch})"
        found.append(Fact("first", f"{where}, {what}\n{values}", f"first at step {first.step}, {what} {values}"))
        # Equal losses have no drift, even where something else differs.
        if verdict.largest.rel:
            largest = verdict.largest
            drift = f"the losses differ by up to {largest.rel:.2g} (relative), at step {largest.step}"
            found.append(Fact("drift", drift, drift))
    if verdict.steps:
        found.append(_alike("compared", f"{_compared(verdict)}{_audited(verdict)}"))
    # A diverged device has the error and its limit in its cause.
    if verdict.device_audit and verdict.verdict == "rounding":
        worst = verdict.device_audit.worst
        steps = len(verdict.device_audit.steps)
        shared = (
            f"{steps} steps from shared states; {worst.quantity} comes closest to its limit "
            f"({worst.error_u:.3g} u of {worst.line_u:.3g} u)"
        )
        found.append(_alike("shared", shared))
    if verdict.both_nan is not None:
        found.append(_alike("NaN", f"both losses are NaN at step {verdict.both_nan}"))
    return tuple(found)


def one_line(verdict: PairVerdict) -> str:
    """All findings about a pair in one line, however long; without its trials and its verdict."""
    # Phrases are joined by semicolons, so none may end with a full stop.
    phrases = (flat(fact.phrase).rstrip(".") for fact in pair_facts(verdict))
    return "; ".join(phrase for phrase in phrases if phrase)


def _alike(label: str, text: str) -> Fact:
    """A fact whose text needs no label to be understood, so that it is its phrase too."""
    return Fact(label, text, text)


def _compared(verdict: PairVerdict) -> str:
    """What was compared: which steps, if they do not begin with the first, how many quantities, and which were not."""
    comparison = verdict.comparison
    first, last = comparison.first_step, comparison.first_step + verdict.steps - 1
    steps = amount(verdict.steps, "step") + (f" ({first} to {last})" if first else "")
    # Quantities that belong to each side alone, as the loss of a rank does, are not said to be missing.
    lacking = [each for each in comparison.lacking if each not in comparison.own]
    without = f" (without {listed(lacking, most=len(QUANTITIES))})" if lacking else ""
    count = len([each for each in QUANTITIES if each not in (*comparison.own, *lacking)])
    return f"{steps}, {amount(count, 'quantity', 'quantities')}{without}"


def _audited(verdict: PairVerdict) -> str:
    """How many steps were audited, where not all of them were."""
    decision = verdict.decision
    # Worth saying only where a reader would otherwise assume more than was done.
    if decision is None or decision.audited == verdict.steps:
        return ""
    return f"; {decision.audited} step{'s' * (decision.audited != 1)} audited"


def _cause(verdict: PairVerdict) -> str:
    """The cause; empty where there is none, or where the table of the audit shows it."""
    excused = verdict.loss_audit is not None and verdict.loss_audit.excused.any()
    # Tensors that are all equal have no row of numbers.
    equal = verdict.first is None or verdict.first.quantity == "state"
    if not verdict.cause or (verdict.verdict == "rounding" and not excused and not equal):
        return ""  # the cause of rounding is a row of numbers, which the table of the audit shows in columns
    cause = verdict.cause
    if verdict.onset:
        # The report lists the failed items of the contract in a line of their own; summary.json has the whole cause.
        for extra in verdict.causes[1:]:
            if extra.kind in ("contract", "grad_output"):
                cause = cause.replace(f"; {extra.text}", "")
    return cause


def _what(first: Difference) -> str:
    """What differs: the loss itself, or the digest or the norm of a tensor."""
    # A loss is printed as a number, a tensor by its digest; a norm only where digests are equal; a setting as it is.
    plain = first.quantity in ("loss", "state")
    kind = "" if plain else " digest" if isinstance(first.baseline, str) else " norm"
    return f"{flat(named(first.quantity, first.tensor))}{kind}"


def _values(verdict: PairVerdict, first: Difference) -> str:
    """Both values in full precision, and the distance between them."""
    if first.quantity == "state" and not first.tensor:
        # Nothing has a name of its own, and the digest is that of the optimizer's tensors only.
        return f"({flat(verdict.comparison.state.explain(verdict.comparison.index_of(first.step)))})"
    # Losses are stored as float64: as such they would be printed with digits that the dtype of the loss does not have.
    dtype = verdict.pair.baseline.loss_dtype or "float64"
    baseline, candidate = (_number(value, dtype) for value in (first.baseline, first.candidate))
    size = ""
    if first.ulp is not None:
        # ulp where they are known: a relative difference means little between numbers near zero.
        size = f" ({first.ulp} ulp)"
    elif first.rel is not None and not math.isnan(first.rel):
        size = f" (relative {first.rel:.2g})"
    elif (apart := distance_at_first(verdict)) is not None:
        size = f" (relative {apart:.2g})"
    return f"{baseline} != {candidate}{size}"


def _number(value: float | str, dtype: str) -> str:
    """The number with as many digits as distinguish it from its neighbours in its dtype; a digest as it is."""
    if isinstance(value, str):
        return clip(value, _VALUE)
    # NumPy prints the shortest text that reads back as the same number; bfloat16 is not a dtype of NumPy.
    if dtype in ("float16", "float32"):
        with np.errstate(over="ignore"):
            narrow = np.dtype(dtype).type(value)
        if float(narrow) == value or math.isnan(value):
            return str(narrow)
    return repr(value)
