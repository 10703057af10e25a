"""The report as text for a terminal, a pipe or a log.

In this order: notes, what is wrong, where, how sure, what to do; losses x devices, the pairs, how the audit decided.
"""

import io
import re
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from parity.ground.percent import percent
from parity.judge.verdict import Judgement
from parity.render import fleet, story, tables
from parity.render.console import make_console
from parity.render.headline import Headline, make_headline
from parity.render.matrix import make_matrix
from parity.render.odd_devices import odd_devices
from parity.render.pair_text import INDENT, labelled, pairs_text
from parity.render.phrases import amount, losses_differ
from parity.render.terminal_tables import audit_text, matrices
from parity.render.wrapping import clip, shell_lines, wrap
from parity.store.stored_run import StoredRun

# Widest lines, on terminals that have them; elsewhere a console says 80.
MOST_COLUMNS = 200
# Most characters of the name of a task: it is one of a module or file.
_TASK = 100
# Most characters of the message of an exception, and of the reason of an item of a contract.
_MESSAGE = 500


def render_text(run: StoredRun, judgement: Judgement) -> str:
    """The report as text, in colour where stdout is a terminal; its lines have no spaces at their ends.

    Args:
        run: The stored run.
        judgement: Its judgement.
    """
    console = make_console()
    # Captured whole, since spaces at the ends of lines and repeated empty lines are removed afterwards.
    with console.capture() as capture:
        render(run, judgement, console)
    return _tidy(capture.get())


def plain_text(run: StoredRun, judgement: Judgement, *, width: int) -> str:
    """The report as text without colours, whatever stdout is.

    Args:
        run: The stored run.
        judgement: Its judgement.
        width: Most columns.
    """
    # Not `capture`: where there is a notebook, Rich would show there what is printed, also to a file.
    out = io.StringIO()
    render(run, judgement, Console(file=out, width=width, force_terminal=False, force_jupyter=False, color_system=None))
    return _tidy(out.getvalue())


def _tidy(text: str) -> str:
    """The text without spaces at the ends of lines, and without repeated empty lines."""
    text = re.sub(r" +\n", "\n", text)  # the rows of tables are padded
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def render(run: StoredRun, judgement: Judgement, console: Console) -> None:
    """Prints the report, in at most `MOST_COLUMNS` columns: what is wrong, where, how sure, what to do, then the rest.

    Args:
        run: The stored run.
        judgement: Its judgement.
        console: Where to print.
    """
    width = min(console.width, MOST_COLUMNS)
    # What limits every verdict goes before them; that files were altered limits what is said of a failed baseline, too.
    altered, notes = story.altered(run), story.notes(run)
    trouble = [judgement.trouble] if judgement.trouble else []
    for note in (*altered, *trouble, *notes[len(altered) :]):
        _print(console, *wrap(note, width=width, then="  "))
    head = make_headline(run, judgement, where="in report.html")
    if not judgement.pairs:
        _print(console, *wrap(story.nothing(run), width=width), *_error(head, width))
        return
    first = run.trials[0]
    _print(
        console, *wrap(f"{clip(first.task, _TASK)}, {amount(first.steps, 'step')}: {judgement.verdict}", width=width)
    )
    _print(console, *_head(head, judgement, width), *_next(head, width))
    # A machine with one device of each kind has no classes to speak of.
    if judgement.fleet.large or any(each.odd for each in judgement.fleet.classes):
        fleet.render(run, judgement, console, width=width)
    for table in matrices(make_matrix(run, judgement), width):
        console.print(table, width=width)
    # One pair stands for those of equal devices, so that the report does not grow with the nodes.
    shown = sorted(fleet.representative_pairs(judgement), key=lambda pair: story.severity(pair[0]))
    # The headline has the cause of the pair that it is about.
    subject = None if judgement.trouble or odd_devices(judgement) else head.worst
    if subject and story.pair_headline(subject) not in head.what:
        subject = None  # it was too long for a headline
    _print(console, *pairs_text(shown, subject, width))
    extra = [*contract_lines(run, judgement), *_noise_lines(judgement), *_seen_lines(judgement)]
    for line in ["", *extra] if extra else []:
        _print(console, *wrap(line, width=width, then="  "))
    audit = tables.audit_table(verdict for verdict, _ in shown)
    if audit.rows:
        _print(console, "", *wrap(f"How the audit decided: {tables.explain_audit(judgement)}", width=width))
        for part in audit_text(audit, width):
            if isinstance(part, Text):
                _print(console, part)
            else:
                console.print(part, width=width)


def _head(head: Headline, judgement: Judgement, width: int) -> Iterator[str]:
    """What is wrong, where, and how sure that is."""
    if not judgement.trouble:
        # Trouble has been printed as the first note already.
        yield from wrap(f"{head.what} {head.tally}", width=width)
    parts = [("where", line) for line in head.where[:1]]
    parts += [("how far", line) for line in head.where[1:]]
    if odd_devices(judgement):
        parts = []  # the lines about the odd devices below say it
    for label, text in parts:
        yield from labelled(label, text, width)
    yield from _error(head, width)
    if head.sure:
        yield from labelled("how sure", " ".join(head.sure), width)


def _error(head: Headline, width: int) -> Iterator[str]:
    """What was raised, and the last lines of the user's code."""
    error = head.error
    if error is None:
        return
    yield from labelled("error", clip(error.error, _MESSAGE), width)
    for frame in error.frames:
        yield from wrap(f"{frame.place}, in {frame.function}", width=width, first=INDENT, then=INDENT)
        if frame.code:
            # A line of code keeps its spaces; a long one is cut, since it stands in the file.
            yield f"{INDENT}  {clip(frame.code, max(20, width - len(INDENT) - 2))}"


def contract_lines(run: StoredRun, judgement: Judgement) -> list[str]:
    """For each loss whose contract was checked: how many items passed, and why others did not; equal devices once.

    Args:
        run: The stored run.
        judgement: Its judgement.
    """
    items: dict[str, list[dict[str, str]]] = {}
    for row in run.evidence["contract"].to_pylist():
        items.setdefault(row["trial"], []).append(row)
    places = {record.trial: (record.loss_name, judgement.fleet.of(record).label) for record in run.trials}
    lines: list[str] = []
    seen = set()
    for trial, rows in items.items():
        found = tuple((row["item"], row["status"], row["reason"]) for row in rows)
        if (places[trial], found) in seen:
            continue
        seen.add((places[trial], found))
        passed, failed = (sum(row["status"] == status for row in rows) for status in ("passed", "failed"))
        limited = [row["item"] for row in rows if row["status"] == "limited"]
        others = [f"limited: {', '.join(limited)}"] if limited else []
        others += [f"{failed} failed:"] if failed else []
        lines.append(f"Contract of {trial}: {'; '.join([amount(passed, 'item') + ' passed', *others])}")
        # What fails has its reason; what is limited does not touch this training.
        lines += [f"- {row['item']}: {clip(row['reason'], _MESSAGE)}" for row in rows if row["status"] == "failed"]
    return lines


def _noise_lines(judgement: Judgement) -> list[str]:
    """A line that compares the growth of rounding alone with the differences of the candidates."""
    band = [verdict for verdict in judgement.pairs if verdict.pair.axis == "noise"]
    if not band:
        return []
    largest = max(verdict.largest.rel for verdict in band)
    drifts = [
        f"{verdict.pair.candidate.trial} {percent(verdict.largest.rel)}"
        for verdict in judgement.pairs
        if verdict.pair.axis in ("loss", "device")
    ]
    return [
        f"Noise band: under random rounding of 1 ulp ({amount(len(band), 'trial')}), {losses_differ(largest)}; "
        f"those of the candidates: {', '.join(drifts) or 'none'}"
    ]


def _seen_lines(judgement: Judgement) -> list[str]:
    """What would have been seen in pairs without an audit, and what was not looked at.

    The explanation of the audit says it of the others.
    """
    seen, unasked = story.seen_unaudited(judgement), story.unasked_optimizers(judgement)
    lines = [f"Without an audit: {seen}."] if seen else []
    return [*lines, f"The optimizers were {unasked}."] if unasked else lines


def _next(head: Headline, width: int) -> Iterator[str]:
    """What to do next."""
    yield ""
    yield "What to do next:"
    for advice in head.advice:
        yield from wrap(advice.text, width=width, first="- ", then="  ")
        if advice.command:
            yield from shell_lines(advice.command, width=width, indent="    ")


def _print(console: Console, *lines: str | Text) -> None:
    """Prints lines as they are: no wrapping, markup or highlighting."""
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
