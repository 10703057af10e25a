"""report.html: one self-contained file, made of a stored run and its judgement."""

import base64
import contextlib
import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from parity.ground.quoting import MOST_STORED, cut
from parity.judge.verdict import VERDICTS, Judgement, PairVerdict
from parity.render import fleet, story, tables
from parity.render.differing import make_rows
from parity.render.matrix import make_matrix
from parity.render.next_steps import next_steps
from parity.render.page import plots
from parity.render.page.chain import Chain, make_chains
from parity.render.page.device_map import device_map
from parity.render.page.distances import distances
from parity.render.page.figures import Frame
from parity.render.page.first_difference import First, tell_first
from parity.render.page.heat_map import heat_map
from parity.render.page.plots import NoiseBand, Plot
from parity.render.phrases import amount, listed
from parity.store.stored_run import StoredRun
from parity.store.trace import QUANTITIES

# Most pairs that have a section with plots, the worst first; the others are in a table.
MOST_SECTIONS = 12
# Most bytes of the page for the points of all plots; together with Plotly the page stays below 3 MB.
PLOTS_BYTES = 700_000
# Bytes of one point of one series in base64: a step (4 bytes) and a number (8 bytes).
_POINT_BYTES = 16
# Most series of a pair: losses, differences, noise, errors, distances.
_SERIES = 21
# Most odd devices of a class that the table of classes names.
_MOST_ODD = 20
# Bounds of the number of points of a series, however many pairs share the bytes; chosen.
_LEAST_POINTS, _MOST_POINTS = 120, 3000


@dataclass(frozen=True)
class Section:
    """What the page says about one pair.

    Attributes:
        anchor: The id that links lead to.
        verdict: The pair and its verdict.
        alike: Number of pairs that it stands for.
        headline: The verdict in a sentence.
        reason: The reason in a sentence, or None.
        first: The first difference in words, or None.
        chains: The chains of the steps where it breaks.
        plots: The plots over the steps.
        steps: The numbers behind the plots, or None.
        tensors: The numbers behind the heat map, or None.
    """

    anchor: str
    verdict: PairVerdict
    alike: int
    headline: str
    reason: str | None
    first: First | None
    chains: tuple[Chain, ...]
    plots: tuple[Plot, ...]
    steps: tables.Table | None
    tensors: tables.Table | None


def render(run: StoredRun, judgement: Judgement) -> str:
    """The page as HTML, in one file that loads nothing from anywhere.

    Args:
        run: The stored run.
        judgement: Its judgement.
    """
    groups = sorted(fleet.alike_pairs(judgement), key=lambda group: story.worst_first(group[0]))
    # The worst first, so that what is left for the table is what matters least.
    shown = [group for group in groups if _needs_section(group[0], judgement)][:MOST_SECTIONS]
    rest = [(group[0], len(group)) for group in groups if group not in shown]
    # The bytes are shared equally among the sections, their series and the points of these.
    most = int(PLOTS_BYTES / max(1, len(shown)) / _SERIES / _POINT_BYTES)
    most = min(_MOST_POINTS, max(_LEAST_POINTS, most))
    noise = plots.noise_band(judgement)
    sections = [_section(group, f"pair-{number}", noise, most) for number, group in enumerate(shown, start=1)]
    # By identity: each pair of a group leads to the section of the group.
    anchors = {id(verdict): section.anchor for section, group in zip(sections, shown, strict=True) for verdict in group}
    scripts = [_asset("plotly-cartesian.min.js"), _asset("report.js")]
    # A map of classes with one device each would only repeat the matrix.
    maps = [device_map(run, judgement)] if judgement.fleet.large else []
    page: str = _template().render(
        run=run,
        judgement=judgement,
        verdicts=VERDICTS,
        quantities=len(QUANTITIES),
        amount=amount,
        meanings=story.MEANINGS,
        headline=story.headline(judgement),
        reason=_worst_reason(sections),
        tally=story.tally(judgement),
        notes=story.notes(run),
        compared=story.compared(run, judgement),
        next_steps=next_steps(run, judgement),
        matrix=make_matrix(run, judgement) if judgement.pairs else None,
        anchor_of=lambda verdict: anchors.get(id(verdict), "other-pairs"),
        sections=sections,
        others=tables.pairs_table(rest) if rest else None,
        maps=maps,
        fleet_lines=[*fleet.lines(run, judgement)] if judgement.fleet.large else [],
        classes=_classes(judgement) if judgement.fleet.large else None,
        contract=tables.contract_tables(run, judgement),
        environment=tables.environment_tables(run),
        attempts=tables.attempts_table(run),
        tracebacks=tables.tracebacks(run),
        figures={
            f"{anchor}-{plot.name}": plot.figure
            for anchor, drawn in [("fleet", maps), *((section.anchor, section.plots) for section in sections)]
            for plot in drawn
        },
        css=_asset("report.css"),
        scripts=scripts,
        script_hashes=[_script_hash(script) for script in scripts],
    )
    return page


def _section(group: list[PairVerdict], anchor: str, noise: NoiseBand | None, most: int) -> Section:
    """The section of a group of pairs, which its first pair stands for."""
    verdict = group[0]
    section = Section(
        anchor=anchor,
        verdict=verdict,
        alike=len(group),
        headline=story.pair_headline(verdict),
        reason=story.reason(verdict),
        first=tell_first(verdict) if verdict.steps else None,
        chains=(),
        plots=(),
        steps=None,
        tensors=None,
    )
    # Without a common step there is nothing to draw, but the verdict still needs its place.
    if not verdict.steps:
        return section
    frame = Frame(verdict, most)
    rows = make_rows(verdict)
    # Equal traces have their losses only: an empty plot of differences would say nothing.
    drawn = [plots.losses(frame)]
    if verdict.first:
        drawn += plots.differences(frame, noise)
        drawn += [apart] if (apart := distances(frame)) else []
    if verdict.loss_audit:
        drawn += plots.audits(frame, verdict.loss_audit)
    elif verdict.device_audit:
        drawn.append(plots.shared_steps(frame, verdict.device_audit))
    return dataclasses.replace(
        section,
        chains=make_chains(verdict, rows),
        plots=(*drawn, heat_map(frame, rows)) if verdict.first else tuple(drawn),
        steps=tables.steps_table(verdict),
        tensors=tables.tensors_table(verdict, rows) if verdict.first else None,
    )


def _needs_section(verdict: PairVerdict, judgement: Judgement) -> bool:
    """Whether a pair has plots worth a section: those of the noise band and equal devices of a fleet do not."""
    return verdict.pair.axis != "noise" and not (judgement.fleet.large and verdict.verdict == "identical")


def _worst_reason(sections: list[Section]) -> str | None:
    """The reason of the worst pair that has a section, or None."""
    return sections[0].reason if sections else None


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
    # For a traceback: what parity has stored of it is shown whole. Escaped here, since `_shown` leaves HTML as it is.
    environment.filters["whole"] = lambda text: markupsafe.escape(cut(text, MOST_STORED))
    # JSON has no NaN: figures hold their numbers in base64, so one here is a mistake. Without spaces the page is
    # smaller.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("report.html.j2")
