"""A result at a glance: in one line, and in a few lines that name the place and what to do."""

from collections.abc import Iterator

from parity.ground.quoting import cut, visible
from parity.judge.verdict import Judgement, PairVerdict
from parity.render import story
from parity.render.facts import pair_facts
from parity.render.headline import Headline, make_headline, make_pair_headline
from parity.render.names import subjects
from parity.render.phrases import amount, not_shown
from parity.render.user_error import UserError
from parity.render.wrapping import clip, flat, wrap
from parity.store.stored_run import StoredRun
from parity.store.trace import QUANTITIES

# Most characters of the line: a terminal or a cell of a notebook shows it whole.
MOST = 120
# Columns of the lines of a message: behind the eight that pytest puts before each of them, they fit 80.
_WIDTH = 72
# Columns of a label: "what to do" and two spaces.
_LABEL = 12
# Most pieces of advice, and items of the contract.
_MOST_ADVICE, _MOST_ITEMS = 3, 3
# Most characters of a cause in the line: behind the verdict and before the step, it has to fit 100.
_CAUSE = 80


def short_line(judgement: Judgement) -> str:
    """The verdict, its cause and its step, of the worst pair; at most `MOST` characters."""
    if judgement.trouble:
        return _shortened(f"trouble: {flat(judgement.trouble)}")
    worst = story.worst_pair(judgement)
    if worst is None:
        return f"{judgement.verdict}: there is nothing to compare"
    pairs = story.pairs_in_question(judgement)
    alike = sum(pair.verdict == worst.verdict for pair in pairs)
    candidate, baseline = map(flat, subjects(worst))
    several = f" ({alike} of {len(pairs)} pairs)" if len(pairs) > 1 else ""
    # The cause comes before the names: of a long line the end is what a log cuts.
    return _shortened(f"{worst.verdict}: {found(worst)}; {candidate} against {baseline}{several}")


def message(run: StoredRun, judgement: Judgement, *, page: object = None) -> str:
    """The line of `short_line`, and below it the headline, where it is wrong, what to do and where the page is.

    Args:
        run: The stored run.
        judgement: Its judgement.
        page: Path of the page, or None.
    """
    top = make_headline(run, judgement, where="on the page")
    lines = [short_line(judgement), *wrap(top.what, width=_WIDTH, first="  ", then="  ")]
    # Code is not wrapped, and neither is a path, which is copied as a whole.
    lines += [f"  {line}" for line in error_lines(top.error)] if top.error else []
    for label, text in _details(run, top):
        lines += wrap(text, width=_WIDTH, first=f"  {label:{_LABEL}}", then=" " * (_LABEL + 2))
    return "\n".join([*lines, *([f"  {'page':{_LABEL}}{page}"] if page else [])])


def found(verdict: PairVerdict) -> str:
    """What was found about a pair, in a clause: the cause and its step, or how far the two are equal."""
    if not verdict.meaning.passing:
        top = make_pair_headline(verdict)
        # A cause without a name says less than how far off it is.
        words = top.words if top.kind != "unknown" else top.size.partition(";")[0]
        error = verdict.pair.candidate.error if verdict.verdict == "failed" else None
        step = top.place.step if top.place else None
        cause = clip(flat(words or error or verdict.cause or top.what).rstrip("."), _CAUSE)
        return f"{cause}{f' (step {step:,})' if step is not None else ''}"
    if verdict.first is None:
        count = len(QUANTITIES) - len(verdict.comparison.lacking)
        return f"{amount(verdict.steps, 'step')}, {amount(count, 'quantity', 'quantities')} equal to the bit"
    first = verdict.first
    size = f", {amount(first.ulp, 'ulp', 'ulp')}" if first.ulp is not None else ""
    return f"{amount(verdict.steps, 'step')}, first difference at step {first.step:,} ({first.quantity}{size})"


def error_lines(error: UserError) -> list[str]:
    """What a trial raised, as lines of a traceback: the user's own, and the error."""
    lines = []
    for frame in error.frames:
        lines.append(f'File "{frame.file}", line {frame.line}, in {frame.function}')
        lines += [f"    {frame.code}"] if frame.code else []
    lines.append(error.error)
    return [visible(cut(line, 200)) for line in lines]


def _details(run: StoredRun, top: Headline) -> Iterator[tuple[str, str]]:
    """Labels and texts of a message."""
    if top.tally:
        yield "pairs", top.tally
    for number, text in enumerate(top.where):
        yield "" if number else "where", text
    if top.worst:
        yield from ((fact.label, fact.text) for fact in pair_facts(top.worst) if fact.label == "first")
        yield from _broken_items(run, top.worst.pair.candidate.trial)
    for number, text in enumerate(top.sure):
        yield "" if number else "how sure", text
    for number, advice in enumerate(top.advice[:_MOST_ADVICE]):
        yield "" if number else "what to do", f"{advice.text} {advice.command}" if advice.command else advice.text


def _broken_items(run: StoredRun, trial: str) -> Iterator[tuple[str, str]]:
    """The items of the contract that a trial failed, with their reasons."""
    rows = [row for row in run.evidence["contract"].to_pylist() if row["status"] == "failed" and row["trial"] == trial]
    for number, row in enumerate(rows[:_MOST_ITEMS]):
        yield "" if number else "contract", f"{row['item']}: {row['reason']}"
    if len(rows) > _MOST_ITEMS:
        yield "", not_shown(len(rows) - _MOST_ITEMS)


def _shortened(line: str) -> str:
    return line if len(line) <= MOST else f"{line[: MOST - 3]}..."
