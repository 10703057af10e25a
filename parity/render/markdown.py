"""A summary of a run in GitHub-flavoured Markdown, for the page of a CI job or a comment on a pull request."""

from collections.abc import Iterator

from parity.judge.verdict import Judgement, PairVerdict, rank
from parity.render import fleet, story, tables
from parity.render.facts import pair_facts
from parity.render.headline import Headline, make_headline
from parity.render.markdown_text import code, details, fenced, prose, table
from parity.render.matrix import Matrix, make_matrix
from parity.render.next_steps import Advice
from parity.render.phrases import named, not_shown
from parity.store.stored_run import StoredRun
from parity.store.trace import QUANTITIES

# GitHub accepts comments of at most 65,536 characters, and cuts the summary of a job at 1 MiB. The shares of the parts
# below add up to less, unless names consist of characters that must be escaped.
MOST_CHARACTERS = 65_536
_MATRIX, _PAIRS, _DETAILS, _LINES = 9_000, 22_000, 5_000, 3_000
# Most notes, pieces of advice and odd devices; most tables of contracts; most columns of the matrix.
_MOST_LINES, _MOST_CONTRACTS, _MOST_DEVICES = 5, 3, 12


def render(run: StoredRun, judgement: Judgement, head: Headline | None = None) -> str:
    """The summary, of at most `MOST_CHARACTERS` characters.

    Args:
        run: The stored run.
        judgement: Its judgement.
        head: What `make_headline` returns, where that is known already.
    """
    head = head or make_headline(run, judgement)
    parts = [
        f"## parity: {'trouble' if judgement.trouble else judgement.verdict}",
        *(f"> {prose(note)}" for note in _few(story.notes(run))),
        *_headline(head, _names(run)),
        "**What to do next**",
        _next([*head.advice]),
    ]
    if judgement.pairs:
        parts += [
            _matrix(make_matrix(run, judgement)),
            *_fleet(run, judgement),
            "### Pairs",
            _pairs(judgement, _names(run)),
        ]
    parts += [
        details(
            "What was compared",
            _terms(story.compared(run, judgement), names=_names(run) | {*QUANTITIES}) if run.trials else "",
        ),
        details("How the audit decided", _audit(judgement)),
        details("Contract", *_contract(run, judgement)),
        details("Environment", *_environment(run)),
        details("Attempts and faults", *_attempts(run)),
        details("Run again", *_run_again(run)),
    ]
    return _within([part for part in parts if part], MOST_CHARACTERS)


def _within(parts: list[str], most: int) -> str:
    """The parts that fit; one is left out only where names and messages consist of characters that must be escaped."""
    notice = "Parts of this summary are not shown, because it would be too long."
    # Two line breaks go before each part and before the notice, one after the last.
    kept, room = [], most - len(notice) - 3
    for part in parts:
        # A later, shorter part may still fit after one that does not.
        if len(part) + 2 <= room:
            kept.append(part)
            room -= len(part) + 2
    return "\n\n".join(kept if len(kept) == len(parts) else [*kept, notice]) + "\n"


def _headline(head: Headline, names: frozenset[str]) -> Iterator[str]:
    """What is wrong, where, and how sure that is."""
    yield f"**{prose(head.what, names=names)}**"
    yield head.tally
    labels = ("Where", *["How far"] * len(head.where[1:]))
    lines = [f"- {label}: {prose(text, names=names)}" for label, text in zip(labels, head.where, strict=False)]
    if head.sure:
        lines.append(f"- How sure: {prose(' '.join(head.sure))}")
    yield "\n".join(lines)
    if head.error:
        yield fenced("\n".join(head.error.lines), most=_LINES // 2)


def _next(advice: list[Advice]) -> str:
    lines = []
    for each in advice[:_MOST_LINES]:
        # An indented block belongs to its list item; otherwise it would end the list.
        command = f"\n\n{_indented(fenced(each.command, language='sh', most=1000))}" if each.command else ""
        lines.append(f"- {prose(each.text)}{command}")
    return "\n".join(lines)


def _matrix(matrix: Matrix) -> str:
    """Losses x devices; where there are many devices, only those with the worst verdicts."""
    columns = [[cells[place] for cells in matrix.rows.values()] for place in range(len(matrix.devices))]
    # The columns that are kept stay in the order of the plan.
    badness = [max((rank(cell.pair.verdict) for cell in cells if cell.pair), default=-1) for cells in columns]
    kept = sorted(sorted(range(len(badness)), key=lambda place: -badness[place])[:_MOST_DEVICES])
    rows = [
        [code(loss, most=60), *(_loud(cells[place].text, cells[place].pair) for place in kept)]
        for loss, cells in matrix.rows.items()
    ]
    shown = table(["loss", *(code(matrix.devices[place], most=60) for place in kept)], rows, most=_MATRIX)
    more = len(matrix.devices) - len(kept)
    return shown + (f"\n\nOf the devices, {not_shown(more)}" if more else "")


def _loud(text: str, verdict: PairVerdict | None) -> str:
    return f"**{text}**" if verdict and not verdict.meaning.passing else text


def _fleet(run: StoredRun, judgement: Judgement) -> Iterator[str]:
    """The odd devices, and the classes without a majority."""
    if judgement.fleet.large:
        yield "\n".join(f"- {prose(line)}" for line in _few([*fleet.lines(run, judgement)]))


def _pairs(judgement: Judgement, names: frozenset[str]) -> str:
    """A row for each group of equal pairs, the worst first."""
    rows = []
    for group in sorted(fleet.alike_pairs(judgement), key=lambda group: story.severity(group[0])):
        verdict = group[0]
        facts = {fact.label: fact.text for fact in pair_facts(verdict)}
        onset = verdict.onset
        where = f"step {onset.step}, {named(onset.quantity, onset.tensor)}" if onset else ""
        # A group has one row, so the row says how many pairs it stands for.
        alike = f" ({len(group)} alike)" if len(group) > 1 else ""
        rows.append(
            [
                code(verdict.pair.baseline.trial, most=100),
                code(verdict.pair.candidate.trial, most=100),
                _loud(verdict.verdict, verdict) + alike,
                prose(facts.get("cause", ""), names=names, most=500),
                prose(where, most=100),
                prose(facts.get("first") or facts.get("onset") or "none", most=200),
            ]
        )
    return table(["baseline", "candidate", "verdict", "cause", "onset", "first difference"], rows, most=_PAIRS)


def _audit(judgement: Judgement) -> str:
    found = tables.audit_table([group[0] for group in fleet.alike_pairs(judgement)])
    # A run of devices, replicas or one trial has no audit to explain.
    if not found.rows:
        return ""
    explained = tables.explain_audit(judgement)
    return f"{explained[0].upper()}{explained[1:]}\n\n{_table(found)}"


def _contract(run: StoredRun, judgement: Judgement) -> Iterator[str]:
    found = tables.contract_tables(run, judgement)
    for title, content in found[:_MOST_CONTRACTS]:
        yield prose(title, most=300)
        # The tables of contracts share the room of one.
        yield _table(content, most=_DETAILS // _MOST_CONTRACTS)
    if len(found) > _MOST_CONTRACTS:
        yield not_shown(len(found) - _MOST_CONTRACTS)


def _environment(run: StoredRun) -> Iterator[str]:
    differing, same = tables.environment_tables(run)
    if differing.rows:
        yield "These facts are not the same in all trials:"
        yield _values(differing)
    if same.rows:
        yield "The same in all trials:"
        yield _values(same)


def _attempts(run: StoredRun) -> Iterator[str]:
    found = tables.attempts_table(run)
    if found.rows:
        yield _table(found)
    for trial, text in tables.tracebacks(run, most=2):
        yield f"Traceback of {code(trial)}:"
        # Two tracebacks share the room.
        yield fenced(text, most=_LINES // 2)


def _run_again(run: StoredRun) -> Iterator[str]:
    if run.info.get("command"):
        yield fenced(str(run.info["command"]), language="sh", most=_LINES)
    facts = [("Stored in", str(run.directory))]
    facts += [(name.capitalize(), str(run.info[name])) for name in ("folder", "created") if run.info.get(name)]
    yield _terms(facts)


def _terms(rows: list[tuple[str, str]], *, names: frozenset[str] = frozenset()) -> str:
    return "\n".join(f"- {term}: {prose(words, names=names, most=500)}" for term, words in rows)


def _names(run: StoredRun) -> frozenset[str]:
    """The names of losses and devices, which may look like words."""
    return frozenset(name for record in run.trials for name in (record.loss_name, record.device))


def _table(found: tables.Table, *, most: int = _DETAILS) -> str:
    rows = [[prose(cell, most=300) for cell in row] for row in found.rows]
    return table(found.headings, rows, most=most, left_out=max(0, found.left_out)) if rows else ""


def _values(found: tables.Table) -> str:
    """A table of names and values, each whole in a code span."""
    rows = [[code(cell, most=300) for cell in row] for row in found.rows]
    return table(found.headings, rows, most=_DETAILS, left_out=max(0, found.left_out))


def _few(lines: list[str]) -> list[str]:
    """The first lines, and a sentence that counts the others."""
    more = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], *([not_shown(more)] if more > 0 else [])]


def _indented(text: str) -> str:
    """The text as a part of a list item."""
    return "\n".join(f"  {line}" for line in text.splitlines())
