"""A result as a fragment of HTML for the output of a notebook's cell: the first screen of the page, without scripts."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from parity.ground.quoting import cut, visible
from parity.judge.verdict import VERDICTS, Judgement, PairVerdict
from parity.render import fleet, story, tables
from parity.render.facts import pair_facts
from parity.render.glance import error_lines, found
from parity.render.headline import Headline, make_headline
from parity.render.matrix import Matrix, make_matrix
from parity.render.wrapping import clip
from parity.store.stored_run import StoredRun

# Most bytes of the fragment: a notebook stores it with every cell that shows a result.
MOST_BYTES = 50_000
# Most rows of the pairs and of the losses, columns of devices, notes, pieces of advice, and tables of contracts.
_MOST_PAIRS, _MOST_LOSSES, _MOST_DEVICES, _MOST_NOTES, _MOST_ADVICE, _MOST_CONTRACTS = 12, 20, 8, 5, 5, 3
# Findings about the worst pair that its headline does not have.
_FACTS = ("first", "drift", "NaN")
# Most characters of a sentence, of a name, and of the traceback.
_SENTENCE, _NAME, _TRACEBACK = 500, 60, 4_000


@dataclass(frozen=True)
class _Row:
    """A pair in the table.

    Attributes:
        verdict: Its verdict, and the two trials.
        found: What was found about it, in a line.
        alike: Number of pairs that it stands for.
    """

    verdict: PairVerdict
    found: str
    alike: int


def render(run: StoredRun, judgement: Judgement, *, page: object = None) -> str:
    """The fragment, of at most `MOST_BYTES` bytes.

    It has no script, and loads nothing. Its colours are those of the notebook, light or dark, but for the verdicts'.
    Where a notebook removes the styles, as JupyterLab does for one that it does not trust, tables and headings stay.

    Args:
        run: The stored run.
        judgement: Its judgement.
        page: Path of the page, or None.
    """
    fragment = _fragment(run, judgement, page, whole=True)
    # What is folded is also on the page.
    return fragment if len(fragment.encode()) <= MOST_BYTES else _fragment(run, judgement, page, whole=False)


def _fragment(run: StoredRun, judgement: Judgement, page: object, *, whole: bool) -> str:
    top = make_headline(run, judgement, where="on the page")
    groups = sorted(fleet.alike_pairs(judgement), key=lambda group: story.severity(group[0]))
    fragment: str = _template().render(
        verdicts=VERDICTS,
        judgement=judgement,
        headline=top.what,
        tally=top.tally,
        notes=story.notes(run)[:_MOST_NOTES],
        error=error_lines(top.error) if top.error else [],
        facts=_facts(top),
        steps=top.advice[:_MOST_ADVICE],
        matrix=_small(make_matrix(run, judgement)) if judgement.pairs else None,
        pairs=[_Row(group[0], found(group[0]), len(group)) for group in groups[:_MOST_PAIRS]],
        left_out=max(0, len(groups) - _MOST_PAIRS),
        compared=story.compared(run, judgement) if whole and run.trials else [],
        contract=tables.contract_tables(run, judgement)[:_MOST_CONTRACTS] if whole else [],
        tracebacks=[(trial, cut(text, _TRACEBACK)) for trial, text in tables.tracebacks(run, most=1)] if whole else [],
        page=page,
    )
    return fragment


def _facts(top: Headline) -> list[tuple[str, str]]:
    """Labels and texts of what a reader asks next: where it is wrong, why, how far off, and how sure that is."""
    rows = [("where", text) for text in top.where]
    if top.worst:
        pair = top.worst.pair
        rows.insert(0, ("pair", f"{clip(pair.candidate.trial, _NAME)} against {clip(pair.baseline.trial, _NAME)}"))
        # Of a trial that raised, the headline is the cause.
        causes = "; ".join(cause.text for cause in top.worst.causes) if pair.candidate.status != "failed" else ""
        rows += [("cause", causes)] if causes else []
        rows += [(fact.label, fact.text) for fact in pair_facts(top.worst) if fact.label in _FACTS]
    rows += [("how sure", text) for text in top.sure]
    # A label stands once, beside the first of its rows.
    before = ["", *(label for label, _ in rows)]
    return [("" if label == last else label, text) for (label, text), last in zip(rows, before, strict=False)]


def _small(matrix: Matrix) -> Matrix | None:
    """The matrix, if it fits; None where there is one device, of which the table of pairs says more."""
    return matrix if len(matrix.rows) <= _MOST_LOSSES and 1 < len(matrix.devices) <= _MOST_DEVICES else None


def _short(value: Any) -> Any:
    """What the template prints; a long text is cut, and one without HTML stays in one line."""
    return clip(value, _SENTENCE) if type(value) is str else value


@cache
def _template() -> Any:
    import jinja2  # here, so that a check loads it only when there is something to show
    import markupsafe

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_short
    )
    environment.filters["name"] = lambda text: clip(text, _NAME)
    # With its lines as they are, which `_short` would join.
    environment.filters["lines"] = lambda text: markupsafe.escape("\n".join(map(visible, str(text).split("\n"))))
    source = (resources.files("parity.render.page") / "notebook.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)
