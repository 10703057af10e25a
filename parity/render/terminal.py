"""The report on a terminal: a table of losses x devices, a line for each pair, and how the audit decided."""

import math
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.devices import parse_device
from parity.fleet import software_differences
from parity.judge import Judgement, PairVerdict
from parity.render import fleet
from parity.render.matrix import Matrix, make_matrix
from parity.store import StoredRun
from parity.trace import QUANTITIES

_STYLES = {
    "identical": "green",
    "report-only": "green",
    "rounding": "green",
    "inconclusive": "yellow",
    "diverged": "bold red",
    "failed": "bold red",
}


def render(run: StoredRun, judgement: Judgement, console: Console) -> None:
    """Prints the report."""
    if judgement.trouble:
        _print(console, judgement.trouble)
    if run.altered:
        _print(console, f"Altered since the run was stored: {', '.join(run.altered)}. What is there now is judged.")
    interrupted = [record.trial for record in run.trials if record.status in ("interrupted", "planned")]
    if interrupted:
        _print(console, f"This run is partial: {', '.join(interrupted)} did not end. What is stored is judged.")
    if not judgement.pairs:
        _print(console, "Nothing to compare: one trial makes no pair. Add a --loss, a --device or --replicas.")
        return
    first = run.trials[0]
    for line in (*run.info.get("notes", ()), *software_differences(run.trials), *moved_lines(run)):
        _print(console, line)
    _print(console, f"{first.task}, {first.steps} steps: {judgement.verdict}")
    if judgement.fleet.large or any(each.odd for each in judgement.fleet.classes):
        fleet.render(run, judgement, console)
    told = fleet.telling_pairs(judgement)
    console.print(_matrix(make_matrix(run, judgement)))
    for verdict, alike in told:
        _print(console, pair_line(verdict).append(f" ({alike} pairs alike)" if alike > 1 else ""))
    for line in (*_contract_lines(run, judgement), *_noise_lines(judgement)):
        _print(console, line)
    if any(verdict.decision for verdict in judgement.pairs):
        audited = sorted({verdict.decision.audited for verdict in judgement.pairs if verdict.decision})
        steps = f"{audited[0]} to {audited[-1]}" if len(audited) > 1 else str(audited[0])
        _print(
            console,
            f"\nHow the audit decided: largest errors against float64 over {steps} steps, in u (unit roundoff);",
        )
        _print(console, "own is the baseline's own error, and beyond the line is no rounding.")
        console.print(_audit_table([verdict for verdict, _ in told]))


def moved_lines(run: StoredRun) -> list[str]:
    """Trials that did not run where their device's name says."""
    return [
        f"Node {device.node} left the cluster: {record.trial} was trained on {record.node}, which says nothing of "
        f"{device.node}."
        for record in run.trials
        if (device := parse_device(record.device)).node and record.node not in (None, device.node)
    ]


def _contract_lines(run: StoredRun, judgement: Judgement) -> list[str]:
    """For each loss that was held to its contract: how many items passed, and which did not; equal devices once."""
    items: dict[str, dict[str, list[str]]] = {}
    classes = {record.trial: (record.loss_name, judgement.fleet.of(record).label) for record in run.trials}
    for row in run.evidence["contract"].to_pylist():
        items.setdefault(row["trial"], {}).setdefault(row["status"], []).append(row["item"])
    lines = []
    seen = []
    for trial, found in items.items():
        if (classes[trial], found) in seen:
            continue
        seen.append((classes[trial], found))
        told = [f"{status}: {', '.join(found[status])}" for status in ("failed", "limited") if status in found]
        passed = f"{len(found.get('passed', []))} items passed"
        lines.append(f"Contract of {trial}: {'; '.join([passed, *told])}")
    return lines


def _noise_lines(judgement: Judgement) -> list[str]:
    """How fast rounding alone grows, beside the candidates."""
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
        f"Noise band: under random rounding of 1 ulp ({len(band)} trials) the losses drift to rel {largest:.2g}; "
        f"the candidates: {', '.join(drifts) or 'none'}"
    ]


def pair_line(verdict: PairVerdict) -> Text:
    """A pair in a line: trials, verdict, where they first differ and by how much, how much was compared."""
    found = [verdict.cause] if verdict.cause and verdict.verdict != "rounding" else []
    if verdict.onset:
        # The failed items of a contract have a line of their own, and summary.json has it all.
        extra = [f"; {cause.text}" for cause in verdict.causes[1:] if cause.kind in ("contract", "grad_output")]
        cause = verdict.cause or ""
        for text in extra:
            cause = cause.replace(text, "")
        found = [f"beyond rounding from step {verdict.onset.step}: {cause}"]
    if verdict.first:
        found.append(_first(verdict))
    if verdict.steps:
        found.append(f"{verdict.steps} steps, {len(QUANTITIES)} quantities")
    if verdict.decision and verdict.decision.audited < verdict.steps:
        found.append(f"{verdict.decision.audited} of them audited")
    if verdict.device_audit and verdict.verdict == "rounding":
        worst = verdict.device_audit.worst
        found.append(
            f"{len(verdict.device_audit.steps)} steps from shared states, {worst.quantity} nearest to its line "
            f"({worst.error_u:.3g} u of {worst.line_u:.3g} u)"
        )
    if verdict.both_nan is not None:
        found.append(f"both losses are NaN at step {verdict.both_nan}")
    return Text.assemble(
        f"{verdict.pair.baseline.trial} {verdict.pair.candidate.trial}  ",
        (verdict.verdict, _STYLES[verdict.verdict]),
        f": {'; '.join(' '.join(part.split()).rstrip('.') for part in found)}",
    )


def _first(verdict: PairVerdict) -> str:
    first = verdict.first
    assert first is not None
    what = f"{first.quantity} {first.tensor}" if first.tensor else first.quantity
    dtype = verdict.pair.baseline.loss_dtype or "float64"
    baseline, candidate = (_number(value, dtype) for value in (first.baseline, first.candidate))
    size = ""
    if first.ulp is not None:
        size = f" ({first.ulp} ulp)"
    elif first.rel is not None and not math.isnan(first.rel):
        size = f" (rel {first.rel:.2g})"
    drift = (
        f"; the losses drift to rel {verdict.largest.rel:.2g} at step {verdict.largest.step}"
        if verdict.largest.rel
        else ""
    )
    return f"first at step {first.step}, {what} {baseline} != {candidate}{size}{drift}"


def _number(value: float | str, dtype: str) -> str:
    """As many digits as tell the number from its neighbours in its dtype; a digest as it is."""
    if isinstance(value, str):
        return value
    return str(np.dtype(dtype).type(value)) if dtype in ("float16", "float32") else repr(value)


def _matrix(matrix: Matrix) -> Table:
    """The worst verdict of each loss on each device (equal ones in one column); of the baseline loss, the devices'."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("loss", *matrix.devices):
        table.add_column(Text(heading), overflow="fold")
    for loss, cells in matrix.rows.items():
        styles = (_STYLES[cell.pair.verdict] if cell.pair else "dim" for cell in cells)
        table.add_row(Text(loss), *(Text(cell.text, style=style) for cell, style in zip(cells, styles, strict=True)))
    return table


def _audit_table(verdicts: Sequence[PairVerdict]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("candidate", overflow="fold")
    for heading in ("gradient", "own", "line", "loss", "own", "line"):
        table.add_column(heading, justify="right", no_wrap=True)
    for verdict in verdicts:
        decision = verdict.decision
        if decision:
            errors = (
                decision.grad_error_u,
                decision.baseline_grad_error_u,
                decision.grad_line_u,
                decision.loss_error_u,
                decision.baseline_loss_error_u,
                decision.loss_line_u,
            )
            table.add_row(Text(verdict.pair.candidate.trial), *(f"{error:.3g}" for error in errors))
    return table


def _print(console: Console, text: str | Text) -> None:
    """Prints a line as it is: not wrapped, so that it can be searched and copied."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)
