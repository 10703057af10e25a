"""The seal of a complete run: run.json holds the XXH3 digest of each file and of itself.

It detects damage and careless changes, not intent: whoever can write the files can seal them again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from parity.store.regular import size_of_regular
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
    # By its place on the disk: links may give one file any number of names.
    digests: dict[object, str | None] = {}
    changed = []
    for name, digest in files.items():
        path = directory / name
        place = _place(path)
        if place not in digests:
            digests[place] = _digest(path)
        if digest != digests[place]:
            changed.append(name)
    return own + tuple(changed)


def _digest_of(content: Mapping[str, Any]) -> str:
    # Sorted, so that only the values count, and not the order in which a program wrote them.
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def _place(path: StoragePath) -> object:
    """What two paths share that lead to the same local file."""
    if not (isinstance(path, Path) and path.exists()):
        return path
    found = path.stat()
    return found.st_dev, found.st_ino


def _digest(path: StoragePath) -> str | None:
    """The digest of a file; None if it does not exist or is not a regular file."""
    if not exists(path) or (isinstance(path, Path) and not path.is_file()):
        return None
    digest = xxhash.xxh3_128()
    with on_disk(path) as copy, copy.open("rb") as file:
        left = size_of_regular(copy)
        while left and (piece := file.read(min(left, PIECE_BYTES))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()
