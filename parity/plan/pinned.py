"""Loads modules from the texts that travel with a trial, whatever copies of them lie on the machine that trains it."""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib.abc
import linecache
import sys
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from parity.ground.phases import process_age_s
from parity.plan.neighbours import Neighbour
from parity.plan.python_file import python_text


class PinnedModules:
    """The modules of some files, each loaded at most once in a process.

    Two losses may each have a helper.py of their own. So modules of these names that belong to other code are put
    aside while an import of this code runs, also one inside of a function.

    Args:
        files: The files.
    """

    def __init__(self, files: Sequence[Neighbour]) -> None:
        self._files = {file.module: file for file in files}
        # Folders without __init__.py that some of the modules are in.
        self._folders = {
            ".".join(parts[:count]): str(file.root.joinpath(*parts[:count]))
            for file in files
            for parts in [file.module.split(".")]
            for count in range(1, len(parts))
            if ".".join(parts[:count]) not in self._files
        }
        self._names = (*self._files, *self._folders)
        self._modules: dict[str, types.ModuleType] = {}

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        """The module of that name, if it is one of these; as Python's import asks for it."""
        if file := self._files.get(fullname):
            spec = ModuleSpec(fullname, _Loader(self, file), origin=file.path, is_package=file.package)
            spec.has_location = True  # so that it gets its __file__
            if file.package:
                # What is imported dynamically is looked for in the folder.
                spec.submodule_search_locations = [str(Path(file.path).parent)]
            return spec
        if fullname in self._folders:
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [self._folders[fullname]]
            return spec
        return None

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Makes these the modules that are imported by their names, within the block."""
        others = {name: sys.modules.pop(name) for name in self._names if not self._own(name) and name in sys.modules}
        sys.modules.update(self._modules)
        # In front of all others: Ray puts the current folder of the driver on the path of its workers, where another
        # copy may lie.
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            self._modules = {name: sys.modules[name] for name in self._names if name in sys.modules}
            sys.modules.update(others)

    def definitions(self) -> tuple[object, ...]:
        """The functions and classes that the modules loaded so far define."""
        each = [(name, value) for name, module in self._modules.items() for value in vars(module).values()]
        return tuple(value for name, value in each if getattr(value, "__module__", None) == name)

    def builtins(self) -> dict[str, Any]:
        """What a module has to have as `__builtins__` so that each of its imports finds these modules."""
        return {**vars(builtins), "__import__": self._import}

    def _import(self, *arguments: Any, **named: Any) -> Any:
        with self.in_place():
            return builtins.__import__(*arguments, **named)

    def _own(self, name: str) -> bool:
        """Whether the module that Python has by that name is the one of these files."""
        module = sys.modules.get(name)
        if name in self._folders:
            return [*getattr(module, "__path__", ())][:1] == [self._folders[name]]
        loader = getattr(getattr(module, "__spec__", None), "loader", None)
        if isinstance(loader, _Loader):
            return loader.file == self._files[name]
        # What this process has imported from the same file itself is shared with it, since torch refuses to register
        # an operator twice.
        return getattr(module, "__file__", None) == self._files[name].path and _as_when_begun(self._files[name])


def _as_when_begun(file: Neighbour) -> bool:
    """Whether the file has the text that travelled, and has had it since this process began."""
    path = Path(file.path)
    try:
        return python_text(path.read_bytes()) == file.text and path.stat().st_mtime < time.time() - process_age_s()
    except (OSError, UnicodeDecodeError):
        return False


class _Loader(importlib.abc.Loader):
    """Loads one module from its text."""

    def __init__(self, modules: PinnedModules, file: Neighbour) -> None:
        self.file = file
        self._modules = modules

    def get_source(self, _: str) -> str:
        """The text of the module, for debuggers."""
        return self.file.text

    def exec_module(self, module: types.ModuleType) -> None:
        show_lines(self.file.path, self.file.text)
        module.__dict__["__builtins__"] = self._modules.builtins()
        exec(compile(self.file.text, self.file.path, "exec"), module.__dict__)


@functools.lru_cache(maxsize=64)
def pinned_modules(files: tuple[Neighbour, ...]) -> PinnedModules:
    """The modules of these files: the same ones for code that has equal files."""
    return PinnedModules(files)


@contextlib.contextmanager
def imports_restored() -> Iterator[None]:
    """After the block, this process imports by their names what it would have imported before it, and finds its lines.

    Modules of texts that travelled stay by their names while code runs: torch.compile and pickle look for them there.
    Triton and torch.jit compile the lines that `linecache` has.
    """
    modules, lines = {*sys.modules}, dict(linecache.cache)
    try:
        yield
    finally:
        # Among the modules may be None, and what has no variables.
        for name, module in [*sys.modules.items()]:
            if name not in modules and is_pinned(getattr(module, "__dict__", {})):
                del sys.modules[name]
        for path, entry in [*linecache.cache.items()]:
            if is_shown(path) and entry is not lines.get(path):
                del linecache.cache[path]


def is_pinned(namespace: Mapping[str, object]) -> bool:
    """Whether a module, given by its variables, was loaded from a text that travelled."""
    return isinstance(getattr(namespace.get("__spec__"), "loader", None), _Loader)


def is_shown(path: str) -> bool:
    """Whether the lines of a file are those of a text that travelled, see `show_lines`."""
    entry = linecache.cache.get(path)
    return entry is not None and len(entry) > 1 and entry[1] is None


def show_lines(path: str, source: str) -> None:
    """Lets tracebacks and debuggers show the lines of a file that may not exist here, or be another one."""
    # From this cache; without a time of modification it is not checked against the file.
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
