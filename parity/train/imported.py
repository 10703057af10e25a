"""The files that this process has imported from outside of the environment, which may differ between two machines."""

import functools
import hashlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from parity.plan.neighbours import in_environment
from parity.plan.pinned import is_pinned, is_shown

# Modules that are installed, by their names: thousands, of which no trial needs to look at each again.
_INSTALLED: dict[str, ModuleType] = {}


def imported_files(error: BaseException | None = None) -> list[str]:
    """SHA-256 and name of each file, as sha256sum prints them, in the order of the names.

    Without what is installed or ships with Python, parity, and the code that travels with a trial.

    Args:
        error: The error that ended the trial, or None. Python forgets a module whose import raises, and that file may
            be the one that is different on this machine.

    Returns:
        Lines as "…  pkg/sub.py": the name is the path below the folder that the module was imported from, which is
        another one on another machine.
    """
    found = {}
    for name, file in [*_in_memory(), *_raised_in(error)]:
        top = name.partition(".")[0]
        if not isinstance(file, str) or top in ("__main__", "parity") or top.startswith("parity_code_"):
            continue
        if _installed(file):
            continue
        path, short = _placed(name, file)
        # A file that has been removed since is not known any longer.
        with suppress(OSError):
            stat = path.stat()
            found[short] = f"{_sha256(file, stat.st_mtime_ns, stat.st_size)}  {short}"
    return [found[name] for name in sorted(found)]


def _in_memory() -> Iterator[tuple[str, object]]:
    """Yields the name and the file of each module that is not installed and has not travelled with a trial."""
    # A copy, since a loss may have threads that import.
    others = [(name, module) for name, module in [*sys.modules.items()] if _INSTALLED.get(name) is not module]
    for name, module in others:
        if not isinstance(module, ModuleType):
            continue
        # `vars`, since a module may do something when an attribute is asked for; some that torch makes have no file.
        values = vars(module)
        file = values.get("__file__")
        if not isinstance(file, str):
            continue
        if _installed(file):
            _INSTALLED[name] = module
        elif not is_pinned(values):
            yield name, file


def _raised_in(error: BaseException | None) -> Iterator[tuple[str, object]]:
    """Yields the name and the file of each module whose import raised an error or one of its causes."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            # Only the code of a module itself, not a function that was called while a module was imported.
            values = frame.f_globals
            if (
                frame.f_code.co_name == "<module>"
                and values.get("__name__") not in sys.modules
                and not is_pinned(values)
            ):
                yield str(values.get("__name__")), values.get("__file__")
        # A file that Python cannot parse has no frame.
        if isinstance(error, SyntaxError) and error.filename and not is_shown(error.filename):
            path = Path(error.filename)
            folders = [Path(folder) for folder in sys.path if path.is_relative_to(folder)]
            short = path.relative_to(max(folders, key=lambda folder: len(folder.parts))) if folders else Path(path.name)
            yield ".".join(short.with_suffix("").parts).removesuffix(".__init__"), error.filename
        error = error.__cause__ or error.__context__


@functools.cache
def _installed(file: str) -> bool:
    return in_environment(Path(file))


@functools.lru_cache(maxsize=1024)
def _placed(name: str, file: str) -> tuple[Path, str]:
    """The path of a module's file, and its path below the folder that the module was imported from."""
    path, parts = Path(file), name.split(".")
    return path, "/".join([*(parts if path.stem == "__init__" else parts[:-1]), path.name])


@functools.lru_cache(maxsize=1024)
def _sha256(file: str, mtime_ns: int, size_bytes: int) -> str:  # noqa: ARG001 - a changed file is read again
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
