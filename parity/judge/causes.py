"""Why a candidate's loss differs, in words: what was found at single steps, put together over the run.

A function of what is stored; needs neither torch nor Ray.

Letters: S steps that both traces have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.plan import lines
from parity.plan.named_constants import name_constant
from parity.store.trials import TrialRecord

# Findings whose places in the tensor come from the data: such a fault may begin when the data brings it about.
PLACED = ("rows", "columns", "elements", "nan")
# Items of the contract that say that equal tensors do not give equal results.
RANDOM = ("random generators", "repeatable")


@dataclass(frozen=True)
class Cause:
    """What is wrong.

    Attributes:
        kind: scaled, sign, zero, offset, permuted, precision, other loss, rows, columns, elements, nan, partial batch,
            from step, random, mutates, detached, grad_output, report, contract, raised or unknown.
        text: In words.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Finding:
    """A row of findings.parquet."""

    step: int
    kind: str
    value: float | None
    detail: str


@dataclass(frozen=True)
class Evidence:
    """What is known of a candidate's loss.

    Attributes:
        record: Of its trial.
        contract: Item -> (status, reason); empty where the loss was not held to it.
        findings: Of its gradient, by step.
        rows: Of each step's batch; int[S].
        elements: Of each step's output; int[S].
        audited: bool[S].
        wrong: Whether the gradient is beyond rounding, or NaN on the candidate's side only; bool[S].
        wrong_loss: Whether the loss's number is; bool[S].
        nan: That there is a NaN on one side only, in words, or None.
    """

    record: TrialRecord
    contract: dict[str, tuple[str, str]]
    findings: tuple[Finding, ...]
    rows: np.ndarray
    elements: np.ndarray
    audited: np.ndarray
    wrong: np.ndarray
    wrong_loss: np.ndarray
    nan: str | None

    def failed(self, item: str) -> bool:
        """Whether the item of the contract failed."""
        return self.contract.get(item, ("", ""))[0] == "failed"


def contract_of(contract: pa.Table, trials: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Item -> (status, reason) of the first of the trials that was held to the contract."""
    for trial in trials:
        rows = contract.filter(pc.equal(contract["trial"], trial)).to_pylist()
        if rows:
            return {row["item"]: (row["status"], row["reason"]) for row in rows}
    return {}


def findings_of(findings: pa.Table, trial: str) -> tuple[Finding, ...]:
    """The findings of a trial, by step."""
    rows = findings.filter(pc.equal(findings["trial"], trial)).drop_columns("trial").sort_by("step").to_pylist()
    return tuple(Finding(**row) for row in rows)


def find_causes(evidence: Evidence) -> tuple[Cause, ...]:
    """What explains a candidate that diverged or failed, the gravest first; empty where nothing is wrong."""
    causes = [
        *_of_mutation(evidence),
        *_of_failure(evidence),
        *_of_gradient(evidence),
        *_of_report(evidence),
        *_of_contract(evidence),
    ]
    kinds: dict[str, Cause] = {}
    for cause in causes:
        kinds.setdefault(cause.kind, cause)
    return tuple(kinds.values())


def _of_mutation(evidence: Evidence) -> list[Cause]:
    if evidence.failed("mutation"):
        return [Cause("mutates", evidence.contract["mutation"][1])]
    if evidence.record.failure == "mutates":
        return [Cause("mutates", str(evidence.record.error))]
    return []


def _of_failure(evidence: Evidence) -> list[Cause]:
    record = evidence.record
    if record.status != "failed" or record.failure == "mutates":
        return []
    if record.failure == "detached":
        return [Cause("detached", f"detached from the graph: {record.error}")]
    return [Cause("raised", str(record.error))]


def _of_gradient(evidence: Evidence) -> list[Cause]:
    """Of a gradient that is beyond rounding at some step of the training."""
    if not evidence.wrong.any():
        return [Cause("nan", evidence.nan)] if evidence.nan else []
    what = _nature(evidence)
    random = [item for item in RANDOM if evidence.failed(item)]
    when = _when(evidence, what)
    if when and when.kind == "from step":
        return [when, what]
    if random:
        told = "; ".join(evidence.contract[item][1] for item in random)
        return [Cause("random", f"random: {told}"), what]
    return [when, what] if when else [what]


def _nature(evidence: Evidence) -> Cause:
    """What is wrong with the gradient where it is wrong."""
    findings = [finding for finding in evidence.findings if finding.step < len(evidence.wrong)]
    if evidence.nan and not any(finding.kind == "nan" for finding in findings[:1]):
        return Cause("nan", evidence.nan)
    if not findings:
        return Cause("unknown", "no known pattern")
    kind = findings[0].kind
    alike = [finding for finding in findings if finding.kind == kind]
    if kind == "scaled":
        return _scaled(evidence, alike)
    detail = findings[0].detail
    return {
        "zero": Cause("zero", "the gradient is zero"),
        "nan": Cause("nan", f"NaN or infinity where the baseline has numbers: {detail}"),
        "offset": Cause("offset", f"the gradient is offset: {findings[0].value or 0:.6g} is added to each element"),
        "permuted": Cause("permuted", f"the gradient is permuted: {detail}"),
        "precision": Cause("precision", f"precision of {detail}"),
        "other loss": Cause("other loss", f"another loss: its gradient is that of {detail}"),
        "rows": Cause("rows", f"wrong in some rows only: {detail}"),
        "columns": Cause("columns", f"wrong in some columns only: {detail}"),
        "elements": Cause("elements", f"wrong in some elements only: {detail}"),
    }.get(kind) or _unknown(evidence, detail)


def _unknown(evidence: Evidence, detail: str) -> Cause:
    slope = evidence.contract.get("gradcheck", ("", ""))[0] == "passed"
    if slope and evidence.failed("value"):
        return Cause(
            "other loss",
            f"another loss: the gradient is the slope of its value, which is not the baseline's ({detail})",
        )
    return Cause("unknown", f"no known pattern: {detail}")


def _scaled(evidence: Evidence, findings: Sequence[Finding]) -> Cause:
    factors = np.array([finding.value for finding in findings], float)
    sizes = np.abs(factors)
    if (np.abs(sizes - 1) <= 1e-6).all() and (factors < 0).all():
        return Cause("sign", "the gradient has the wrong sign")
    steps = [finding.step for finding in findings]
    name = name_constant(
        [float(size) for size in sizes],
        rows=[int(evidence.rows[step]) for step in steps],
        elements=[int(evidence.elements[step]) for step in steps],
    )
    sign = " and has the wrong sign" if (factors < 0).all() else ""
    if sizes.max() - sizes.min() <= 1e-6 * sizes.max() or name:
        number = f"{sizes[0]:.7g}"
        named = f"{number}, {name}" if name and name != number else number
        return Cause("scaled", f"the gradient is scaled by {named}{sign}")
    return Cause(
        "scaled", f"the gradient is scaled by a factor that changes: {factors.min():.6g} to {factors.max():.6g}"
    )


def _when(evidence: Evidence, what: Cause) -> Cause | None:
    """Where the wrong steps are, if not everywhere."""
    steps = np.flatnonzero(evidence.wrong)
    right = evidence.audited & ~evidence.wrong
    partial = evidence.rows < evidence.rows.max()
    if evidence.wrong[partial].any() and not evidence.wrong[~partial].any() and right[~partial].any():
        return Cause("partial batch", f"wrong only on partial batches (of {evidence.rows[steps[0]]} rows)")
    explained = what.kind in PLACED and not _unexplained(evidence)
    after = right[steps[0] :]
    if right[: steps[0]].any() and after.mean() < lines.RIGHT_SHARE.value and not explained:
        return Cause("from step", f"wrong from step {steps[0]} on")
    return None


def _unexplained(evidence: Evidence) -> bool:
    """Whether it is not known what is wrong with the wrong rows, columns or elements."""
    return bool(evidence.findings) and evidence.findings[0].kind in PLACED and "(" not in evidence.findings[0].detail


def _of_report(evidence: Evidence) -> list[Cause]:
    """Of a reported number that is beyond any order of summation, beside a gradient that is right."""
    if evidence.wrong.any() or evidence.record.status == "failed":
        return []
    gradient_is_right = not evidence.failed("gradient") and "the loss is" in evidence.contract.get("value", ("", ""))[1]
    if evidence.wrong_loss.any() or (evidence.failed("value") and gradient_is_right):
        return [Cause("report", "only the reported number is wrong; the gradient is right")]
    return []


def _of_contract(evidence: Evidence) -> list[Cause]:
    """Of the items that failed: one cause for all of them, grad_output apart."""
    failed = {item: reason for item, (status, reason) in evidence.contract.items() if status == "failed"}
    if evidence.wrong.any():  # what the training shows at full size need not be told of a few rows
        failed = {item: reason for item, reason in failed.items() if item not in ("value", "gradcheck")}
    if "repeatable" in failed:  # what else is off follows from it
        failed = {item: reason for item, reason in failed.items() if item in (*RANDOM, "mutation")}
    causes = []
    if "grad_output" in failed:
        causes.append(Cause("grad_output", f"contract, grad_output: {failed.pop('grad_output')}"))
    if "value" in failed and "the gradient is" in failed["value"] and evidence.audited.any():
        causes.append(Cause("partial batch", f"right in the training, wrong on a few rows: {failed['value']}"))
    if failed:
        told = "; ".join(f"{item}: {reason}" for item, reason in failed.items())
        causes.append(Cause("contract", f"contract, {told}"))
    return causes
