"""What the files of a run were when it was complete: run.json has the XXH3 of each, and one of itself."""

import json
from collections.abc import Mapping
from typing import Any

import xxhash

from parity.store.storage import StoragePath, exists, find, on_disk

PIECE_BYTES = 2**20


def seal(info: Mapping[str, Any], directory: StoragePath) -> dict[str, Any]:
    """The content of run.json with the digests.

    Args:
        info: The content without them.
        directory: Of the run, whose tables are all there.
    """
    files = {name: _digest(directory / name) for name in find(directory, ".parquet")}
    files.pop("differences.parquet", None)  # is written again by each judging, and never read
    content = {**info, "files": files}
    return content | {"seal": _digest_of(content)}


def altered(info: Mapping[str, Any], directory: StoragePath) -> tuple[str, ...]:
    """The files that are not what they were; none of a run that is not sealed.

    Args:
        info: Of run.json.
        directory: Of the run.
    """
    if "seal" not in info and "files" not in info:
        return ()
    content = {name: value for name, value in info.items() if name != "seal"}
    own = ("run.json",) if info.get("seal") != _digest_of(content) else ()
    files = info.get("files")
    if not isinstance(files, dict):
        return own
    return own + tuple(name for name, digest in files.items() if digest != _digest(directory / name))


def _digest_of(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def _digest(path: StoragePath) -> str | None:
    if not exists(path):
        return None
    digest = xxhash.xxh3_128()
    with on_disk(path) as copy, copy.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
