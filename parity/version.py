"""The version of parity, and a digest of its code: another commit may have the same version."""

import functools
import hashlib
from pathlib import Path

# Declared here and not read from the package's metadata, since a Ray job runs parity from a folder, uninstalled.
__version__ = "0.1.0"


@functools.cache
def package_sha256() -> str:
    """One SHA-256 over the Python files of this package, in hexadecimal."""
    package = Path(__file__).parent
    total = hashlib.sha256()
    # Sorted, since folders have no order; 250 files take 5 ms.
    for path in sorted(package.rglob("*.py")):
        # NUL cannot be in a path, so no other files give the same bytes.
        total.update(
            f"{path.relative_to(package).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return total.hexdigest()
