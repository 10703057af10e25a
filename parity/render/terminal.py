"""The report as text of at most 80 columns.

In this order: notes, the verdict, losses x devices, the findings about each pair, how the audit decided, what to do.
"""

import re
import shlex
from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.judge.verdict import Judgement, PairVerdict
from parity.render import fleet, story, tables
from parity.render.facts import one_line, pair_facts
from parity.render.matrix import Matrix, make_matrix
from parity.render.next_steps import next_steps
from parity.render.phrases import amount
from parity.render.wrapping import WIDTH, clip, flat, wrap
from parity.store.stored_run import StoredRun

# Most pairs that are shown in full, the worst first; of the others only trials and verdict are shown.
MOST_BLOCKS = 12
# Widest columns of the matrix; a longer name is folded.
_LOSS_WIDTH, _DEVICE_WIDTH = 28, 30
# Most characters of the name of a task: it is one of a module or file.
_TASK = 100
# Columns of a label in a block: "compared" and two spaces.
_LABEL_WIDTH = 10

# Style of a verdict by its tone.
_STYLES = {"good": "green", "doubt": "yellow", "bad": "bold red"}


def render_text(run: StoredRun, judgement: Judgement) -> str:
    """The report as text, in colour where stdout is a terminal; its lines have no spaces at their ends.

    Args:
        run: The stored run.
        judgement: Its judgement.
    """
    console = Console()
    # Captured whole, since spaces at the ends of lines and repeated empty lines are removed afterwards.
    with console.capture() as capture:
        render(run, judgement, console)
    text = re.sub(r" +\n", "\n", capture.get())  # the rows of tables are padded
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def render(run: StoredRun, judgement: Judgement, console: Console) -> None:
    """Prints the report, in at most `WIDTH` columns.

    Args:
        run: The stored run.
        judgement: Its judgement.
        console: Where to print.
    """
    # Wider terminals do not get wider text: lines of 80 columns are easier to read, and README shows the same ones.
    width = min(console.width, WIDTH)
    # What limits every verdict goes before them.
    notes = ([judgement.trouble] if judgement.trouble else []) + story.notes(run)
    for note in notes:
        _print(console, *wrap(note, width=width, then="  "))
    if not judgement.pairs:
        _print(console, *wrap(story.nothing(run), width=width))
        return
    first = run.trials[0]
    title = f"{clip(first.task, _TASK)}, {amount(first.steps, 'step')}: {judgement.verdict}"
    _print(console, *wrap(title, width=width))
    if not judgement.trouble:
        # Trouble has been printed as the first note already.
        _print(console, *wrap(f"{story.headline(judgement)} {story.tally(judgement)}", width=width))
    # A machine with one device of each kind has no classes to speak of.
    if judgement.fleet.large or any(each.odd for each in judgement.fleet.classes):
        fleet.render(run, judgement, console, width=width)
    for table in _matrices(make_matrix(run, judgement), width):
        console.print(table, width=width)
    # One pair stands for those of equal devices, so that the report does not grow with the nodes.
    shown = fleet.representative_pairs(judgement)
    _print(console, *_pairs(shown, width))
    extra = [*_contract_lines(run, judgement), *_noise_lines(judgement), *_seen_lines(judgement)]
    for line in ["", *extra] if extra else []:
        _print(console, *wrap(line, width=width, then="  "))
    audit = tables.audit_table(verdict for verdict, _ in shown)
    if audit.rows:
        _print(console, "", *wrap(f"How the audit decided: {tables.explain_audit(judgement)}", width=width))
        console.print(_audit_table(audit), width=width)
    _print(console, *_next(run, judgement, width))


def _contract_lines(run: StoredRun, judgement: Judgement) -> list[str]:
    """For each loss whose contract was checked: how many items passed, and which did not; equal devices once."""
    items: dict[str, dict[str, list[str]]] = {}
    classes = {record.trial: (record.loss_name, judgement.fleet.of(record).label) for record in run.trials}
    for row in run.evidence["contract"].to_pylist():
        items.setdefault(row["trial"], {}).setdefault(row["status"], []).append(row["item"])
    lines = []
    seen = []
    for trial, found in items.items():
        # A list, since the dicts of items are not hashable; there are few of them.
        if (classes[trial], found) in seen:
            continue
        seen.append((classes[trial], found))
        others = [f"{status}: {', '.join(found[status])}" for status in ("failed", "limited") if status in found]
        passed = f"{len(found.get('passed', []))} items passed"
        lines.append(f"Contract of {trial}: {'; '.join([passed, *others])}")
    return lines


def _noise_lines(judgement: Judgement) -> list[str]:
    """A line that compares the growth of rounding alone with the differences of the candidates."""
    band = [verdict for verdict in judgement.pairs if verdict.pair.axis == "noise"]
    if not band:
        return []
    largest = max(verdict.largest.rel for verdict in band)
    drifts = [
        f"{verdict.pair.candidate.trial} {verdict.largest.rel:.2g}"
        for verdict in judgement.pairs
        if verdict.pair.axis in ("loss", "device")
    ]
    return [
        f"Noise band: under random rounding of 1 ulp ({len(band)} trials) the losses differ by up to "
        f"{largest:.2g} (relative); those of the candidates: {', '.join(drifts) or 'none'}"
    ]


def _seen_lines(judgement: Judgement) -> list[str]:
    """What would have been seen in pairs without an audit, and what was not looked at.

    The explanation of the audit says it of the others.
    """
    seen, unasked = story.seen_unaudited(judgement), story.unasked_optimizers(judgement)
    lines = [f"Without an audit: {seen}."] if seen else []
    return [*lines, f"The optimizers were {unasked}."] if unasked else lines


def pair_line(verdict: PairVerdict) -> Text:
    """A pair in one line, however long: trials, verdict and all findings."""
    return _trials_and_verdict(verdict).append(f": {one_line(verdict)}")


def block(verdict: PairVerdict, *, alike: int = 1, width: int = WIDTH) -> list[Text]:
    """A pair in a block of lines: trials and verdict, then the findings; in a single line where it fits.

    Args:
        verdict: The pair and its verdict.
        alike: Number of pairs that it stands for.
        width: Most columns of a line.
    """
    more = f" ({alike} pairs alike)" if alike > 1 else ""
    # A pair that fits one line needs no block.
    line = pair_line(verdict).append(more)
    if line.cell_len <= width:
        return [line]
    lines = _headline(verdict, width)
    for fact in pair_facts(verdict):
        text = f"{fact.text}{more}" if fact.label == "compared" else fact.text
        lines += map(Text, _labelled(fact.label, text, width))
    return lines


def _labelled(label: str, text: str, width: int) -> Iterator[str]:
    """The text beside its label, in one line if it fits, else broken at its line breaks and between words."""
    first, then = f"  {label:{_LABEL_WIDTH}}", " " * (_LABEL_WIDTH + 2)
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
    return Text.assemble(f"{trials}  ", (verdict.verdict, _STYLES[verdict.meaning.tone]))


def _headline(verdict: PairVerdict, width: int) -> list[Text]:
    """Trials and verdict, in one line if it fits."""
    line = _trials_and_verdict(verdict)
    if line.cell_len <= width:
        return [line]
    # Wrapping loses the style, so the verdict, the last word, gets it again.
    *lines, last = map(Text, wrap(line.plain, width=width, then="  "))
    last.stylize(_STYLES[verdict.meaning.tone], len(last) - len(verdict.verdict))
    return [*lines, last]


def _pairs(shown: Sequence[tuple[PairVerdict, int]], width: int) -> Iterator[Text]:
    """The worst pairs in full; of the others trials and verdict."""
    # The worst are chosen, but the pairs stay in the order of the plan.
    full = sorted(range(len(shown)), key=lambda number: story.worst_first(shown[number][0]))[:MOST_BLOCKS]
    before = 1
    for number, (verdict, alike) in enumerate(shown):
        lines = block(verdict, alike=alike, width=width) if number in full else _headline(verdict, width)
        if number and max(before, len(lines)) > 1:
            yield Text()  # an empty line between blocks, none between single lines
        yield from lines
        before = len(lines)
    if len(shown) > MOST_BLOCKS:
        yield Text()
        yield from map(
            Text, wrap(f"Only the {MOST_BLOCKS} worst of {len(shown)} pairs are shown in full.", width=width)
        )


def _matrices(matrix: Matrix, width: int) -> Iterator[Table]:
    """The matrix as a table, or as several tables below each other where one would be too wide."""
    columns = [
        (heading, [cells[place] for cells in matrix.rows.values()]) for place, heading in enumerate(matrix.devices)
    ]
    # Columns of a terminal and not characters: wide letters take two.
    losses = min(_LOSS_WIDTH, max(cell_len(flat(loss)) for loss in ("loss", *matrix.rows)))
    while columns:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("loss", overflow="fold", max_width=_LOSS_WIDTH)
        used, shown = losses + 2, 0
        for heading, cells in columns:
            wanted = max(cell_len(text) for text in (flat(heading), *(cell.text for cell in cells)))
            used += min(_DEVICE_WIDTH, wanted) + 3
            # At least one column, however wide: otherwise the loop would not end.
            if shown and used > width:
                break
            table.add_column(Text(flat(heading)), overflow="fold", max_width=_DEVICE_WIDTH)
            shown += 1
        for number, loss in enumerate(matrix.rows):
            row = [cells[number] for _, cells in columns[:shown]]
            styles = (_STYLES[cell.pair.meaning.tone] if cell.pair else "dim" for cell in row)
            table.add_row(
                Text(flat(loss)), *(Text(cell.text, style=style) for cell, style in zip(row, styles, strict=True))
            )
        yield table
        columns = columns[shown:]


def _audit_table(found: tables.Table) -> Table:
    """The table of the audit for a terminal."""
    name, *numbers = found.headings
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(name, overflow="fold")
    for heading in numbers:
        # A number must not be broken; only the names fold.
        table.add_column(heading, justify="right", no_wrap=True)
    for trial, *errors in found.rows:
        table.add_row(Text(flat(trial)), *errors)
    return table


def _next(run: StoredRun, judgement: Judgement, width: int) -> Iterator[str]:
    """What to do next; nothing where all is well."""
    # Nothing has to be done after a run that passes; the page still says what could make it surer.
    if judgement.exit_status == 0:
        return
    yield ""
    yield "What to do next:"
    for advice in next_steps(run, judgement, where="in report.html"):
        yield from wrap(advice.text, width=width, first="- ", then="  ")
        if advice.command:
            yield from shell_lines(advice.command, width=width, indent="    ")


def shell_lines(command: str, *, width: int = WIDTH, indent: str = "") -> list[str]:
    r"""A command in lines that a shell reads as one; a line break inside a word is kept.

    Args:
        command: The command, quoted for a shell.
        width: Most columns of a line, unless a single word is longer.
        indent: Beginning of each line.

    >>> shell_lines("python -m parity.run --loss 'a b'", width=24)
    ['python -m parity.run \\', "  --loss 'a b'"]
    """
    lines = [""]
    # Split and quoted again, so that lines break between the words of the shell only.
    for word in map(shlex.quote, shlex.split(command)):
        longer = f"{lines[-1]} {word}".lstrip(" ")
        if lines[-1] and cell_len(f"{indent}{longer} \\") > width:
            lines[-1] += " \\"
            # A continued line is indented, which a shell ignores.
            lines.append(f"  {word}")
        else:
            lines[-1] = longer if len(lines) == 1 else f"{lines[-1]} {word}"
    return [f"{indent}{line}" for line in lines]


def _print(console: Console, *lines: str | Text) -> None:
    """Prints lines as they are: no wrapping, markup or highlighting."""
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
