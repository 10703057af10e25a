"""report.html: one file with all that it needs, from a stored run and its judgement alone."""

import base64
import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from parity.judge.verdict import VERDICTS, Judgement, PairVerdict
from parity.render import fleet, story, tables
from parity.render.differing import make_rows
from parity.render.matrix import make_matrix
from parity.render.next_steps import next_steps
from parity.render.page import plots
from parity.render.page.chain import Chain, make_chains
from parity.render.page.device_map import device_map
from parity.render.page.figures import Frame
from parity.render.page.first_difference import First, tell_first
from parity.render.page.heat_map import heat_map
from parity.render.page.plots import NoiseBand, Plot
from parity.store.stored_run import StoredRun

# Pairs that have a section with plots, the worst first; the others are in a table.
MOST_SECTIONS = 12
# What the points of all plots may take, in bytes of the page.
PLOTS_BYTES = 700_000
# Of one point of one series in base64: a step and a number.
_POINT_BYTES = 16
# Series of a pair: losses, differences, noise, errors.
_SERIES = 14
_LEAST_POINTS, _MOST_POINTS = 120, 3000


@dataclass(frozen=True)
class Section:
    """What the page says of one pair.

    Attributes:
        anchor: Where links lead.
        verdict: Of the pair.
        alike: How many pairs it stands for.
        headline: In a sentence.
        reason: Why, or None.
        first: The first difference as a story, or None.
        chains: Where the chain breaks.
        plots: Over the steps.
        steps: The numbers behind them, or None.
        tensors: What differs, or None.
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
    """The page.

    Args:
        run: As it was read.
        judgement: Of the same run.
    """
    groups = sorted(fleet.alike_pairs(judgement), key=lambda group: story.rank(group[0]))
    told = [group for group in groups if _needs_section(group[0], judgement)][:MOST_SECTIONS]
    rest = [(group[0], len(group)) for group in groups if group not in told]
    most = int(PLOTS_BYTES / max(1, len(told)) / _SERIES / _POINT_BYTES)
    most = min(_MOST_POINTS, max(_LEAST_POINTS, most))
    noise = plots.noise_band(judgement)
    sections = [_section(group, f"pair-{number}", noise, most) for number, group in enumerate(told, start=1)]
    anchors = {id(verdict): section.anchor for section, group in zip(sections, told, strict=True) for verdict in group}
    scripts = [_asset("plotly-cartesian.min.js"), _asset("report.js")]
    maps = [device_map(run, judgement)] if judgement.fleet.large else []
    page: str = _template().render(
        run=run,
        judgement=judgement,
        verdicts=VERDICTS,
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
        environment=tables.environment_table(run),
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
    if not verdict.steps:
        return section
    frame = Frame(verdict, most)
    rows = make_rows(verdict)
    drawn = [plots.losses(frame)]
    if verdict.first:
        drawn += plots.differences(frame, noise)
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
    """Whether there is something to see: in noise there is not, nor in equal devices of a fleet that are equal."""
    return verdict.pair.axis != "noise" and not (judgement.fleet.large and verdict.verdict == "identical")


def _worst_reason(sections: list[Section]) -> str | None:
    return sections[0].reason if sections else None


def _classes(judgement: Judgement) -> tables.Table:
    rows = [
        (each.label, str(len(each.devices)), str(len(each.odd)), ", ".join(unit.device for unit in each.odd[:20]))
        for each in judgement.fleet.classes
    ]
    explained = tuple((*row, each.hardware.explain()) for row, each in zip(rows, judgement.fleet.classes, strict=True))
    marked = tuple(number for number, each in enumerate(judgement.fleet.classes) if each.odd)
    return tables.Table(("class", "devices", "odd", "which", "what they have in common"), explained, marked)


@cache
def _asset(name: str) -> str:
    return (resources.files("parity.render.page") / name).read_text(encoding="utf-8")


@cache
def _script_hash(script: str) -> str:
    """A script as the page's content security policy names it, so that no other is run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def _template() -> Any:
    import jinja2  # not before there is something to render

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("report.html.j2")
