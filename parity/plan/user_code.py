"""The user's code behind `module:attr` and `file.py:attr`: checked without running it, and loaded for each trial."""

import ast
import copy
import functools
import hashlib
import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from parity.ground.errors import Trouble
from parity.plan.neighbours import Neighbour, add_folder, find_module, find_neighbours
from parity.plan.pinned import pinned_modules, show_lines


@dataclass(frozen=True)
class CodeSpec:
    """Where a loss or a task comes from.

    Attributes:
        name: The name that trials and reports use.
        attr: The attribute of the module or file; the shipped name of a loss or task that ships with parity.
        module: Name of the importable module, or None.
        path: Absolute path of the file, or None.
        source: Text of the file, or None. A worker on another machine runs this text and does not need the file.
        sha256: SHA-256 of the file's bytes, in hexadecimal, or None.
        files: What it imports from beside itself; for a module outside of the environment, its own file as well. They
            travel with it as `source` does.
        given: The object itself, if a Python caller gave one; it never leaves the process.
    """

    name: str
    attr: str
    module: str | None = None
    path: str | None = None
    source: str | None = None
    sha256: str | None = None
    files: tuple[Neighbour, ...] = ()
    given: object = field(default=None, compare=False, repr=False)

    @property
    def shipped(self) -> bool:
        """Whether it ships with parity or comes with the task."""
        return self.path is None and self.module is None and self.given is None

    @property
    def origin(self) -> str | None:
        """The file or module, or None if it is shipped or was given as an object."""
        return self.path or self.module

    @property
    def line(self) -> int | None:
        """The line of the file at which it is defined, from 1; None if there is no file, or that is not known."""
        return _line_of(self.source, self.attr) if self.source else None


def code_digest(*specs: CodeSpec) -> str | None:
    """One SHA-256 over all code that travels with some losses and tasks; None if none does, as for shipped ones."""
    digests = [[spec.attr, spec.sha256, [[file.name, file.sha256] for file in spec.files]] for spec in specs]
    pinned = any(spec.sha256 or spec.files for spec in specs)
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest() if pinned else None


def parse_code(text: str, *, kind: str, unknown: str) -> CodeSpec:
    """Parses `module:attr` or `file.py:attr`.

    Args:
        text: The value as given.
        kind: "loss" or "task", for messages.
        unknown: The message for a text of neither form.

    Raises:
        Trouble: The file, module or attribute does not exist, or the text has neither form.
    """
    origin, colon, attr = text.rpartition(":")
    if not colon or not origin or not attr.isidentifier():
        raise Trouble(unknown)
    return _parse_file(Path(origin), attr, kind=kind) if origin.endswith(".py") else _parse_module(origin, attr)


def load_code(spec: CodeSpec) -> object:
    """Imports the module, or runs the file's text as a new module, and returns the attribute.

    Args:
        spec: Where the code comes from.

    Returns:
        The attribute; a copy of it if it is an `nn.Module` that a Python caller gave.

    Raises:
        Trouble: The attribute does not exist.
        Exception: Whatever the user's code raises.
    """
    if spec.given is not None:  # the state of a module must not pass from one trial to the next
        return copy.deepcopy(spec.given) if hasattr(spec.given, "state_dict") else spec.given
    # Python keeps an imported module, so trials in one process share its globals; the text of a file runs again.
    with pinned_modules(spec.files).in_place():
        module = importlib.import_module(spec.module) if spec.module else _run_file(spec)
    if not hasattr(module, spec.attr):
        raise Trouble(f"{spec.origin} has no attribute {spec.attr!r}. Check the spelling.")
    return getattr(module, spec.attr)


def _parse_file(path: Path, attr: str, *, kind: str) -> CodeSpec:
    """Reads the file, so that the run trains with this text even if the file is changed meanwhile."""
    subject = f"{kind.capitalize()} file {str(path)!r}"
    try:
        # Read once: the digest has to be that of the text that runs.
        content = path.read_bytes()
        source = content.decode()
    except FileNotFoundError as error:
        raise Trouble(f"{subject} does not exist (looked in {Path.cwd()}). Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"{subject} cannot be read ({error}). Give a Python file in UTF-8.") from error
    _check_attribute(source, attr, origin=subject)
    path = path.resolve()
    return CodeSpec(
        name=attr,
        attr=attr,
        path=str(path),
        source=source,
        sha256=hashlib.sha256(content).hexdigest(),
        files=find_neighbours(source, path.parent),
    )


def _parse_module(module: str, attr: str) -> CodeSpec:
    """Looks a module up; imports its parent packages, as `find_spec` does, but not the module itself."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # the parent package is missing, or `module` is not a valid name
        found = None
    if found is None:
        raise Trouble(
            f"Module {module!r} was not found in the current folder or among the installed packages. "
            "Check the name; for a file, give path/to/file.py:attr."
        )
    if found.origin and found.origin.endswith(".py"):
        _check_attribute(Path(found.origin).read_text(encoding="utf-8"), attr, origin=f"Module {module!r}")
    return CodeSpec(name=attr, attr=attr, module=module, files=find_module(module))


def _check_attribute(source: str, attr: str, *, origin: str) -> None:
    """Raises `Trouble` if the text is not valid Python, or certainly does not define the attribute."""
    try:
        names = _names_bound_by(source)
    except SyntaxError as error:
        raise Trouble(f"{origin} is not valid Python (line {error.lineno}: {error.msg}). Correct it.") from error
    if attr not in names and "*" not in names and "__getattr__" not in names:  # these two may define anything
        public = sorted(name for name in names if not name.startswith("_"))
        raise Trouble(f"{origin} has no attribute {attr!r}. It has: {', '.join(public) or 'nothing'}.")


@functools.lru_cache(maxsize=8)
def _names_bound_by(source: str) -> frozenset[str]:
    """The names that a text binds at module level; kept, since many losses may come from one file.

    Raises:
        SyntaxError: The text is not valid Python.
    """
    return frozenset(_bound_names(ast.parse(source).body))


@functools.lru_cache(maxsize=32)
def _line_of(source: str, attr: str) -> int | None:
    """The line at which a text defines a name at module level; the last one where there are several."""
    found = None
    for statement in ast.parse(source).body:
        # A name that is bound inside of an if or try, or imported, has no line of its own.
        if attr in _bound_names([statement]):
            found = statement.lineno
    return found


def _bound_names(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yields the names that a module's statements bind at module level, and "*" for a star import."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            # What its body binds belongs to the function or class, and not to the module.
            yield statement.name
            continue
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
        # `walk` finds names that are assigned at any depth; functions, classes and imports inside of if, try, with and
        # loops are found here.
        for name in ("body", "orelse", "finalbody"):
            yield from _bound_names(getattr(statement, name, []))
        for handler in getattr(statement, "handlers", []):
            yield from _bound_names(handler.body)


def _run_file(spec: CodeSpec) -> types.ModuleType:
    """Runs the file's text as a new module, so that trials do not share its globals."""
    assert spec.path is not None and spec.source is not None
    name = f"parity_code_{spec.sha256}"
    module = types.ModuleType(name)
    module.__file__ = spec.path
    show_lines(spec.path, spec.source)
    add_folder(str(Path(spec.path).parent))
    if spec.files:
        # Also an import inside of a function, which runs later, finds them.
        module.__dict__["__builtins__"] = pinned_modules(spec.files).builtins()
    sys.modules[name] = module  # dataclasses and torch.compile look their module up there
    exec(compile(spec.source, spec.path, "exec"), module.__dict__)
    return module
