"""report.html: one self-contained file, made of a stored run and its judgement."""

import base64
import contextlib
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any

from parity.ground.listing import listed
from parity.ground.quoting import MOST_STORED, cut
from parity.judge.verdict import VERDICTS, Judgement
from parity.render import fleet, story, tables
from parity.render.headline import Headline, make_headline
from parity.render.matrix import make_matrix
from parity.render.page.device_map import device_map
from parity.render.page.sections import Sections, make_sections
from parity.render.page.source import find_source
from parity.render.phrases import amount
from parity.render.user_error import run_folder
from parity.store.stored_run import StoredRun
from parity.store.trace import QUANTITIES

# Most pairs of a run that can be copied as Markdown: it would take longer to make than the page.
_MOST_PAIRS = 200
# Most rows of the matrix before those that passed are folded.
_MOST_ROWS = 40
# Most odd devices of a class that the table of classes names.
_MOST_ODD = 20
# An option and its numbers in a sentence, which a browser would break after its hyphens.
_OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*(?: \d+)*")


def render(run: StoredRun, judgement: Judgement) -> str:
    """The page as HTML, in one file that loads nothing from anywhere.

    Args:
        run: The stored run.
        judgement: Its judgement.
    """
    from parity.render import markdown  # here, so that a run loads it only when there is a page to make

    sections = make_sections(judgement)
    head = make_headline(run, judgement)
    scripts = [_asset("plotly-cartesian.min.js"), _asset("report.js")]
    page: str = _template().render(
        run=run,
        judgement=judgement,
        verdicts=VERDICTS,
        quantities=len(QUANTITIES),
        amount=amount,
        meanings=story.MEANINGS,
        css=_asset("report.css"),
        scripts=scripts,
        script_hashes=[_script_hash(script) for script in scripts],
        markdown=markdown.render(run, judgement, head) if len(judgement.pairs) <= _MOST_PAIRS else None,
        **_head(run, judgement, sections, head),
        **_tables(run, judgement, sections),
    )
    return page


def _head(run: StoredRun, judgement: Judgement, sections: Sections, headline: Headline) -> dict[str, Any]:
    """What the template shows on the first screen, and the pairs."""
    return {
        "headline": headline,
        # None where no loss is in question.
        "source": find_source(headline.worst, run_folder(run)) if headline.worst else None,
        "tracebacks": tables.tracebacks(run),
        "notes": story.notes(run),
        "sections": sections.shown,
        "anchor_of": sections.anchor_of,
        **_matrix(run, judgement),
        "figures": {
            f"{section.anchor}-{plot.name}": plot.figure
            for section in sections.shown
            for panel in section.panels
            for plot in panel.plots
        },
    }


def _matrix(run: StoredRun, judgement: Judgement) -> dict[str, Any]:
    """The matrix, and the losses that are shown at once: of many, those of which anything did not pass."""
    matrix = make_matrix(run, judgement) if judgement.pairs else None
    if matrix is None or len(matrix.rows) <= _MOST_ROWS:
        return {"matrix": matrix, "passed_rows": frozenset()}
    passed = [
        loss
        for loss, cells in matrix.rows.items()
        if all(cell.pair is None or cell.pair.meaning.passing for cell in cells)
    ]
    return {"matrix": matrix, "passed_rows": frozenset(passed)}


def _tables(run: StoredRun, judgement: Judgement, sections: Sections) -> dict[str, Any]:
    """The tables of the template: what was compared, devices, audit, contract, environment, attempts."""
    large = judgement.fleet.large
    audited = tables.audit_table(section.verdict for section in sections.shown)
    return {
        "compared": story.compared(run, judgement),
        "others": tables.pairs_table(sections.rest) if sections.rest else None,
        "others_pass": all(verdict.meaning.passing for verdict, _ in sections.rest),
        # A map of classes with one device each would only repeat the matrix.
        "classes": _classes(judgement) if large else None,
        "maps": device_map(run, judgement) if large else (),
        "fleet_lines": [*fleet.lines(run, judgement)] if large else [],
        "audit": audited if audited.rows else None,
        "explain_audit": tables.explain_audit(judgement) if audited.rows else "",
        "contract": tables.contract_tables(run, judgement),
        "environment": tables.environment_tables(run),
        "attempts": tables.attempts_table(run),
    }


def _classes(judgement: Judgement) -> tables.Table:
    """A row for each class of devices, with its odd devices."""
    rows = []
    for each in judgement.fleet.classes:
        odd = listed([unit.device for unit in each.odd], most=_MOST_ODD)
        rows.append((each.label, str(len(each.devices)), str(len(each.odd)), odd, each.explain()))
    marked = tuple(number for number, each in enumerate(judgement.fleet.classes) if each.odd)
    return tables.Table(("class", "devices", "odd", "odd devices", fleet.IN_COMMON), tuple(rows), marked)


@cache
def _asset(name: str) -> str:
    # Through importlib.resources, so that the assets are found in an installed package too.
    return (resources.files("parity.render.page") / name).read_text(encoding="utf-8")


@cache
def _script_hash(script: str) -> str:
    """The hash by which the page's content security policy names a script, so that no other script runs."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _shown(value: Any) -> Any:
    """What the template prints, cut if it is a long text; what is HTML already, as the assets are, stays as it is."""
    return cut(value) if type(value) is str else value


def prepare() -> None:
    """Compiles the page's template, which takes 0.2 s, while there is nothing else to do."""
    with contextlib.suppress(ImportError):  # `render` says what is not installed
        _template()


@cache
def _template() -> Any:
    import jinja2  # here, so that a run loads it only when there is a page to make
    import markupsafe

    # Autoescape: names and messages come from users. A name that the template misspells must raise, not print nothing.
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    # For a text that the template takes apart before `_shown` sees it.
    environment.filters["cut"] = cut
    # As plain text, since what is put together of escaped text is escaped.
    environment.filters["prose"] = lambda text: markupsafe.Markup(
        _OPTION.sub(r'<span class="option">\g<0></span>', str(markupsafe.escape(cut(text))))
    )
    # For a traceback: what parity has stored of it is shown whole. Escaped here, since `_shown` leaves HTML as it is.
    environment.filters["whole"] = lambda text: markupsafe.escape(cut(text, MOST_STORED))
    # JSON has no NaN: figures hold their numbers in base64, so one here is a mistake. Without spaces the page is
    # smaller.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("report.html.j2")
