"""What `--loss` names, parsed and checked without importing torch or running the user's code."""

import ast
import hashlib
import importlib.util
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parity.errors import Trouble

SHIPPED = ("builtin", "numpy")


@dataclass(frozen=True)
class LossSpec:
    """One loss, as the plan knows it.

    Attributes:
        name: What trials are named by.
        attr: The name that the loss has in its module or file; the shipped name for a shipped loss.
        module: Importable module, or None.
        path: Absolute path of the file, or None.
        source: Text of the file, or None: a worker on another machine runs this, not the path.
        sha256: Of the file's bytes, in hexadecimal, or None.
    """

    name: str
    attr: str
    module: str | None = None
    path: str | None = None
    source: str | None = None
    sha256: str | None = None


def parse_losses(texts: Sequence[str]) -> tuple[LossSpec, ...]:
    """Parses the values of `--loss`; the first is the baseline.

    A loss of a module or file is named by its attribute; where two would share a name, by file or module and attribute.

    Raises:
        Trouble: A loss is unknown, its file, module or attribute is not there, or it is given twice.
    """
    specs = [_parse(text) for text in texts]
    names = Counter(spec.name for spec in specs)
    specs = [_qualified(spec) if names[spec.name] > 1 else spec for spec in specs]
    for name, count in Counter(spec.name for spec in specs).items():
        if count > 1:
            raise Trouble(f"Loss {name!r} is given {count} times. Give each once; to repeat trials, use --replicas.")
    return tuple(specs)


def _qualified(spec: LossSpec) -> LossSpec:
    origin = Path(spec.path).stem if spec.path else spec.module
    return replace(spec, name=f"{origin}.{spec.attr}") if origin else spec


def _parse(text: str) -> LossSpec:
    if text in SHIPPED:
        return LossSpec(name=text, attr=text)
    origin, colon, attr = text.rpartition(":")
    if not colon or not origin or not attr.isidentifier():
        raise Trouble(
            f"Unknown loss {text!r}. Known losses: {', '.join(SHIPPED)}; or give module:attr or file.py:attr."
        )
    if origin.endswith(".py"):
        return _parse_file(Path(origin), attr)
    return _parse_module(origin, attr)


def _parse_file(path: Path, attr: str) -> LossSpec:
    try:
        content = path.read_bytes()
        source = content.decode()
    except FileNotFoundError as error:
        raise Trouble(f"Loss file {str(path)!r} is not there (looked in {Path.cwd()}). Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"Loss file {str(path)!r} cannot be read ({error}). Give a Python file in UTF-8.") from error
    _check_attribute(source, attr, origin=f"Loss file {str(path)!r}")
    return LossSpec(
        name=attr, attr=attr, path=str(path.resolve()), source=source, sha256=hashlib.sha256(content).hexdigest()
    )


def _parse_module(module: str, attr: str) -> LossSpec:
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # the parent package is missing, or `module` is no module's name
        found = None
    if found is None:
        raise Trouble(
            f"Module {module!r} is not found. Python looks in the current folder and in what is installed; "
            "for a file, give path/to/file.py:attr."
        )
    if found.origin and found.origin.endswith(".py"):
        _check_attribute(Path(found.origin).read_text(encoding="utf-8"), attr, origin=f"Module {module!r}")
    return LossSpec(name=attr, attr=attr, module=module)


def _check_attribute(source: str, attr: str, *, origin: str) -> None:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise Trouble(f"{origin} is not valid Python (line {error.lineno}: {error.msg}). Correct it.") from error
    names = set(_bound_names(tree.body))
    if attr not in names and "*" not in names and "__getattr__" not in names:
        public = sorted(name for name in names if not name.startswith("_"))
        raise Trouble(f"{origin} has no attribute {attr!r}. It has: {', '.join(public) or 'nothing'}.")


def _bound_names(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yields the names that a module's statements bind, "*" for a star import; not those inside functions."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
            continue
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
        for field in ("body", "orelse", "finalbody"):
            yield from _bound_names(getattr(statement, field, []))
        for handler in getattr(statement, "handlers", []):
            yield from _bound_names(handler.body)
