"""The tables of the report: audit, numbers behind the plots, contract, environment, attempts.

The length of a table depends on what stands out, not on the length of the run; rows that are left out are counted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from parity.ground.listing import listed
from parity.ground.percent import percent
from parity.judge.distances import unit_of_quantity
from parity.judge.verdict import Judgement, PairVerdict
from parity.render.differing import Rows
from parity.render.phrases import amount, beyond_itself, counted, named, seen_by_audit
from parity.store.stored_run import StoredRun
from parity.store.tables import CONTRACT_STATUSES
from parity.store.trace import SKETCHED_QUANTITIES
from parity.store.trials import HARDWARE, SOFTWARE, TrialRecord

# Most rows of a table whose length would grow with the run; chosen so that a table can still be read.
MOST_ROWS = 60
# Evenly spaced steps of a pair that are shown beside those that stand out.
_EVENLY = 12
# Facts about a machine, those that decide the bits first.
_FACTS = (*HARDWARE, *SOFTWARE, "loss_dtype", "threads", "os", "cores", "host", "node")


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Attributes:
        headings: Headings of the columns.
        rows: Cells as text; an empty cell means that there is no value.
        marked: Indices of the rows that need attention.
        left_out: Number of rows that are not shown.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: tuple[int, ...] = ()
    left_out: int = 0


def steps_table(verdict: PairVerdict) -> Table:
    """The numbers behind the plots of a pair: the steps that stand out, and some evenly spaced ones."""
    comparison, count, begin = verdict.comparison, verdict.steps, verdict.comparison.first_step
    reasons = _outstanding(verdict)
    for step in np.linspace(0, count - 1, min(count, _EVENLY)).astype(int).tolist():
        # A step that stands out keeps its reasons.
        reasons.setdefault(step, [])
    names = ("epoch", "batch", "rows")
    places = [comparison.both(name)[1] for name in names]
    # Errors are stored in u, which only the table of the audit has; here they are relative, as in the plots.
    loss_unit = unit_of_quantity(verdict.pair.candidate, "loss")
    unit = verdict.loss_audit.unit if verdict.loss_audit else np.full(count, comparison.unit)
    units = {"loss": 1.0, "grad_error_u": unit, "loss_error_u": loss_unit}
    sides = [side * size for name, size in units.items() for side in comparison.both(name)]
    ulp, rel = comparison.loss_ulp, comparison.loss_rel
    # Quantities whose distances are known, and not 0 everywhere.
    known = {quantity: found for quantity in SKETCHED_QUANTITIES if (found := comparison.distances(quantity))}
    apart = {f"{quantity} distance": found.whole for quantity, found in known.items() if found.whole.any()}
    rows = []
    for step in sorted(reasons):
        loss, other, *errors = (float(side[step]) for side in sides)
        rows.append(
            (
                str(begin + step),
                ", ".join(reasons[step]),
                *(str(place[step]) for place in places),
                # `repr` is the shortest text that reads back as the same number.
                repr(loss),
                repr(other),
                # -1 stands for a NaN on one side or on both.
                str(ulp[step]) if ulp[step] >= 0 else "NaN",
                f"{rel[step]:.6g}",
                # A step without an audit has no errors.
                *("" if np.isnan(error) else f"{error:.3g}" for error in errors),
                *("" if np.isnan(distance[step]) else f"{distance[step]:.3g}" for distance in apart.values()),
            )
        )
    # The evenly spaced steps have no reason.
    marked = tuple(number for number, step in enumerate(sorted(reasons)) if reasons[step])
    headings = ("step", "why it stands out", *names, "baseline loss", "candidate loss", "ulp", "relative")
    errors_of = [f"{side} {what} error" for what in ("gradient", "loss") for side in ("baseline", "candidate")]
    return Table((*headings, *errors_of, *apart), tuple(rows), marked, count - len(rows))


def _outstanding(verdict: PairVerdict) -> dict[int, list[str]]:
    """Positions of the steps that stand out, and why."""
    comparison = verdict.comparison
    reasons: dict[int, list[str]] = {}

    def add(step: int, reason: str) -> None:
        reasons.setdefault(comparison.index_of(step), []).append(reason)

    sides = comparison.both("loss")
    if verdict.first:
        add(verdict.first.step, f"first difference ({verdict.first.quantity})")
    if verdict.onset:
        add(verdict.onset.step, f"first beyond rounding ({verdict.onset.quantity})")
    if verdict.largest.step is not None and verdict.largest.rel:
        add(verdict.largest.step, "largest relative difference of the losses")
        reasons.setdefault(int(np.argmax(comparison.loss_ulp)), []).append("largest difference in ulp")
    if verdict.audit:
        add(verdict.audit.step, "largest gradient error of the candidate")
    # A loss that is not finite has no place on a plot's axis, so at least its first and last step are listed.
    for role, values in zip(("baseline", "candidate"), sides, strict=True):
        for word, kind in (("NaN", np.isnan(values)), ("infinite", np.isinf(values))):
            places = np.flatnonzero(kind)
            for place, end in zip(places[[0, -1]] if len(places) else (), ("first", "last"), strict=False):
                which = "only step" if len(places) == 1 else f"{end} of {len(places)} steps"
                reasons.setdefault(int(place), []).append(f"{which} with a {word} {role} loss")
    return reasons


def tensors_table(verdict: PairVerdict, rows: Rows) -> Table:
    """The numbers behind the heat map: the first step at which each row differs, and how often it does.

    Args:
        verdict: The pair and its verdict.
        rows: The rows of its heat map.
    """
    found = []
    marked = []
    for number, row in enumerate(rows.shown):
        first = row.first
        share = f"{int(row.differs.sum()):,} of {verdict.steps:,}"
        largest = "" if row.largest is None else percent(row.largest)
        where = "never" if first is None else str(verdict.comparison.first_step + first)
        found.append((row.name, where, share, largest))
        if verdict.first and (row.quantity, row.tensor) == (verdict.first.quantity, verdict.first.tensor):
            marked.append(number)
    return Table(
        ("quantity and tensor", "first differs at step", "steps that differ", "largest distance"),
        tuple(found),
        tuple(marked),
        rows.left_out,
    )


def pairs_table(verdicts: Iterable[tuple[PairVerdict, int]]) -> Table:
    """A row for each pair without a section of its own; a pair may stand for others."""
    rows = []
    for verdict, alike in verdicts:
        first = verdict.first
        where = f"step {first.step}, {named(first.quantity, first.tensor)}" if first else ""
        drift = f"{percent(verdict.largest.rel)} at step {verdict.largest.step}" if verdict.largest.rel else ""
        trials = (verdict.pair.baseline.trial, verdict.pair.candidate.trial)
        # The cause in full, since these pairs have no section that would explain it.
        rows.append((*trials, verdict.pair.axis, verdict.verdict, where, drift, verdict.cause or "", str(alike)))
    headings = (
        "baseline",
        "candidate",
        "differ in",
        "verdict",
        "first difference",
        "largest relative difference",
        "cause",
        "pairs",
    )
    return _cut(headings, rows)


def explain_audit(judgement: Judgement) -> str:
    """A sentence that says how to read `audit_table`, for after a colon."""
    audited = sorted({verdict.decision.audited for verdict in judgement.pairs if verdict.decision})
    # Pairs of different lengths have different numbers of audited steps.
    steps = f"{audited[0]:,} to {audited[-1]:,} steps" if len(audited) > 1 else amount(audited[0], "step")
    seen = seen_by_audit(judgement.pairs)
    if any(beyond_itself(verdict) for verdict in judgement.pairs):
        seen = "where the error of the baseline itself is above 16 u, its limit follows from it and says nothing"
    return (
        f"largest errors against float64 over {steps}, in u (unit roundoff); the limit is what rounding can "
        f"explain.{f' {seen[0].upper()}{seen[1:]}.' if seen else ''}"
    )


def audit_table(verdicts: Iterable[PairVerdict]) -> Table:
    """The largest errors of gradient and loss of each audited pair, beside the baseline's errors and the limits."""
    rows = []
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
            rows.append((verdict.pair.candidate.trial, *(f"{error:.3g}" for error in errors)))
    return Table(("candidate", "gradient", "baseline", "limit", "loss", "baseline", "limit"), tuple(rows))


def contract_tables(run: StoredRun, judgement: Judgement) -> list[tuple[str, Table]]:
    """A table for each loss whose contract was checked, with a summary as its title.

    Devices with equal results share a table, and items with equal results a row.

    Args:
        run: The stored run.
        judgement: Its judgement.
    """
    items: dict[str, list[dict[str, str]]] = {}
    for row in run.evidence["contract"].to_pylist():
        items.setdefault(row["trial"], []).append(row)
    places = {record.trial: (record.loss_name, judgement.fleet.of(record).label) for record in run.trials}
    found: dict[tuple[object, ...], tuple[str, Table]] = {}
    for trial, rows in items.items():
        alike: dict[tuple[str, str], list[str]] = {}
        # Failures first; the sort is stable, so items of one status stay in the order of the contract.
        for row in sorted(rows, key=lambda row: CONTRACT_STATUSES.index(row["status"])):
            alike.setdefault((row["status"], row["reason"]), []).append(row["item"])
        cells = tuple((", ".join(names), status, reason) for (status, reason), names in alike.items())
        marked = tuple(number for number, (_, status, _) in enumerate(cells) if status == "failed")
        title = f"{trial}: {counted([row['status'] for row in rows], CONTRACT_STATUSES)}"
        table = Table(("items", "status", "finding"), cells, marked)
        # The first trial with these results stands for the other devices of its class.
        found.setdefault((places[trial], *cells), (title, table))
    return [*found.values()][:MOST_ROWS]


def environment_tables(run: StoredRun) -> tuple[Table, Table]:
    """The recorded facts of the machines: those that are not the same in all trials, and those that are.

    A fact of the first table has a row for each of its values.
    """
    differing: list[tuple[str, ...]] = []
    same: list[tuple[str, ...]] = []
    for fact in _FACTS:
        values: dict[str, list[str]] = {}
        for record in run.trials:
            value = getattr(record, fact)
            values.setdefault("not known" if value is None else str(value), []).append(record.trial)
        # A fact that no trial has, such as a GPU's name on CPUs, is left out.
        if [*values] == ["not known"]:
            continue
        if len(values) == 1:
            same.append((fact, next(iter(values))))
        else:
            differing += [(fact, value, listed(trials)) for value, trials in values.items()]
    return _cut(("fact", "value", "trials"), differing), _cut(("fact", "value"), same)


def attempts_table(run: StoredRun) -> Table:
    """The trials that failed, were restarted or did not finish, and those whose audit is missing."""
    rows = []
    for record in run.trials:
        if not _eventful(record):
            continue
        # In the order of time: restarts come before the error that ended the trial.
        events = [*record.restarts]
        events += [str(each) for each in (record.error, record.audit_error, record.shared_error) if each]
        place = "" if record.failed_step is None else str(record.failed_step)
        where = record.node or record.host or ""
        rows.append((record.trial, record.status, str(record.attempts), place, where, "\n".join(events)))
    return _cut(("trial", "status", "attempts", "failed step", "where", "what happened"), rows)


def tracebacks(run: StoredRun, most: int = 5) -> list[tuple[str, str]]:
    """Trial and traceback of the first failures; equal tracebacks are listed once.

    Args:
        run: The stored run.
        most: Most tracebacks.
    """
    # Backwards, so that the first trial with a traceback is the one that is named.
    found = {record.traceback: record.trial for record in reversed(run.trials) if record.traceback}
    # The dict is in the order of the last trials, so it is reversed too.
    return [(trial, text) for text, trial in reversed(found.items())][:most]


def _eventful(record: TrialRecord) -> bool:
    """Whether something happened to the trial that a reader should know."""
    errors = (record.error, record.audit_error, record.shared_error)
    return record.status != "complete" or record.attempts > 1 or bool(record.restarts) or any(errors)


def _cut(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A table of at most `MOST_ROWS` rows, which counts the others."""
    return Table(headings, tuple(rows[:MOST_ROWS]), left_out=max(0, len(rows) - MOST_ROWS))
