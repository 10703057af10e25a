"""The seal of a complete run: run.json holds the XXH3 digest of each file and of itself.

It detects damage and careless changes, not intent: whoever can write the files can seal them again.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
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


def sealed_files(info: Mapping[str, Any]) -> Mapping[str, str]:
    """The digests of the files of a run, by name; empty if it is not sealed, or run.json has changed since.

    Args:
        info: The content of run.json.
    """
    files = info.get("files")
    return files if isinstance(files, dict) and _is_whole(info) else {}


def altered(
    info: Mapping[str, Any], directory: StoragePath, *, known: Mapping[StoragePath, str] | None = None
) -> tuple[str, ...]:
    """The files that have changed since the run was sealed; none if it is not sealed.

    Args:
        info: The content of run.json.
        directory: The run directory.
        known: Digests of files that were read already.

    Raises:
        OSError: A file cannot be read.
    """
    if "seal" not in info and "files" not in info:
        return ()
    own = () if _is_whole(info) else ("run.json",)
    files = info.get("files")
    if not isinstance(files, dict):  # removed or replaced, which the seal of run.json has found
        return own
    # By its place on the disk: links may give one file any number of names.
    digests: dict[object, str | None] = {_place(path): digest for path, digest in (known or {}).items()}
    changed = []
    for name, digest in files.items():
        path = directory / name
        place = _place(path)
        if place not in digests:
            digests[place] = _digest(path)
        if digest != digests[place]:
            changed.append(name)
    return own + tuple(changed)


def digest_with_parts(path: StoragePath, parts: Sequence[tuple[int, int]]) -> tuple[str, dict[tuple[int, int], bytes]]:
    """The digest of a file as the seal has it, and those of some of its parts; all of it is read once.

    Args:
        path: The file.
        parts: Where they begin and end, in their order; they do not overlap.

    Returns:
        The digest, and that of each part that the file has, by where it begins and ends.

    Raises:
        OSError: The file does not exist, is not a regular file, or cannot be read.
    """
    whole, part = xxhash.xxh3_128(), xxhash.xxh3_128()
    found = {}
    left = deque(parts)
    with on_disk(path) as copy:
        for begin, piece in _pieces(copy):
            whole.update(piece)
            end = begin + len(piece)
            while left and left[0][0] < end:
                place = left[0]
                part.update(piece[max(place[0] - begin, 0) : place[1] - begin])
                if place[1] > end:
                    break  # the rest of it is in the next piece
                found[left.popleft()] = part.digest()
                part.reset()
    return whole.hexdigest(), found


def _pieces(path: Path) -> Iterator[tuple[int, memoryview]]:
    """Yields the pieces of a local file after where they begin; each is valid until the next one."""
    with path.open("rb", buffering=0) as file:
        begin, size = 0, size_of_regular(path)
        # One buffer for all: new memory for each piece takes longer than its digest.
        buffer = memoryview(bytearray(min(size, PIECE_BYTES)))
        while begin < size and (count := file.readinto(buffer[: size - begin])):
            yield begin, buffer[:count]
            begin += count


def _is_whole(info: Mapping[str, Any]) -> bool:
    """Whether the seal of run.json is that of its content."""
    content = {name: value for name, value in info.items() if name != "seal"}
    return bool(info.get("seal") == _digest_of(content))


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
    return digest_with_parts(path, ())[0]
