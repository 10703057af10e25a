"""The code that a pair is about: the line that raised, or the definition of the candidate's loss.

The code itself is no part of a run. It is quoted where the file is still there, with the digest that the run stored.
"""

import ast
import hashlib
import textwrap
from dataclasses import dataclass
from pathlib import Path

from parity.judge.verdict import PairVerdict
from parity.render.user_error import relative_path, user_error
from parity.store.trials import TrialRecord

# Most lines of a quotation, and the lines before the one that raised.
_MOST_LINES, _BEFORE = 16, 3
# Most bytes of a file that is read for a quotation.
_MOST_BYTES = 2_000_000
# Quantities that the backward of a loss computes.
_OF_BACKWARD = ("output_grad", "target_grad")


@dataclass(frozen=True)
class Source:
    """A place in the user's code.

    Attributes:
        file: The file, relative to the folder of the run where it is inside.
        line: The line that raised, or at which the definition begins; None where it is not known.
        function: The name of what is defined or raised there, or None.
        lines: The quoted lines with their numbers; empty where the file has changed since the run, or is not there.
        marked: The line that raised, or None.
    """

    file: str
    line: int | None
    function: str | None
    lines: tuple[tuple[int, str], ...]
    marked: int | None = None

    @property
    def place(self) -> str:
        """File and line, as editors and terminals read them."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


def find_source(verdict: PairVerdict, folder: str | None) -> Source | None:
    """The code of a pair of losses, or the line that raised; None where no file is known.

    Args:
        verdict: The pair and its verdict.
        folder: The folder that the run was started in, or None.
    """
    record = verdict.pair.candidate
    raised = _raised(record, folder)
    if raised:
        return raised
    # Of two devices both have the same code.
    if not record.loss_origin or verdict.pair.axis != "loss" or verdict.meaning.passing:
        return None
    if not record.loss_origin.endswith(".py"):
        return Source(record.loss_origin, None, record.loss_name, ())
    text = _unchanged(record)
    backward = verdict.onset is not None and verdict.onset.quantity in _OF_BACKWARD
    found = _definition(text, record.loss_name, backward=backward) if text else None
    if text is None or found is None:
        return Source(relative_path(record.loss_origin, folder), record.loss_line, record.loss_name, ())
    name, first, last = found
    quoted = _quoted(text, first, min(last, first + _MOST_LINES - 1))
    return Source(relative_path(record.loss_origin, folder), first, name, quoted)


def _raised(record: TrialRecord, folder: str | None) -> Source | None:
    """The last line of the user's code in the traceback, which the advice names too."""
    error = user_error(record, folder)
    if error is None or not error.own or not error.frames:
        return None
    frame = error.frames[-1]
    lines: tuple[tuple[int, str], ...] = ()
    if record.loss_origin and frame.file == relative_path(record.loss_origin, folder) and (text := _unchanged(record)):
        lines = _quoted(text, max(1, frame.line - _BEFORE), frame.line + 1)
    return Source(frame.file, frame.line, frame.function, lines, marked=frame.line)


def _quoted(text: str, first: int, last: int) -> tuple[tuple[int, str], ...]:
    """Lines with their numbers, without the indentation that all have."""
    lines = textwrap.dedent("\n".join(text.splitlines()[first - 1 : last])).split("\n")
    return tuple(enumerate(lines, start=first))


def _unchanged(record: TrialRecord) -> str | None:
    """The text of the loss's file; None where it is not there, or not the one that was trained with."""
    path = Path(record.loss_origin or "")
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        content = path.read_bytes()
        # A page may be made long after the run, and on another machine.
        return content.decode("utf-8-sig") if hashlib.sha256(content).hexdigest() == record.loss_sha256 else None
    except (OSError, ValueError):  # not readable, or no text: the page does without
        return None


def _definition(text: str, name: str, *, backward: bool) -> tuple[str, int, int] | None:
    """Name, first and last line of the definition of a loss; None where there is none with this name.

    Args:
        text: The text of its file.
        name: Its name.
        backward: Whether the backward of a class is meant, and not its forward.
    """
    try:
        nodes = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return None
    for node in nodes:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            wanted = "backward" if backward else "forward"
            inner = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == wanted]
            shown = inner[0] if inner else node
            label = f"{name}.{wanted}" if inner else name
            return label, shown.lineno, shown.end_lineno or shown.lineno
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return name, node.lineno, node.end_lineno or node.lineno
    return None
