"""How sure a result is: what was compared, and the least fault that would have been seen."""

from parity.judge.verdict import Judgement, PairVerdict
from parity.render.phrases import (
    amount,
    closest_to_its_limit,
    compared_count,
    equal_runs,
    named,
    seen_by_audit,
    seen_without_audit,
)
from parity.render.story import pairs_in_question

# What equal runs do not show.
_NOT_RIGHT = "Equal runs do not show that the loss is right: both may have the same fault."


def how_sure(verdict: PairVerdict) -> tuple[str, ...]:
    """What was compared in a pair, and what would have been seen, a sentence each; empty where nothing was compared.

    Args:
        verdict: The pair and its verdict.
    """
    if not verdict.steps:
        return ()
    found = [_compared(verdict)]
    if verdict.first is None:
        # Of equal bits any other would have been seen.
        return (*found, _NOT_RIGHT) if equal_runs([verdict]) else tuple(found)
    decision = verdict.decision
    if decision:
        seen = seen_by_audit([verdict])
        # Audited steps of a pair whose audit decides nothing are no evidence.
        found.append(f"{_audited(decision.audited, verdict.steps)}{f'; {seen}' if seen else ''}.")
    if verdict.device_audit:
        found.append(_shared(verdict))
    elif verdict.seen and not decision:
        seen = seen_without_audit([verdict.seen])
        found.append(f"{seen[:1].upper()}{seen[1:]}.")
    return tuple(found)


def how_sure_all(judgement: Judgement, worst: PairVerdict | None) -> tuple[str, ...]:
    """The same of a run: of its worst pair, or of all its pairs where they pass.

    Args:
        judgement: The judgement of the run.
        worst: Its worst pair; None where nothing was compared.
    """
    if worst is None:
        return ()
    pairs = pairs_in_question(judgement) or [*judgement.pairs]
    if worst.meaning.passing and len(pairs) > 1:
        # What holds for all of them is what holds for the one in which least would have been seen.
        seen = seen_by_audit(pairs)
        steps = sorted({each.steps for each in pairs})
        compared = f"{amount(len(pairs), 'pair')} of {amount(steps[-1], 'step')} were compared bit for bit."
        right = [_NOT_RIGHT] if equal_runs(pairs) else []
        return (compared, *([f"{seen[:1].upper()}{seen[1:]}."] if seen else []), *right)
    return how_sure(worst)


def _compared(verdict: PairVerdict) -> str:
    """Which steps and quantities were compared."""
    steps, quantities, lacking = compared_count(verdict)
    verb = "was" if verdict.steps == 1 else "were"
    return f"{steps} of {quantities} {verb} compared bit for bit{f', without {lacking}' if lacking else ''}."


def _audited(audited: int, steps: int) -> str:
    if audited == steps:
        return f"{'All of them were' if steps > 1 else 'It was'} checked against float64"
    return f"{amount(audited, 'step')} of {steps:,} {'was' if audited == 1 else 'were'} checked against float64"


def _shared(verdict: PairVerdict) -> str:
    """What was seen in the steps from shared states."""
    audit = verdict.device_audit
    assert audit is not None, "only pairs with such steps are asked"
    worst = audit.worst
    steps = f"{amount(len(audit.steps), 'step')} from shared states {'was' if len(audit.steps) == 1 else 'were'}"
    if verdict.verdict != "rounding":
        return f"{steps} checked against float64."
    closest = closest_to_its_limit(named(worst.quantity, worst.tensor), worst)
    return f"{steps} checked against float64{f'; {closest}' if closest else ''}."
