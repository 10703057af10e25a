"""The sections of the page: what it says and draws about each pair, the worst first."""

import dataclasses
from dataclasses import dataclass

from parity.judge.verdict import Judgement, PairVerdict
from parity.render import fleet, story, tables
from parity.render.differing import make_rows
from parity.render.headline import PairHeadline, make_pair_headline
from parity.render.page import plots
from parity.render.page.chain import Chain, make_chains
from parity.render.page.figures import Frame
from parity.render.page.first_difference import First, tell_first
from parity.render.page.onset_numbers import OnsetNumbers, onset_numbers
from parity.render.page.panels import Panel, make_panels
from parity.render.page.plots import NoiseBand

# Most pairs that have a section with plots, the worst first; the others are in a table.
MOST_SECTIONS = 12
# Most bytes of the page for the points of all plots; together with Plotly the page stays below 3 MB.
PLOTS_BYTES = 700_000
# Bytes of one point of one series in base64: a step (4 bytes) and a number (8 bytes).
_POINT_BYTES = 16
# Most series of a pair: losses, norms, differences, noise, errors, distances, tensors.
_SERIES = 32
# Bounds of the number of points of a series, however many pairs share the bytes; chosen.
_LEAST_POINTS, _MOST_POINTS = 80, 3000


@dataclass(frozen=True)
class Section:
    """What the page says about one pair.

    Attributes:
        anchor: The id that links lead to.
        verdict: The pair and its verdict.
        alike: Number of pairs that it stands for.
        headline: What is wrong, or that nothing is, and how far off it is.
        onset: The numbers of both sides at the onset, or None.
        first: The first difference in words, or None.
        chains: The chains of the steps where it breaks.
        panels: The plots over the steps.
        steps: The numbers behind the plots, or None.
        tensors: The numbers behind the heat map, or None.
        folded: Whether only its heading is shown until the reader opens it.
    """

    anchor: str
    verdict: PairVerdict
    alike: int
    headline: PairHeadline
    onset: OnsetNumbers | None = None
    first: First | None = None
    chains: tuple[Chain, ...] = ()
    panels: tuple[Panel, ...] = ()
    steps: tables.Table | None = None
    tensors: tables.Table | None = None
    folded: bool = False


@dataclass(frozen=True)
class Sections:
    """All pairs of the page.

    Attributes:
        shown: The sections, the worst first.
        rest: The pairs without a section, each with the number of pairs that it stands for.
        anchors: By identity of its verdict, the section that a pair has or shares.
    """

    shown: tuple[Section, ...]
    rest: tuple[tuple[PairVerdict, int], ...]
    anchors: dict[int, str]

    def anchor_of(self, verdict: PairVerdict) -> str:
        """The id of the place that has a pair."""
        return self.anchors.get(id(verdict), "other-pairs")


def make_sections(judgement: Judgement) -> Sections:
    """The sections of the pairs, the worst first, and the pairs that are left for a table.

    Args:
        judgement: The judgement of the run.

    Raises:
        Trouble: A trace is damaged.
    """
    groups = sorted(fleet.alike_pairs(judgement), key=lambda group: min(map(story.severity, group)))
    # The worst first, so that what is left for the table is what matters least.
    shown = [group for group in groups if _needs_section(group[0], judgement)][:MOST_SECTIONS]
    chosen = {id(group[0]) for group in shown}
    rest = tuple((group[0], len(group)) for group in groups if id(group[0]) not in chosen)
    # The bytes are shared equally among the sections, their series and the points of these.
    most = int(PLOTS_BYTES / max(1, len(shown)) / _SERIES / _POINT_BYTES)
    most = min(_MOST_POINTS, max(_LEAST_POINTS, most))
    noise = plots.noise_band(judgement)
    sections = [_section(group, f"pair-{number}", noise, most) for number, group in enumerate(shown, start=1)]
    # What passed is folded, but for a page that has nothing else to show.
    if len(sections) > 1:
        sections = [dataclasses.replace(each, folded=each.verdict.meaning.passing) for each in sections]
    # By identity: each pair of a group leads to the section of the group.
    anchors = {id(verdict): section.anchor for section, group in zip(sections, shown, strict=True) for verdict in group}
    return Sections(tuple(sections), rest, anchors)


def _section(group: list[PairVerdict], anchor: str, noise: NoiseBand | None, most: int) -> Section:
    """The section of a group of pairs, which its first pair stands for."""
    verdict = group[0]
    section = Section(anchor, verdict, len(group), make_pair_headline(verdict))
    # Without a common step there is nothing to draw, but the verdict still needs its place.
    if not verdict.steps:
        return section
    rows = make_rows(verdict)
    section = dataclasses.replace(
        section,
        onset=onset_numbers(verdict),
        first=tell_first(verdict),
        chains=make_chains(verdict, rows),
        panels=make_panels(Frame(verdict, most), rows, noise),
        steps=tables.steps_table(verdict),
        tensors=tables.tensors_table(verdict, rows) if verdict.first else None,
    )
    # Only the figures are kept: the distances of all pairs of long traces may not fit into memory.
    verdict.comparison.release()
    return section


def _needs_section(verdict: PairVerdict, judgement: Judgement) -> bool:
    """Whether a pair has plots worth a section: those of the noise band and equal devices of a fleet do not."""
    return verdict.pair.axis != "noise" and not (judgement.fleet.large and verdict.verdict == "identical")
