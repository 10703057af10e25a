"""The seal of a complete run: run.json holds the XXH3 digest of each file and of itself.

It detects damage and careless changes, not intent: whoever can write the files can seal them again.
"""

import json
from collections.abc import Mapping
from typing import Any

import xxhash

from parity.store.storage import StoragePath, exists, find, on_disk

# Files are read in pieces of this size; a table may be larger than memory.
PIECE_BYTES = 2**20


def seal(info: Mapping[str, Any], directory: StoragePath) -> dict[str, Any]:
    """The content of run.json with the digests.

    Args:
        info: The content without them.
        directory: The run directory, with all its tables.

    Raises:
        OSError: A file cannot be read.
    """
    files = {name: _digest(directory / name) for name in find(directory, ".parquet")}
    files.pop("differences.parquet", None)  # written again by each judging, and never read
    content = {**info, "files": files}
    # The seal covers all other values, so that a change of any of them is detected.
    return content | {"seal": _digest_of(content)}


def altered(info: Mapping[str, Any], directory: StoragePath) -> tuple[str, ...]:
    """The files that have changed since the run was sealed; none if it is not sealed.

    Args:
        info: The content of run.json.
        directory: The run directory.

    Raises:
        OSError: A file cannot be read.
    """
    if "seal" not in info and "files" not in info:
        return ()
    content = {name: value for name, value in info.items() if name != "seal"}
    own = ("run.json",) if info.get("seal") != _digest_of(content) else ()
    files = info.get("files")
    if not isinstance(files, dict):  # removed or replaced, which the seal of run.json has found
        return own
    return own + tuple(name for name, digest in files.items() if digest != _digest(directory / name))


def _digest_of(content: Mapping[str, Any]) -> str:
    # Sorted, so that only the values count, and not the order in which a program wrote them.
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def _digest(path: StoragePath) -> str | None:
    """The digest of a file; None if it does not exist."""
    if not exists(path):
        return None
    digest = xxhash.xxh3_128()
    with on_disk(path) as copy, copy.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
