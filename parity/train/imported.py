"""The files that this process has imported from outside of the environment, which may differ between two machines."""

import functools
import hashlib
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from parity.plan.neighbours import in_environment
from parity.plan.pinned import is_pinned


def imported_files() -> list[str]:
    """SHA-256 and name of each file, as sha256sum prints them, in the order of the names.

    Without what is installed or ships with Python, parity, and the code that travels with a trial.

    Returns:
        Lines as "…  pkg/sub.py": the name is the path below the folder that the module was imported from, which is
        another one on another machine.
    """
    found = {}
    # A copy, since a loss may have threads that import.
    for name, module in [*sys.modules.items()]:
        top = name.partition(".")[0]
        # `vars`, since a module may do something when an attribute is asked for; some that torch makes have no file.
        file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if not isinstance(file, str) or top in ("__main__", "parity") or top.startswith("parity_code_"):
            continue
        if is_pinned(module) or _installed(file):
            continue
        path = Path(file)
        parts = name.split(".")
        short = "/".join([*(parts if path.stem == "__init__" else parts[:-1]), path.name])
        # A file that has been removed since is not known any longer.
        with suppress(OSError):
            stat = path.stat()
            found[short] = f"{_sha256(file, stat.st_mtime_ns, stat.st_size)}  {short}"
    return [found[name] for name in sorted(found)]


@functools.cache
def _installed(file: str) -> bool:
    return in_environment(Path(file))


@functools.lru_cache(maxsize=1024)
def _sha256(file: str, mtime_ns: int, size_bytes: int) -> str:  # noqa: ARG001 - a changed file is read again
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
