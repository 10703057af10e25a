"""What the corpus holds: reads the docstrings of its files, without running them or importing torch."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A loss of the corpus.

    Attributes:
        name: What it is called in its file.
        path: The file.
        kind: What is wrong with it ("scaled", "rows", ...), None for a right one.
        text: What a diagnosis must say besides ("batch size", "float16", ...), None where nothing is asked.
        source: The public bug, or where it comes from.
    """

    name: str
    path: Path
    kind: str | None
    text: str | None
    source: str


def entries(path: Path | str) -> tuple[Entry, ...]:
    """The losses of a corpus file, in its order; those of a file named `wrong_*.py` must have a cause.

    Raises:
        ValueError: A loss lacks its Source or, in a wrong file, its Cause; the message names it.
    """
    path = Path(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(_entry(name, docstring, path) for name, docstring in _documented(tree.body))


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Yields the public functions and classes, and the assignments with a string below, with their docstrings."""
    for index, statement in enumerate(body):
        if isinstance(statement, ast.FunctionDef | ast.ClassDef) and not statement.name.startswith("_"):
            yield statement.name, ast.get_docstring(statement) or ""
        elif isinstance(statement, ast.Assign) and isinstance(target := statement.targets[0], ast.Name):
            below = body[index + 1] if index + 1 < len(body) else None
            if not target.id.startswith("_") and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                yield target.id, str(below.value.value)


def _entry(name: str, docstring: str, path: Path) -> Entry:
    cause, source = _field("Cause", docstring), _field("Source", docstring)
    if source is None:
        raise ValueError(f"{path.name}:{name} has no 'Source:' in its docstring. Say where the loss comes from.")
    if not path.name.startswith("wrong_"):
        return Entry(name, path, None, None, source)
    if cause is None:
        raise ValueError(f"{path.name}:{name} has no 'Cause:' in its docstring. Say what is wrong with it.")
    kind, _, text = cause.partition(",")
    return Entry(name, path, kind.strip(), text.strip() or None, source)


def _field(label: str, docstring: str) -> str | None:
    """The text after `label:`, up to the next label, an empty line or the end."""
    following = r"(?=^\s*(?:Cause|Source):|\n\s*\n|\Z)"
    found = re.search(rf"^\s*{label}:\s*(\S.*?){following}", docstring, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else None


def cause_named(entry: Entry, causes: Sequence[tuple[str, str]]) -> bool:
    """Whether a diagnosis names the cause of a wrong loss: the kind first of all, and what its text must say.

    Args:
        entry: A wrong loss.
        causes: Kind and text, the gravest first.
    """
    if not causes:
        return False
    kind, text = causes[0]
    return kind == entry.kind and (entry.text or "").lower() in text.lower()
