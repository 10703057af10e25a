"""Pairs as lines of text: in one line, in a block of labelled findings, and all pairs of a run, the worst first."""

from collections.abc import Collection, Iterator, Sequence

from rich.text import Text

from parity.judge.verdict import VERDICTS, PairVerdict
from parity.render.facts import one_line, pair_facts
from parity.render.phrases import amount, counted
from parity.render.wrapping import WIDTH, flat, wrap

# Most pairs that are shown in full, the worst first; of the others only trials and verdict are shown.
MOST_BLOCKS = 12
# Most pairs that pass which have a paragraph each; of more, their number and their first names are shown.
MOST_PASSED, MOST_NAMED = 6, 40
# Columns of a label in a block: "compared" and two spaces.
_LABEL_WIDTH = 10
# What is not beside its label begins here.
INDENT = " " * (_LABEL_WIDTH + 2)
# Style of a verdict by its tone.
STYLES = {"good": "green", "doubt": "yellow", "bad": "bold red"}


def pair_line(verdict: PairVerdict) -> Text:
    """A pair in one line, however long: trials, verdict and all findings."""
    return _trials_and_verdict(verdict).append(f": {one_line(verdict)}")


def block(
    verdict: PairVerdict,
    *,
    alike: int = 1,
    width: int = WIDTH,
    without: Collection[str] = (),
    said: set[str] | None = None,
) -> list[Text]:
    """A pair in a block of lines: trials and verdict, then the findings; in a single line where it fits.

    Args:
        verdict: The pair and its verdict.
        alike: Number of pairs that it stands for.
        width: Most columns of a line.
        without: Labels of the findings that are shown elsewhere.
        said: Causes of the pairs before, which are not said again; the causes of this one are added.
    """
    more = f" ({alike} pairs alike)" if alike > 1 else ""
    # A pair that fits one line needs no block.
    line = pair_line(verdict).append(more)
    if line.cell_len <= width:
        return [line]
    lines = _headline(verdict, width)
    for fact in pair_facts(verdict):
        text = f"{fact.text}{more}" if fact.label == "compared" else fact.text
        if said is not None and fact.label in ("cause", "also"):
            text = "as above" if text in said else text
            said.add(fact.text)
        if fact.label not in without:
            lines += map(Text, labelled(fact.label, text, width))
    return lines


def labelled(label: str, text: str, width: int) -> Iterator[str]:
    """The text beside its label, in one line if it fits, else broken at its line breaks and between words."""
    first, then = f"  {label:{_LABEL_WIDTH}}", INDENT
    whole = wrap(text, width=width, first=first, then=then)
    # The text names the best place for a break, which is used only where a break is needed.
    if len(whole) == 1 or "\n" not in text:
        yield from whole
        return
    for part in text.split("\n"):
        yield from wrap(part, width=width, first=first, then=then)
        first = then


def _trials_and_verdict(verdict: PairVerdict) -> Text:
    """Both trials, and the verdict in its colour."""
    trials = f"{flat(verdict.pair.baseline.trial)} {flat(verdict.pair.candidate.trial)}"
    return Text.assemble(f"{trials}  ", (verdict.verdict, STYLES[verdict.meaning.tone]))


def _headline(verdict: PairVerdict, width: int) -> list[Text]:
    """Trials and verdict, in one line if it fits."""
    line = _trials_and_verdict(verdict)
    if line.cell_len <= width:
        return [line]
    # Wrapping loses the style, so the verdict, the last word, gets it again.
    *lines, last = map(Text, wrap(line.plain, width=width, then="  "))
    last.stylize(STYLES[verdict.meaning.tone], len(last) - len(verdict.verdict))
    return [*lines, last]


def pairs_text(shown: Sequence[tuple[PairVerdict, int]], subject: PairVerdict | None, width: int) -> Iterator[Text]:
    """The pairs, the worst first: those that are wrong or in doubt in blocks, those that pass in one paragraph each.

    Args:
        shown: The pairs, the worst first, each with the number of pairs that it stands for.
        subject: The pair that the headline is about, whose cause is not said again; None where it is about no pair.
        width: Most columns of a line.
    """
    wrong = [pair for pair in shown if not pair[0].meaning.passing]
    fine = [pair for pair in shown if pair[0].meaning.passing]
    said: set[str] = set()
    for number, (verdict, alike) in enumerate(wrong):
        # The headline has the cause of its pair, and where and how far off it is; the items of a contract stand below.
        without = ("contract", *(("cause", "onset") if verdict is subject else ()))
        lines = block(verdict, alike=alike, width=width, without=without, said=said) if number < MOST_BLOCKS else []
        if number and lines:
            yield Text()
        yield from lines or _headline(verdict, width)
    if len(wrong) > MOST_BLOCKS:
        yield Text()
        yield from map(
            Text, wrap(f"Only the {MOST_BLOCKS} worst of {len(wrong)} pairs are shown in full.", width=width)
        )
    if wrong and fine:
        yield Text()
    yield from _passed(fine, width, several=bool(wrong))


def _passed(fine: Sequence[tuple[PairVerdict, int]], width: int, *, several: bool) -> Iterator[Text]:
    """The pairs that pass: a few in a paragraph each, many in one."""
    # Where nothing else is to be read, a block is read more easily than a long line.
    if len(fine) == 1 and not several:
        yield from block(fine[0][0], alike=fine[0][1], width=width)
        return
    if len(fine) <= MOST_PASSED:
        for verdict, alike in fine:
            more = f" ({alike} pairs alike)" if alike > 1 else ""
            yield from _paragraph(verdict, more, width)
        return
    total = sum(alike for _, alike in fine)
    words = counted([verdict.verdict for verdict, alike in fine for _ in range(alike)], VERDICTS)
    names = [flat(verdict.pair.candidate.trial) for verdict, _ in fine]
    text = f"{amount(total, 'pair')} passed ({words}): {', '.join(names[:MOST_NAMED])}"
    more = f", and {len(names) - MOST_NAMED:,} more in report.html" if len(names) > MOST_NAMED else ""
    yield from map(Text, wrap(f"{text}{more}", width=width, then="  "))


def _paragraph(verdict: PairVerdict, more: str, width: int) -> Iterator[Text]:
    """A pair in as few lines as it takes, with its verdict in its colour."""
    head = _trials_and_verdict(verdict).append(": ")
    # Names that take a line of their own are wrapped like other words.
    beside = head.cell_len < width // 2 + 20
    text = f"{one_line(verdict)}{more}" if beside else f"{head.plain}{one_line(verdict)}{more}"
    first, *others = map(Text, wrap(text, width=width, first=head.plain if beside else "", then="  "))
    place = first.plain.find(f"{verdict.verdict}:")
    if place >= 0:
        first.stylize(STYLES[verdict.meaning.tone], place, place + len(verdict.verdict))
    yield from (first, *others)
