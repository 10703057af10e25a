"""The questions that a reader has first, answered for the worst pair: where it is, and how sure it is."""

from dataclasses import dataclass

from parity.judge.verdict import Judgement, PairVerdict
from parity.render.page.source import Source, find_source
from parity.render.phrases import amount, seen_without_audit, would_have_been_seen
from parity.render.story import MEANINGS
from parity.store.stored_run import StoredRun
from parity.store.trace import QUANTITIES


@dataclass(frozen=True)
class Answers:
    """What a reader wants to know first, after what is wrong.

    Attributes:
        where: Step, quantity and layer, in a sentence; empty where nothing differs.
        source: The code, or None.
        sure: What was checked, and what would have been seen.
        traceback: The traceback of the user's code that raised, or None.
    """

    where: str
    source: Source | None
    sure: str
    traceback: str | None


def answer(run: StoredRun, judgement: Judgement, verdict: PairVerdict) -> Answers:
    """The answers for a pair.

    Args:
        run: The stored run.
        judgement: Its judgement.
        verdict: The pair, the worst of the run.
    """
    return Answers(
        where=where(verdict),
        source=find_source(verdict, run.info.get("folder")),
        sure=_sure(verdict),
        traceback=verdict.pair.candidate.traceback,
    )


def where(verdict: PairVerdict) -> str:
    """Step, quantity and layer at which a pair goes wrong, or first differs where nothing is wrong."""
    candidate = verdict.pair.candidate
    if verdict.verdict == "failed" and candidate.failed_step is not None:
        return f"Step {candidate.failed_step:,} of {candidate.steps:,}{_on(verdict)}."
    found = verdict.onset or verdict.first
    if found is None:
        return ""
    rows = int(verdict.comparison.both("rows")[1][verdict.comparison.index_of(found.step)])
    partial = f", a partial batch of {rows:,} rows" if rows < verdict.pair.baseline.batch_size else ""
    place = f"step {found.step:,} (epoch {found.epoch:,}, batch {found.batch:,}{partial})"
    layer = f" of {found.tensor}" if found.tensor else ""
    text = f"From {place} on, in {found.quantity}{layer}: {MEANINGS[found.quantity]}."
    return text if verdict.onset else f"First difference at {place}, in {found.quantity}{layer}: " + (
        f"{MEANINGS[found.quantity]}."
    )


def _on(verdict: PairVerdict) -> str:
    """The device, where it is what the two differ in."""
    return f", on {verdict.pair.candidate.device}" if verdict.pair.axis == "device" else ""


def _sure(verdict: PairVerdict) -> str:
    """What was compared and checked, and what would have been seen, in sentences."""
    if not verdict.steps:
        return "The two have no step in common, so nothing was compared."
    count = len(QUANTITIES) - len(verdict.comparison.lacking)
    text = f"{amount(verdict.steps, 'step')} compared bit for bit, {amount(count, 'quantity', 'quantities')} each."
    if verdict.first is None:
        return f"{text} Any single bit that differs would have been seen."
    if verdict.decision:
        seen = would_have_been_seen([verdict.decision])
        checked = f"{amount(verdict.decision.audited, 'step')} checked against a float64 reference"
        return f"{text} {checked}{f': {seen}' if seen else ''}."
    if verdict.device_audit:
        steps = amount(len(verdict.device_audit.steps), "step")
        return f"{text} {steps} repeated from the baseline's state and checked against a float64 reference."
    if verdict.seen:
        seen = seen_without_audit([verdict.seen])
        return f"{text} {seen[0].upper()}{seen[1:]}."
    return text
