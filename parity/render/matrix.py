"""Losses x devices: the worst verdict of each loss on each device, and the pair that has it."""

from collections.abc import Sequence
from dataclasses import dataclass

from parity.judge.verdict import Judgement, PairVerdict, rank
from parity.render import fleet
from parity.render.story import severity
from parity.store.stored_run import StoredRun


@dataclass(frozen=True)
class Cell:
    """One loss on one device, or on several equal devices.

    Attributes:
        text: The verdict in words; "baseline" where there is nothing to compare it with.
        pair: The pair that has this verdict, or None.
    """

    text: str
    pair: PairVerdict | None


@dataclass(frozen=True)
class Matrix:
    """A row of cells for each loss.

    Attributes:
        devices: Headings of the columns; equal devices share a column.
        rows: Cells by loss, one for each column.
    """

    devices: tuple[str, ...]
    rows: dict[str, tuple[Cell, ...]]


def make_matrix(run: StoredRun, judgement: Judgement) -> Matrix:
    """The worst verdict of each loss on each device; the baseline loss has the verdicts of the devices.

    Args:
        run: The stored run.
        judgement: Its judgement.
    """
    losses = list(dict.fromkeys(record.loss_name for record in run.trials))
    columns = fleet.columns(judgement)
    # Equal devices share a column, so several devices lead to one heading.
    heads = {device: heading for heading, devices in columns.items() for device in devices}
    found: dict[tuple[str, str], list[PairVerdict]] = {}
    for verdict in judgement.pairs:
        candidate = verdict.pair.candidate
        found.setdefault((candidate.loss_name, heads[candidate.unit]), []).append(verdict)
    return Matrix(
        tuple(columns), {loss: tuple(_cell(found.get((loss, heading), [])) for heading in columns) for loss in losses}
    )


def _cell(pairs: Sequence[PairVerdict]) -> Cell:
    # Noise says nothing about a loss or device.
    found = [verdict for verdict in pairs if verdict.pair.axis != "noise"]
    if not found:
        return Cell("baseline", None)
    # The worst pair, so that no cell hides a fault; of equally bad ones that of the loss, then that of the device.
    order = [*dict.fromkeys(("loss", "device", *(verdict.pair.axis for verdict in found)))]
    worst = min(found, key=lambda verdict: (-rank(verdict.verdict), order.index(verdict.pair.axis), severity(verdict)))
    # A verdict by another axis is marked: it does not compare the loss with the baseline loss.
    axis = worst.pair.axis
    return Cell(worst.verdict if axis == "loss" else f"{worst.verdict} (by {axis})", worst)
