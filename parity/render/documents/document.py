"""A report about two logs or checkpoints, before it has a format."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """What was found about one scalar or tensor.

    Attributes:
        name: Its name.
        word: "identical", "within", "differ" or "undecided".
        exit_status: 0 where it passes, 1 where it differs, 3 where there is no answer.
        message: One sentence.
        facts: Label and text of each fact.
    """

    name: str
    word: str
    exit_status: int
    message: str
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Document:
    """What a report says, in the order in which it is read.

    Attributes:
        subject: "logs" or "checkpoints".
        word: The worst of the findings.
        exit_status: Exit status of the command.
        headline: The result in one sentence.
        sides: The baseline and the candidate: label and text.
        findings: The findings that are shown one by one, the worst first.
        passed: How many more there are, in words, or "".
        notes: What was not compared, and why.
        advice: What to do next.
        content: The same for scripts, in strict JSON.
    """

    subject: str
    word: str
    exit_status: int
    headline: str
    sides: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]
    passed: str
    notes: tuple[str, ...]
    advice: tuple[str, ...]
    content: dict[str, Any]
