"""The causes of a difference: each kind with its sentence and with what fixes it.

A new cause is a row of `CAUSES` here, and the rule that finds it: in observe/diagnosis where one step shows it, in
judge/find_causes where only the run does.
"""

from dataclasses import dataclass, field
from typing import Literal

# Declared as a Literal, so that a type checker rejects a kind that does not exist.
CauseKind = Literal[
    "scaled",
    "sign",
    "zero",
    "offset",
    "permuted",
    "precision",
    "other loss",
    "rows",
    "columns",
    "elements",
    "nan",
    "unknown",
    "partial batch",
    "from step",
    "random",
    "mutates",
    "detached",
    "raised",
    "report",
    "grad_output",
    "contract",
    "pattern",
]


@dataclass(frozen=True)
class Cause:
    """What is wrong with a candidate.

    Attributes:
        kind: One of `CAUSES`.
        text: The cause in words, without a period.
        detail: What was found, without the words of the kind; empty where the text has nothing else.
        value: The number that belongs to it, as text; empty where none does.
        constant: What the number is, as "1/784"; empty where it has no name.
        factor: The right gradient times this is the candidate's: 2 of one that is twice too large, -1 of a wrong sign,
            0 of a zero one; None where there is no such number, or it changes from step to step.
    """

    kind: CauseKind
    text: str
    # What the text says, in parts: two causes of one text are one.
    detail: str = field(default="", compare=False)
    value: str = field(default="", compare=False)
    constant: str = field(default="", compare=False)
    factor: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class CauseMeaning:
    """What a kind of cause says, and what to do about it.

    Attributes:
        sentence: The cause in words. `{detail}` stands for what was found, `{value}` for a number, and `{part}` for the
            part of an output tree in which it was found, as in " in code", or for an empty text.
        advice: What fixes it, or None where that is not known. `{where}` stands for where the report has its tables.
        in_data: Whether the data decides which elements are wrong: such a fault may begin at a step without being
            caused by the step.
    """

    sentence: str
    advice: str | None
    in_data: bool = False

    def explain(self, *, detail: str = "", value: str = "") -> str:
        """The sentence, filled in.

        Args:
            detail: What was found, or the part of an output tree in which it was found.
            value: A number, as text.
        """
        # The space belongs to the part, so that a sentence without a part has no gap.
        return self.sentence.format(detail=detail, value=value, part=f" {detail}" if detail else "")


CAUSES: dict[CauseKind, CauseMeaning] = {
    # Found in the gradient of single steps; these are the kinds of findings.parquet.
    "scaled": CauseMeaning(
        "the gradient is scaled by {value}{part}",
        "In its backward, look for a factor that is missing, applied twice or hard-coded.",
    ),
    "sign": CauseMeaning(
        "the gradient has the wrong sign{part}", "Reverse the sign of the gradient that its backward returns."
    ),
    "zero": CauseMeaning(
        "the gradient is zero{part}", "Look for what cuts the graph, or returns zeros, in its backward."
    ),
    "offset": CauseMeaning(
        "the gradient is offset: {value} is added to each element{part}",
        "Look for a term in its backward that is added to each element.",
    ),
    "permuted": CauseMeaning(
        "the gradient is permuted: {detail}",
        "Look for a reshape, a transpose or a sort in its backward that moves elements.",
    ),
    # Also the cause of a device whose error is explained by the rounding of its matrix products.
    "precision": CauseMeaning(
        "precision of {detail}", "Look for a cast to a narrower dtype, or for a switch such as TF32, along the way."
    ),
    "other loss": CauseMeaning(
        "another loss: its gradient is that of {detail}",
        "Check which loss is meant: this one is a correct implementation of another.",
    ),
    "rows": CauseMeaning("wrong in some rows only: {detail}", "Look at how it treats those rows of the batch.", True),
    "columns": CauseMeaning("wrong in some columns only: {detail}", "Look at how it treats those columns.", True),
    "elements": CauseMeaning(
        "wrong in some elements only: {detail}",
        "Look at how it treats those elements, for instance in a clamp or a comparison.",
        True,
    ),
    "nan": CauseMeaning(
        "NaN or infinity where the baseline has numbers: {detail}",
        "Evaluate it on the batch of that step: a division by zero, a logarithm of zero or an overflow produces NaN.",
        True,
    ),
    # No advice: what to look for is not known.
    "unknown": CauseMeaning("no known pattern: {detail}", None),
    # Found in which steps are wrong.
    "partial batch": CauseMeaning(
        "wrong only on partial batches (of {value} rows)",
        "Look for a batch size that is hard-coded in the loss; take it from the output's shape instead.",
    ),
    "from step": CauseMeaning("wrong from step {value} on", "Look for state that the loss keeps between steps."),
    # Found when the loss was called.
    "random": CauseMeaning(
        "random: {detail}", "Remove the random draw from it, or give it a generator of its own with a fixed seed."
    ),
    # The whole sentence comes from the contract or from the error that ended the trial.
    "mutates": CauseMeaning("{detail}", "Work on copies: it changes the tensors that it is given."),
    "detached": CauseMeaning(
        "detached from the graph: {detail}",
        "Look for a detach(), a numpy() or a new tensor between the output and the loss: it cuts the graph.",
    ),
    "raised": CauseMeaning("{detail}", "Read its traceback {where}, under Attempts and faults."),
    # Found in the number that the loss reports, and in its contract.
    "report": CauseMeaning(
        "only the reported number is wrong; the gradient is right",
        "Correct the number that it returns; its gradient is right.",
    ),
    "grad_output": CauseMeaning("contract, grad_output: {detail}", "Multiply by grad_output in its backward."),
    "contract": CauseMeaning("contract, {detail}", "Read the reasons {where}, under Contract."),
    # Found in the sketches of both traces.
    "pattern": CauseMeaning("{detail}", "Look at what changes this between the two loops, from that step on."),
}


def make_cause(
    kind: CauseKind, *, detail: str = "", value: str = "", constant: str = "", factor: float | None = None
) -> Cause:
    """A cause with the sentence of its kind.

    Args:
        kind: One of `CAUSES`.
        detail: What was found, in words.
        value: A number, as text.
        constant: As `Cause.constant`.
        factor: As `Cause.factor`.

    >>> make_cause("scaled", value="2", detail="in code").text
    'the gradient is scaled by 2 in code'
    """
    return Cause(kind, CAUSES[kind].explain(detail=detail, value=value), detail, value, constant, factor)
