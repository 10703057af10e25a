"""The findings about a pair, one by one: for a block of lines, for a single line, and for a row of a table."""

import math
from dataclasses import dataclass

from parity.ground.percent import percent, percent_off
from parity.judge.differences import Difference
from parity.judge.verdict import PairVerdict
from parity.render import story
from parity.render.phrases import amount, closest_to_its_limit, compared_count, losses_differ, named, shortest
from parity.render.what import other_causes, size_of
from parity.render.wrapping import clip, flat

# Most characters of a value that is a text: a setting of an optimizer has any number.
_VALUE = 200


@dataclass(frozen=True)
class Fact:
    """One finding.

    Attributes:
        label: What kind of finding it is: cause, also, contract, why, onset, first, drift, compared, shared or NaN.
        text: The finding for a reader who sees the label; a line break marks the best place to break a long line.
        phrase: The finding for a reader who does not see the label; empty where another phrase says it.
    """

    label: str
    text: str
    phrase: str


def pair_facts(verdict: PairVerdict) -> tuple[Fact, ...]:
    """All findings about a pair, the most important first."""
    found = [*_of_cause(verdict)]
    if verdict.onset:
        onset, size = verdict.onset, size_of(verdict)
        where = f"step {onset.step} (epoch {onset.epoch}, batch {onset.batch})"
        text = size or named(onset.quantity, onset.tensor)
        # The sentence of the cause has the step and the size already.
        found.append(Fact("onset", f"{where}, {flat(text)}", ""))
    if verdict.first and not _is_onset(verdict, verdict.first):
        first = verdict.first
        what, values = flat(named(first.quantity, first.tensor)), _values(verdict, first)
        where = f"step {first.step} (epoch {first.epoch}, batch {first.batch})"
        found.append(Fact("first", f"{where}, {what}\n{values}", f"first at step {first.step}, {what} {values}"))
    # Equal losses have no drift, even where something else differs.
    if verdict.first and verdict.largest.rel:
        far, step = losses_differ(verdict.largest.rel), verdict.largest.step
        drift = f"{'the ' if far.startswith('losses') else ''}{far}, at step {step}"
        if math.isnan(verdict.largest.rel):
            drift = f"{'both losses are' if verdict.both_nan == step else 'one side is'} NaN from step {step}"
        found.append(Fact("drift", drift, drift))
    if verdict.steps:
        found.append(_alike("compared", f"{_compared(verdict)}{_audited(verdict)}"))
    # A diverged device has the error and its limit in its cause.
    if verdict.device_audit and verdict.verdict == "rounding":
        worst = verdict.device_audit.worst
        closest = closest_to_its_limit(named(worst.quantity, worst.tensor), worst)
        steps = f"{amount(len(verdict.device_audit.steps), 'step')} from shared states"
        shared = f"{steps}; {closest}" if closest else steps
        found.append(_alike("shared", flat(shared)))
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


def _of_cause(verdict: PairVerdict) -> list[Fact]:
    """What is wrong, what else is, and why rounding does not explain it; nothing where nothing is to be explained."""
    if verdict.verdict in ("diverged", "failed"):
        what = story.pair_headline(verdict)
        found = [_alike("cause", what)]
        for cause in other_causes(verdict):
            found.append(_alike("contract" if cause.kind in ("contract", "grad_output") else "also", flat(cause.text)))
        # Numbers against float64 are those of the onset; a cause with a name needs no other reason.
        shown = verdict.onset_size is not None and verdict.onset_size.reference == "float64"
        if (
            verdict.beyond
            and not verdict.settings
            and not shown
            and not verdict.not_finite
            and flat(verdict.beyond) not in what
        ):
            found.append(Fact("why", flat(verdict.beyond), ""))
        return found
    excused = verdict.loss_audit is not None and verdict.loss_audit.excused.any()
    # Tensors that are all equal have no row of numbers.
    equal = verdict.first is None or verdict.first.quantity == "state"
    # The cause of rounding is a row of numbers, which the table of the audit shows in columns.
    if not verdict.cause or (verdict.verdict == "rounding" and not excused and not equal):
        return []
    # A cause may quote an error message, which may have several lines.
    return [_alike("cause", flat(verdict.cause))]


def _is_onset(verdict: PairVerdict, first: Difference) -> bool:
    """Whether the first difference is the onset, whose numbers are shown already."""
    onset = verdict.onset
    # Of a loss both values are worth their place.
    return (
        onset is not None
        and first.quantity != "loss"
        and (onset.step, onset.quantity, onset.tensor) == (first.step, first.quantity, first.tensor)
    )


def _compared(verdict: PairVerdict) -> str:
    """What was compared: which steps, if they do not begin with the first, how many quantities, and which were not."""
    steps, quantities, lacking = compared_count(verdict)
    return f"{steps}, {quantities}{f' (without {lacking})' if lacking else ''}"


def _audited(verdict: PairVerdict) -> str:
    """How many steps were audited, where not all of them were."""
    decision = verdict.decision
    # Worth saying only where a reader would otherwise assume more than was done.
    if decision is None or decision.audited == verdict.steps:
        return ""
    return f"; {amount(decision.audited, 'step')} audited"


def _values(verdict: PairVerdict, first: Difference) -> str:
    """How far both sides are apart; of a loss or a setting both values, in full precision."""
    if first.quantity == "state" and not first.tensor:
        # Nothing has a name of its own, and the digest is that of the optimizer's tensors only.
        return f"({flat(verdict.comparison.state.explain(verdict.comparison.index_of(first.step)))})"
    if first.quantity not in ("loss", "state"):
        return _apart(verdict, first)
    # Losses are stored as float64: as such they would be printed with digits that the dtype of the loss does not have.
    dtype = verdict.pair.baseline.loss_dtype or "float64"
    baseline, candidate = (
        clip(value, _VALUE) if isinstance(value, str) else shortest(value, dtype)
        for value in (first.baseline, first.candidate)
    )
    size = ""
    if first.ulp is not None:
        # ulp where they are known: a relative difference means little between numbers near zero.
        size = f" ({first.ulp} ulp)"
    elif first.rel is not None and math.isfinite(first.rel):
        size = f" ({percent_off(first.rel)})"
    return f"{baseline} != {candidate}{size}"


def _apart(verdict: PairVerdict, first: Difference) -> str:
    """How far a tensor is from the baseline's: its digests say nothing to people."""
    if isinstance(first.baseline, float) and first.rel is not None and not math.isnan(first.rel):
        off = percent_off(first.rel, zero="the baseline's is")
        return f"has another norm ({off})"
    apart = verdict.first_apart
    return "differs in its bits" if apart is None else f"differs by {percent(apart)}"
