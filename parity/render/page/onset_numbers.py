"""The numbers of a pair at its onset, the first difference that rounding cannot explain."""

import math
from dataclasses import dataclass

import numpy as np

from parity.ground.percent import LEAST_BESIDE, percent, percent_at_most
from parity.judge.verdict import Onset, PairVerdict
from parity.render.phrases import named, shortest
from parity.render.tables import Table
from parity.store.trace import NORMED_QUANTITIES, SKETCHED_QUANTITIES

# How far the length of a gradient has to be off for its ratio to be the news.
_OFF = 1e-3


@dataclass(frozen=True)
class OnsetNumbers:
    """Both sides at the onset.

    Attributes:
        what: Quantity and tensor.
        table: A row for the baseline and one for the candidate.
        apart: How far the two are apart, in a sentence; empty where that is not known.
    """

    what: str
    table: Table
    apart: str


def onset_numbers(verdict: PairVerdict) -> OnsetNumbers | None:
    """The numbers of both sides at the onset; None where there is none.

    Args:
        verdict: The pair and its verdict.

    Raises:
        Trouble: A trace is damaged.
    """
    onset = verdict.onset
    if onset is None:
        return None
    index = verdict.comparison.index_of(onset.step)
    dtype = verdict.pair.baseline.loss_dtype or "float64"
    loss = tuple(shortest(float(side[index]), dtype) for side in verdict.comparison.both("loss"))
    what = named(onset.quantity, onset.tensor)
    columns: list[tuple[str, tuple[str, ...]]] = [("loss", loss)]
    norms = _norms(verdict, onset, index)
    if norms:
        columns.append((f"norm of {what}", tuple(f"{norm:.9g}" for norm in norms)))
    size = verdict.onset_size
    if size and size.reference == "float64" and size.baseline_off is not None and math.isfinite(size.off):
        off = (percent(size.baseline_off, least=LEAST_BESIDE), percent(size.off, least=LEAST_BESIDE))
        columns.append((f"distance of {onset.quantity} from float64", off))
    rows = tuple((role, *(cells[side] for _, cells in columns)) for side, role in enumerate(("baseline", "candidate")))
    table = Table(("side", *(heading for heading, _ in columns)), rows, marked=(1,))
    return OnsetNumbers(what, table, _how_far(verdict))


def _norms(verdict: PairVerdict, onset: Onset, index: int) -> tuple[float, ...] | None:
    """The norm of the quantity, or of its tensor, on both sides; None where it is not stored."""
    comparison = verdict.comparison
    if onset.quantity in NORMED_QUANTITIES and not onset.tensor:
        found = tuple(float(side[index]) for side in comparison.both(f"{onset.quantity}_norm"))
        return found if not all(map(math.isnan, found)) else None
    if onset.quantity not in SKETCHED_QUANTITIES:
        return None
    distances = comparison.distances(onset.quantity)
    if distances is None:
        return None
    here = distances.at(index)
    sides = [side[0] for side in (here.norms, here.other_norms)]
    names = comparison.baseline.record.param_names
    if onset.tensor:
        if onset.tensor not in names or len(names) != len(sides[0]):
            return None
        return tuple(float(side[names.index(onset.tensor)]) for side in sides)
    with np.errstate(over="ignore"):  # beyond the range of float64 a norm is infinite
        return tuple(float(np.sqrt(np.nansum(np.square(side)))) for side in sides)


def _how_far(verdict: PairVerdict) -> str:
    """How far the two are apart there, in a sentence; empty where that is not known."""
    size = verdict.onset_size
    if size is None or not math.isfinite(size.off):
        return ""
    if size.ratio is not None and abs(size.ratio - 1) > _OFF:
        beside = "the float64 one, in its direction" if size.reference == "float64" else "the baseline's"
        return f"The candidate's is {size.ratio:.6g} times as long as {beside}."
    if size.reference == "baseline":
        return f"The two are about {percent(size.off)} apart, relative to the baseline (an estimate)."
    return f"Rounding explains {percent_at_most(size.explained)}." if size.explained is not None else ""
