"""The files that a loss or task imports from beside itself: found in its text, without running it."""

import ast
import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from parity.ground.current_folder import current_folder
from parity.plan.python_file import python_text

# Where Python keeps what is installed; a virtual environment has the standard library of another folder.
_INSTALLED = ("site-packages", "dist-packages")
# Folders that were put on the path of imports because code of a user is in them.
ADDED: set[str] = set()
_STANDARD = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))


@dataclass(frozen=True)
class Neighbour:
    """A module's file, with the text that every worker loads.

    Attributes:
        name: Its path below the folder that it is imported from, as in "pkg/sub.py".
        path: Its absolute path on the machine of the driver.
        text: Its content.
    """

    name: str
    path: str
    text: str

    @property
    def module(self) -> str:
        """The name that it is imported by.

        >>> Neighbour("pkg/__init__.py", "/home/me/pkg/__init__.py", "").module
        'pkg'
        """
        return self.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> bool:
        """Whether other modules may be inside of it."""
        return self.name.endswith("/__init__.py")

    @property
    def root(self) -> Path:
        """The folder that it is imported from."""
        return Path(self.path).parents[self.name.count("/")]

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@functools.lru_cache(maxsize=256)
def imported_names(source: str, package: str = "") -> tuple[str, ...]:
    r"""The dotted names of what a text imports, in any of its statements, each once.

    Args:
        source: The text.
        package: The package that it is in, from which relative imports start.

    Raises:
        SyntaxError: The text is not valid Python.
        ValueError: It has a NUL.

    >>> imported_names("import a.b\nfrom c import d\nfrom . import e", "pkg")
    ('a.b', 'c', 'c.d', 'pkg', 'pkg.e')
    """
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (base := _base(node, package)):
            # A name that is imported from a package may be a module in it.
            found += [base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")]
    return tuple(dict.fromkeys(found))


def find_neighbours(source: str, folder: Path) -> tuple[Neighbour, ...]:
    """The files that the text of a file imports from its own folder or the current one, and those that they import.

    Only what is imported from there: not what the standard library, or something that is installed, has under that
    name.

    Args:
        source: The text of the file.
        folder: The folder that it is in.

    Returns:
        The files in the order of their names. A file that is not in UTF-8, or not Python, is left to the import.
    """
    return _closure(imported_names(source), folder, roots=[folder, current_folder()])


def find_module(name: str) -> tuple[Neighbour, ...]:
    """The file of a module outside of the environment, and the files that it imports from beside its package.

    Args:
        name: Its dotted name.

    Returns:
        The files in the order of their names; none for a module that is installed or ships with Python.
    """
    top = name.partition(".")[0]
    roots = _folders_of(top, None)
    return _closure((name,), None, roots=[*roots, current_folder()]) if roots else ()


def in_environment(path: Path) -> bool:
    """Whether a file belongs to the standard library, or to a package that is installed."""
    if any(part in _INSTALLED for part in path.parts):
        return True
    return any(path.is_relative_to(each) or path.resolve().is_relative_to(each) for each in _STANDARD)


def can_find(name: str, folders: Sequence[str]) -> bool:
    """Whether a module could be imported here; imports nothing.

    Args:
        name: Its dotted name.
        folders: Folders to look in after those of `sys.path`.
    """
    places: Sequence[str] | None = [*sys.path, *folders]
    so_far = ""
    for part in name.split("."):
        so_far = f"{so_far}.{part}" if so_far else part
        if so_far in sys.builtin_module_names:
            continue
        spec = PathFinder.find_spec(so_far, places) if places is not None else None
        if spec is None:
            return False
        # None for a module, which has no others inside.
        places = None if spec.submodule_search_locations is None else [*spec.submodule_search_locations]
    return True


def first_lacking(source: str, folder: Path) -> tuple[str, int] | None:
    """The first module that a text certainly imports and that cannot be found here, and its line; imports nothing.

    Args:
        source: The text of a file.
        folder: The folder that it is in.

    Returns:
        None also for a module that is imported after other code of the user has run, which may provide it.
    """
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        elif _only_defines(node):
            continue
        else:
            return None
        for top in (name.partition(".")[0] for name in names):
            if _folders_of(top, folder):
                return None
            if top in sys.modules or top in sys.builtin_module_names or can_find(top, [str(folder)]):
                continue
            # A finder of its own has what is installed to be edited.
            if not any(_find(finder, top) for finder in sys.meta_path):
                return top, node.lineno
    return None


def _only_defines(node: ast.stmt) -> bool:
    """Whether a statement is a text, or a function or class whose definition calls nothing."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return not node.decorator_list and not any(isinstance(each, ast.Call) for each in ast.walk(node.args))
    if isinstance(node, ast.ClassDef):
        called = node.decorator_list or node.keywords or any(not _is_name(base) for base in node.bases)
        return not called and all(isinstance(each, ast.Pass) or _only_defines(each) for each in node.body)
    return False


def _is_name(node: ast.expr) -> bool:
    """Whether an expression is a name, or an attribute of one."""
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and _is_name(node.value))


def _base(node: ast.ImportFrom, package: str) -> str:
    """What the names of an import statement are imported from; empty if it leads nowhere."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")[: len(package.split(".")) - node.level + 1] if package else []
    return ".".join([*parents, *([node.module] if node.module else [])]) if parents else ""


def _closure(names: Sequence[str], folder: Path | None, *, roots: Sequence[Path]) -> tuple[Neighbour, ...]:
    """The files of these modules, and of what they import, in the folders `roots`."""
    allowed = {each.resolve() for each in roots}
    found: dict[str, Neighbour] = {}
    waiting, seen = [*names], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        top = name.partition(".")[0]
        root = next((each for each in _folders_of(top, folder) if each.resolve() in allowed), None)
        for each in _files(root, name) if root else ():
            if each.module not in found:
                found[each.module] = each
                waiting += _names_in(each)
    return tuple(sorted(found.values(), key=lambda each: each.name))


def _names_in(file: Neighbour) -> Sequence[str]:
    """What a file imports; nothing where it is not valid Python, which its import will say."""
    try:
        return imported_names(file.text, file.module if file.package else file.module.rpartition(".")[0])
    except (SyntaxError, ValueError):
        return ()


def _files(root: Path, name: str) -> Iterator[Neighbour]:
    """Yields the files that Python loads to import a dotted name: `__init__.py` of each package, and the module's."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:count])
        # As Python does: a package comes before a module of that name.
        paths = (place / "__init__.py", place.with_name(f"{place.name}.py"))
        path = next((each for each in paths if each.is_file()), None)
        if path is None:
            continue  # a folder without __init__.py, or an attribute
        try:
            text = python_text(path.read_bytes())
        except (OSError, UnicodeDecodeError):
            continue
        yield Neighbour(path.relative_to(root).as_posix(), str(path), text)


def _folders_of(top: str, folder: Path | None) -> Sequence[Path]:
    """The folders outside of the environment from which a top-level module is imported; none if it is installed.

    Args:
        top: Its name.
        folder: A folder that comes after those of `sys.path`, or None.
    """
    if top in sys.stdlib_module_names or top == "parity":
        return ()
    spec = next((found for finder in sys.meta_path if (found := _find(finder, top))), None)
    if spec is None and folder is not None:
        spec = PathFinder.find_spec(top, [str(folder)])
    if spec is None:
        return ()
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    if not places and spec.origin and spec.has_location:
        places = [Path(spec.origin)]
    return [place.parent.absolute() for place in places if not in_environment(place)]


def _find(finder: Any, top: str) -> ModuleSpec | None:
    """What one of Python's finders has by that name."""
    if finder is PathFinder:
        # Not what is beside other code, which was loaded in this process before.
        return PathFinder.find_spec(top, [each for each in sys.path if each not in ADDED])
    found: ModuleSpec | None = finder.find_spec(top, None) if hasattr(finder, "find_spec") else None
    return found


def add_folder(folder: str) -> None:
    """Puts the folder of some code on the path of imports, for what it imports dynamically.

    Last, so that files in that folder never hide an installed module; but before those of other code.
    """
    if folder in ADDED:
        sys.path[:] = [each for each in sys.path if each != folder]
    elif folder in sys.path:
        return
    first = next((place for place, each in enumerate(sys.path) if each in ADDED), len(sys.path))
    sys.path.insert(first, folder)
    ADDED.add(folder)
