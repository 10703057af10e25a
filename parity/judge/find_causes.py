"""Why a candidate's loss differs: what single steps, its calls and its contract show, put together over the run.

A function of what is stored; needs neither torch nor Ray.

Letters: S steps that both traces have.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.judge.causes import CAUSES, Cause, make_cause
from parity.plan import lines
from parity.plan.named_constants import name_constant
from parity.store.tables import FINDING_KINDS, FindingKind
from parity.store.trials import TrialRecord

# Items of the contract whose failure means that equal tensors do not give equal results.
RANDOM = ("random generators", "repeatable")


@dataclass(frozen=True)
class Finding:
    """A row of findings.parquet: what fits a wrong gradient at one step.

    Attributes:
        step: Optimizer step, from 0.
        kind: The rule that fits, or "unknown".
        value: The factor of a scaled gradient or the offset that is added, else None.
        detail: More about it in words.
    """

    step: int
    kind: FindingKind
    value: float | None
    detail: str


@dataclass(frozen=True)
class LossEvidence:
    """What is known of a candidate's loss.

    Attributes:
        record: The candidate's trial.
        contract: Status and reason of each item of the contract; empty where the loss was not checked against it.
        findings: What fits its gradient, by step.
        rows: Number of rows in each step's batch; int[S].
        elements: Number of elements in each step's output; int[S].
        audited: Whether the step was audited; bool[S].
        wrong: Whether the gradient is beyond rounding, or NaN on the candidate's side only; bool[S].
        wrong_loss: Whether the number that the loss reports is beyond rounding; bool[S].
        nan: Which number is NaN on one side only, in words, or None.
        unit: u of the gradient's dtype.
        first_step: Number of the first of the S steps.
    """

    record: TrialRecord
    contract: Mapping[str, tuple[str, str]]
    findings: tuple[Finding, ...]
    rows: np.ndarray
    elements: np.ndarray
    audited: np.ndarray
    wrong: np.ndarray
    wrong_loss: np.ndarray
    nan: str | None
    unit: float = 2.0**-24
    first_step: int = 0

    def status(self, item: str) -> str | None:
        """The status of an item of the contract; None where it was not checked."""
        return self.contract[item][0] if item in self.contract else None

    def failed(self, item: str) -> bool:
        """Whether the item of the contract failed."""
        return self.status(item) == "failed"


def contract_of(contract: pa.Table, trials: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Status and reason of each item, for the first of the trials that was checked against the contract.

    Args:
        contract: Table in the columns of `tables.CONTRACT`.
        trials: Names of trials with the same loss on the same device.

    Returns:
        Status and reason by item; empty where none of the trials was checked.
    """
    for trial in trials:
        rows = contract.filter(pc.equal(contract["trial"], trial)).to_pylist()
        if rows:
            return {row["item"]: (row["status"], row["reason"]) for row in rows}
    return {}


def findings_of(findings: pa.Table, trial: str) -> tuple[Finding, ...]:
    """The findings of a trial, in the order of the steps.

    Args:
        findings: Table in the columns of `tables.FINDINGS`.
        trial: Name of the trial.
    """
    rows = findings.filter(pc.equal(findings["trial"], trial)).drop_columns("trial").sort_by("step").to_pylist()
    return tuple(Finding(**row) for row in rows)


def find_causes(evidence: LossEvidence) -> tuple[Cause, ...]:
    """What explains a candidate that diverged or failed, the gravest first; empty where nothing is wrong."""
    causes = [
        # A loss that changes its inputs falsifies everything that was computed from them afterwards.
        *_of_mutation(evidence),
        *_of_failure(evidence),
        *_of_gradient(evidence),
        *_of_report(evidence),
    ]
    causes += _of_contract(evidence, {cause.kind for cause in causes})
    kinds: dict[str, Cause] = {}
    for cause in causes:
        # Of two causes of one kind the graver one comes first, and stays.
        kinds.setdefault(cause.kind, cause)
    return tuple(kinds.values())


def _of_mutation(evidence: LossEvidence) -> list[Cause]:
    if evidence.failed("mutation"):
        return [make_cause("mutates", detail=evidence.contract["mutation"][1])]
    if evidence.record.failure == "mutates":
        return [make_cause("mutates", detail=str(evidence.record.error))]
    return []


def _of_failure(evidence: LossEvidence) -> list[Cause]:
    record = evidence.record
    if record.status != "failed" or record.failure == "mutates":
        return []
    return [make_cause("detached" if record.failure == "detached" else "raised", detail=str(record.error))]


def _of_gradient(evidence: LossEvidence) -> list[Cause]:
    """The causes of a gradient that is beyond rounding at some step of the training."""
    if not evidence.wrong.any():
        return [Cause("nan", evidence.nan, evidence.nan)] if evidence.nan else []
    what = _nature(evidence)
    when = _when(evidence, what)
    # State that a loss keeps between steps also makes it unrepeatable, so the step takes precedence over randomness. A
    # partial batch does not: which steps a random loss gets wrong is chance.
    if when and when.kind == "from step":
        return [when, what]
    random = [evidence.contract[item][1] for item in RANDOM if evidence.failed(item)]
    if random:
        return [make_cause("random", detail="; ".join(random)), what]
    return [when, what] if when else [what]


def _nature(evidence: LossEvidence) -> Cause:
    """What is wrong with the gradient where it is wrong."""
    # Only steps that both sides have can be judged.
    common = range(evidence.first_step, evidence.first_step + len(evidence.wrong))
    findings = [finding for finding in evidence.findings if finding.step in common]
    # A finding of a NaN says more than the name of the number does: it says in which elements.
    if evidence.nan and not any(finding.kind == "nan" for finding in findings[:1]):
        return Cause("nan", evidence.nan, evidence.nan)
    if not findings:
        return Cause("unknown", "no known pattern")
    # The earliest step, at which the fault has had the least time to have consequences.
    first = findings[0]
    if first.kind == "scaled":
        return _scaled(evidence, [finding for finding in findings if finding.kind == "scaled"])
    if first.kind == "unknown" or first.kind not in FINDING_KINDS:  # a later version may know more kinds
        return _unknown(evidence, first.detail)
    factor = {"sign": -1.0, "zero": 0.0}.get(first.kind)
    return make_cause(first.kind, detail=first.detail, value=f"{first.value or 0:.6g}", factor=factor)


def _unknown(evidence: LossEvidence, detail: str) -> Cause:
    # Value and gradient fit each other, but not the baseline's value: they belong to another function.
    if evidence.status("gradcheck") == "passed" and evidence.failed("value"):
        return Cause(
            "other loss",
            f"another loss: the gradient is the slope of its value, which is not the baseline's ({detail})",
        )
    return make_cause("unknown", detail=detail)


def _scaled(evidence: LossEvidence, findings: Sequence[Finding]) -> Cause:
    """A gradient that is the right one times a factor: its sign, a number, a named constant, or a changing factor."""
    factors = np.array([finding.value for finding in findings], float)
    sizes = np.abs(factors)
    # A sign that changes from step to step is a changing factor, not a wrong sign.
    negative = bool((factors < 0).all())
    # A part of the output tree is named only if it is the same at all steps.
    part = findings[0].detail if len({finding.detail for finding in findings}) == 1 else ""
    if negative and (np.abs(sizes - 1) <= lines.SAME_FACTOR.value).all():
        return make_cause("sign", detail=part, factor=-1.0)
    steps = [finding.step - evidence.first_step for finding in findings]
    # Named by size, so that a constant is recognised whatever its sign. It may change with the batch: 1/rows, for
    # example.
    name = name_constant(
        [float(size) for size in sizes],
        rows=[int(evidence.rows[step]) for step in steps],
        elements=[int(evidence.elements[step]) for step in steps],
    )
    # A narrow dtype has neither the accuracy nor the digits of the others: there, a factor wavers as `RATIO` allows.
    narrow = lines.is_narrow(evidence.unit)
    accuracy = max(lines.SAME_FACTOR.value, lines.RATIO.value * evidence.unit if narrow else 0.0)
    steady = sizes.max() - sizes.min() <= accuracy * sizes.max()
    if not (steady or name):
        changing = f"a factor that changes: {factors.min():.6g} to {factors.max():.6g}"
        return make_cause("scaled", value=changing, detail=part)
    number = f"{sizes[0]:.{3 if narrow else 7}g}"
    # A plain number, such as 2, is not followed by itself.
    constant = name if name and name != number else ""
    value = f"{number}{f', {constant}' if constant else ''}{' and has the wrong sign' if negative else ''}"
    # A factor that changes with the batch, such as 1/rows, is not one number.
    factor = float(factors[0]) if steady else None
    return make_cause("scaled", value=value, constant=constant, detail=part, factor=factor)


def _when(evidence: LossEvidence, what: Cause) -> Cause | None:
    """Which steps are wrong, if not all of them."""
    steps = np.flatnonzero(evidence.wrong)
    # A step without an audit is not known to be right.
    right = evidence.audited & ~evidence.wrong
    partial = evidence.rows < evidence.rows.max()
    if evidence.wrong[partial].any() and not evidence.wrong[~partial].any() and right[~partial].any():
        return make_cause("partial batch", value=str(evidence.rows[steps[0]]))
    # The data may not have contained such rows or elements earlier, so the step explains nothing.
    explained = CAUSES[what.kind].in_data and not _unexplained(evidence)
    after = right[steps[0] :]
    # Some earlier step must be known to be right, and nearly all later ones wrong: a few may be right by chance.
    if right[: steps[0]].any() and after.mean() < lines.RIGHT_SHARE.value and not explained:
        return make_cause("from step", value=str(evidence.first_step + steps[0]))
    return None


def _unexplained(evidence: LossEvidence) -> bool:
    """Whether it is not known what is wrong with the wrong rows, columns or elements.

    A finding names it in parentheses, as in "rows 3-4 of 256 (zero)".
    """
    first = evidence.findings[0] if evidence.findings else None
    return first is not None and first.kind in CAUSES and CAUSES[first.kind].in_data and "(" not in first.detail


def _of_report(evidence: LossEvidence) -> list[Cause]:
    """A reported number that no order of summation can explain, beside a gradient that is right."""
    # Beside a wrong gradient, a wrong number is not a cause of its own.
    if evidence.wrong.any() or evidence.record.status == "failed":
        return []
    # The contract checks value and gradient on a few rows; only a wrong value beside a right gradient is meant.
    gradient_is_right = not evidence.failed("gradient") and _off_in_contract(evidence, "loss")
    if evidence.wrong_loss.any() or (evidence.failed("value") and gradient_is_right):
        return [make_cause("report")]
    return []


def _off_in_contract(evidence: LossEvidence, what: str) -> bool:
    """Whether the reason of the contract's item "value" says that the gradient, or the loss, is off.

    The contract stores reasons as text alone.
    """
    return f"the {what} is" in evidence.contract.get("value", ("", ""))[1]


def _of_contract(evidence: LossEvidence, kinds: Collection[str]) -> list[Cause]:
    """The items of the contract that failed: one cause for all of them, grad_output apart.

    Args:
        evidence: What is known of the loss.
        kinds: The kinds of the causes that were found before, which have the reasons of some items.
    """
    ended = evidence.record.failure in ("detached", "result")
    said = {
        *(RANDOM if "random" in kinds else ()),
        *(("mutation",) if "mutates" in kinds else ()),
        *(("scalar", "gradient") if ended else ()),
    }
    failed = {item: reason for item, (status, reason) in evidence.contract.items() if status == "failed"}
    if evidence.wrong.any():  # the training shows these at full size, the contract on a few rows only
        failed = {item: reason for item, reason in failed.items() if item not in ("value", "gradcheck")}
    if "repeatable" in failed:  # the other failures follow from it
        failed = {item: reason for item, reason in failed.items() if item in (*RANDOM, "mutation")}
    failed = {item: reason for item, reason in failed.items() if item not in said}
    causes = []
    # A cause of its own, since it has advice of its own.
    if "grad_output" in failed:
        causes.append(make_cause("grad_output", detail=failed.pop("grad_output")))
    # The audited steps of the training are right, and only their batches are larger than that of the contract.
    if "value" in failed and _off_in_contract(evidence, "gradient") and evidence.audited.any():
        causes.append(Cause("partial batch", f"right in the training, wrong on a few rows: {failed['value']}"))
    if failed:
        causes.append(make_cause("contract", detail="; ".join(f"{item}: {reason}" for item, reason in failed.items())))
    return causes
