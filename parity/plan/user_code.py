"""The user's code behind `module:attr` and `file.py:attr`: checked without running it, and loaded for each trial."""

import copy
import hashlib
import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from parity.ground.current_folder import current_folder
from parity.ground.errors import Trouble
from parity.ground.spelling import did_you_mean
from parity.ground.storable import check_storable
from parity.plan.definitions import WHAT, Definitions, Kind, definitions_of
from parity.plan.neighbours import Neighbour, add_folder, find_module, find_neighbours, first_lacking
from parity.plan.pinned import pinned_modules, show_lines
from parity.plan.python_file import package_of, python_text, relative_import


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
        return definitions_of(self.source).lines.get(self.attr) if self.source else None


def code_digest(*specs: CodeSpec) -> str | None:
    """One SHA-256 over all code that travels with some losses and tasks; None if none does, as for shipped ones."""
    digests = [[spec.attr, spec.sha256, [[file.name, file.sha256] for file in spec.files]] for spec in specs]
    pinned = any(spec.sha256 or spec.files for spec in specs)
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest() if pinned else None


def parse_code(text: str, *, kind: Kind, unknown: str) -> CodeSpec:
    """Parses `module:attr` or `file.py:attr`.

    Args:
        text: The value as given.
        kind: "loss" or "task".
        unknown: The message for a text of neither form.

    Raises:
        Trouble: The file, module or attribute does not exist or can certainly not be a loss or a task, or the text has
            neither form.
    """
    origin, colon, attr = text.rpartition(":")
    if text.endswith(".py") or (origin.endswith(".py") and not attr):
        raise _attribute_missing(Path(text.removesuffix(":")), kind=kind)
    if not colon or not origin or not attr.isidentifier():
        raise Trouble(unknown)
    if origin.endswith(".py"):
        return _parse_file(Path(origin), attr, kind=kind)
    return _parse_module(origin, attr, kind=kind)


def check_imports(*specs: CodeSpec) -> None:
    """Checks that what the files of losses and tasks import can be found in this environment; imports nothing.

    Raises:
        Trouble: A module is missing, or a file imports from its own package.
    """
    for spec in {spec.path: spec for spec in specs}.values():
        if spec.path and spec.source and (line := relative_import(spec.source)):
            place = package_of(Path(spec.path))
            advice = (
                f"Give the module: {place[1]}:{spec.attr}, in the folder {place[0]}."
                if place
                else "Write the import without the dots."
            )
            raise Trouble(
                f"{spec.path} imports from its own package in line {line}, but a file that is given by its path "
                f"belongs to no package. {advice}"
            )
        if spec.path and spec.source and (lacking := first_lacking(spec.source, Path(spec.path).parent)):
            raise Trouble(
                f"{spec.path} imports {lacking[0]!r} in line {lacking[1]}, and there is no such module here. "
                "Install it, or correct the name."
            )


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


def _parse_file(path: Path, attr: str, *, kind: Kind) -> CodeSpec:
    """Reads the file, so that the run trains with this text even if the file is changed meanwhile."""
    content, source = _read_file(path, kind=kind)
    _check_attribute(source, attr, kind=kind, origin=_file(path, kind=kind), prefix=f"{path}:")
    path = path.resolve()
    return CodeSpec(
        name=attr,
        attr=attr,
        path=str(path),
        source=source,
        sha256=hashlib.sha256(content).hexdigest(),
        files=find_neighbours(source, path.parent),
    )


def _file(path: Path, *, kind: Kind) -> str:
    return f"{kind.capitalize()} file {str(path)!r}"


def _read_file(path: Path, *, kind: Kind) -> tuple[bytes, str]:
    """The content of a file, read once: its digest has to be that of the text that runs."""
    check_storable(str(path))
    try:
        content = path.read_bytes()
        return content, python_text(content)
    except FileNotFoundError as error:
        raise Trouble(
            f"{_file(path, kind=kind)} does not exist (looked in {current_folder()}). Check the path."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"{_file(path, kind=kind)} cannot be read ({error}). Give a Python file in UTF-8.") from error


def _attribute_missing(path: Path, *, kind: Kind) -> Trouble:
    """The error about a file without an attribute: what it has, if it can be read."""
    origin = _file(path, kind=kind)
    found = _definitions(_read_file(path, kind=kind)[1], origin=origin).candidates(kind)
    listed = f"It has: {', '.join(found)}." if found else f"It defines nothing that can be a {kind}."
    return Trouble(f"{origin} is given without the name of a {kind} in it. {listed} Give {path}:NAME.")


def _parse_module(module: str, attr: str, *, kind: Kind) -> CodeSpec:
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
    origin, prefix = f"Module {module!r}", f"{module}:"
    if found.has_location and (read := getattr(found.loader, "get_source", None)):
        try:
            source = read(module)  # also of one in a zip file, or in another encoding
        except (ImportError, SyntaxError, UnicodeDecodeError) as error:
            raise Trouble(f"{origin} cannot be read ({error.__cause__ or error}). Correct its file.") from error
        if source is not None:
            _check_attribute(source, attr, kind=kind, origin=origin, prefix=prefix)
    files = find_module(module)
    # As `torch.nn` is with `torch`: what it has is known, also where its text has a star import. What travels is left
    # out: its text may have changed since it was imported.
    if not files and (imported := sys.modules.get(module)):
        _check_imported(imported, attr, kind=kind, origin=origin, prefix=prefix)
    return CodeSpec(name=attr, attr=attr, module=module, files=files)


def _check_imported(module: types.ModuleType, attr: str, *, kind: Kind, origin: str, prefix: str) -> None:
    """Raises `Trouble` if a module that is imported has no such attribute, or one that certainly is no loss or task."""
    if not hasattr(module, attr):
        raise _no_attribute(origin, attr, (), dir(module), kind=kind, prefix=prefix)
    found = getattr(module, attr)
    if kind == "loss" and not callable(found):
        raise Trouble(f"{origin}: {attr} is of type {type(found).__name__}. {WHAT[kind]}")


def _definitions(source: str, *, origin: str) -> Definitions:
    """What a text defines; raises `Trouble` if it is not valid Python."""
    try:
        return definitions_of(source)
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        raise Trouble(f"{origin} is not valid Python ({line}{error.msg}). Correct it.") from error
    except ValueError as error:  # a NUL in it, before Python 3.12
        raise Trouble(f"{origin} is not valid Python ({error}). Correct it.") from error


def _check_attribute(source: str, attr: str, *, kind: Kind, origin: str, prefix: str) -> None:
    """Raises `Trouble` if the text is not valid Python, or certainly has no such loss or task."""
    found = _definitions(source, origin=origin)
    candidates = found.candidates(kind)
    if not found.may_have(attr):
        raise _no_attribute(origin, attr, candidates, candidates, kind=kind, prefix=prefix)
    if unfit := found.unfit(attr, kind):
        others = [name for name in candidates if name != attr]
        what = WHAT[kind] if not others else f"{WHAT[kind]} It has: {', '.join(others)}."
        raise Trouble(f"{origin}: {attr} is {unfit}. {what}")


def _no_attribute(
    origin: str, attr: str, candidates: Sequence[str], names: Iterable[str], *, kind: Kind, prefix: str
) -> Trouble:
    """The error about an attribute that a file or module does not have.

    Args:
        origin: The file or module, for the message.
        attr: The attribute.
        candidates: What it has that can be a loss or a task.
        names: Among what to look for a name like the attribute's.
        kind: What was looked for.
        prefix: What stands before the attribute in the value that was given.
    """
    question = did_you_mean(attr, names, written=f"{prefix}{{}}")
    listed = f" It has: {', '.join(candidates)}." if candidates else ""
    nothing = "" if listed or question else f" Give the name of a {kind} in it."
    return Trouble(f"{origin} has no attribute {attr!r}.{listed}{question}{nothing}")


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
