"""What a reader has to know of a result, in this order: what is wrong, where, how sure that is, and what to do.

Values and sentences for every document: the terminal, Markdown, JUnit, summary.json and the page.
"""

from dataclasses import dataclass

from parity.judge.causes import CauseKind
from parity.judge.verdict import Judgement, PairVerdict
from parity.render import story
from parity.render.next_steps import Advice, next_steps
from parity.render.odd_devices import odd_devices, odd_places
from parity.render.phrases import named
from parity.render.sure import how_sure, how_sure_all
from parity.render.user_error import UserError, relative_path, run_folder, user_error
from parity.render.what import size_of
from parity.store.stored_run import StoredRun


@dataclass(frozen=True)
class Place:
    """Where a pair diverges, or fails.

    Attributes:
        step: Optimizer step, from 0; None where it is not known.
        epoch: Epoch, from 0; None where it is not known.
        batch: Batch of the epoch, from 0; None where it is not known.
        quantity: Name of the quantity, or None.
        tensor: Name of the tensor (the layer), or None.
        device: Device of the candidate.
        host: Machine of the candidate, or None.
        source: File of the candidate's loss, with the line of its definition if that is known; None if it has none.
    """

    step: int | None
    epoch: int | None
    batch: int | None
    quantity: str | None
    tensor: str | None
    device: str
    host: str | None
    source: str | None

    @property
    def text(self) -> str:
        """The place in words: "step 0 (epoch 0, batch 0), output_grad; tests/wrong_losses.py:18"."""
        parts = []
        if self.step is not None:
            batch = "" if self.epoch is None else f" (epoch {self.epoch}, batch {self.batch})"
            parts.append(f"step {self.step:,}{batch}")
        if self.quantity:
            parts.append(named(self.quantity, self.tensor))
        text = ", ".join(parts)
        return "; ".join(each for each in (text, self.source) if each)


@dataclass(frozen=True)
class PairHeadline:
    """What a reader has to know of one pair.

    Attributes:
        what: What is wrong, or that nothing is, in one sentence.
        kind: Kind of the gravest cause, one of `CAUSES`; None where none has a name.
        factor: The right gradient times this is the candidate's; None where there is no such number.
        words: The gravest cause in words, as `Cause.text`; None where none has a name.
        size: How far off it is, beside what rounding explains; empty where that is not known.
        place: Where it is wrong; None of a pair that passes.
        sure: What would have been seen, a sentence each.
        error: What the candidate raised, or None.
    """

    what: str
    kind: CauseKind | None
    factor: float | None
    words: str | None
    size: str
    place: Place | None
    sure: tuple[str, ...]
    error: UserError | None


@dataclass(frozen=True)
class Headline:
    """What a reader has to know of a run.

    Attributes:
        what: What is wrong, or that nothing is, in one sentence.
        tally: Number of pairs by verdict, in a sentence; empty for a single pair.
        worst: The pair that it is about; None where there is none.
        pair: The same of this pair; None where there is none.
        where: Where it is wrong, a line each; empty where nothing is.
        sure: How sure that is: what would have been seen, a sentence each.
        advice: What to do, the most important first; never empty.
        error: What the worst candidate, or the baseline, raised; None where nothing was.
    """

    what: str
    tally: str
    worst: PairVerdict | None
    pair: PairHeadline | None
    where: tuple[str, ...]
    sure: tuple[str, ...]
    advice: tuple[Advice, ...]
    error: UserError | None


def make_headline(run: StoredRun, judgement: Judgement, *, where: str = "below") -> Headline:
    """What a reader has to know of a run.

    Args:
        run: The stored run.
        judgement: Its judgement.
        where: Where the reader finds the tables of contract and attempts, as in "below".
    """
    worst = story.worst_pair(judgement)
    pair = make_pair_headline(worst, run) if worst else None
    error = pair.error if pair else None
    if judgement.trouble:
        failed = next((record for record in run.trials if record.status == "failed" and record.traceback), None)
        error = user_error(failed, run_folder(run)) if failed else None
    odd = odd_devices(judgement)
    places = odd_places(judgement) if odd else [pair.place.text] if pair and pair.place else []
    lines = [*places, *([pair.size] if pair and pair.size and not odd else [])]
    return Headline(
        what=story.headline(judgement),
        tally=story.tally(judgement),
        worst=worst,
        pair=pair,
        where=tuple(line for line in lines if line),
        sure=how_sure_all(judgement, worst),
        advice=tuple(next_steps(run, judgement, where=where)),
        error=error,
    )


def make_pair_headline(verdict: PairVerdict, run: StoredRun | None = None) -> PairHeadline:
    """What a reader has to know of one pair.

    Args:
        verdict: The pair and its verdict.
        run: The run that it belongs to, beside whose folder paths are shown; None to show them whole.
    """
    # What explains a difference; of those that pass nothing is to be explained.
    causes = verdict.causes if not verdict.meaning.passing else ()
    cause = causes[0] if causes else None
    folder = run_folder(run) if run else None
    return PairHeadline(
        what=story.pair_headline(verdict),
        kind=cause.kind if cause else None,
        factor=next((each.factor for each in causes if each.factor is not None), None),
        words=cause.text if cause else None,
        size=size_of(verdict),
        place=None if verdict.meaning.passing else _place(verdict, folder),
        sure=how_sure(verdict),
        error=user_error(verdict.pair.candidate, folder),
    )


def _place(verdict: PairVerdict, folder: str | None) -> Place:
    """Where a pair is wrong: its onset, or the step that failed."""
    record, onset = verdict.pair.candidate, verdict.onset
    step = onset.step if onset else record.failed_step
    batches = record.batches if onset is None and step is not None else None
    return Place(
        step=step,
        epoch=onset.epoch if onset else step // batches if batches and step is not None else None,
        batch=onset.batch if onset else step % batches if batches and step is not None else None,
        quantity=onset.quantity if onset else None,
        tensor=onset.tensor if onset else None,
        device=record.device,
        host=record.host,
        source=_source(verdict, folder),
    )


def _source(verdict: PairVerdict, folder: str | None) -> str | None:
    """File and line of the candidate's loss; None where the loss is not in question, or ships with parity."""
    record = verdict.pair.candidate
    if verdict.pair.axis != "loss" or not record.loss_origin:
        return None
    origin = relative_path(record.loss_origin, folder)
    return f"{origin}:{record.loss_line}" if record.loss_line else origin
