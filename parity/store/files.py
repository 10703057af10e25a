"""Writes text and JSON files, each whole or not at all."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from parity.ground.errors import Trouble
from parity.store import storage
from parity.store.storage import StoragePath


def write_json(path: StoragePath, content: Mapping[str, Any]) -> None:
    """Writes strict JSON, whole or not at all; replaces an existing file.

    Args:
        path: The file.
        content: What `json` can encode, with finite numbers only.

    Raises:
        ValueError: A number is not finite.
        Trouble: The file cannot be written.
    """
    # NaN and Infinity, which `json` would write, are not JSON: callers store such numbers as strings.
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: StoragePath, text: str) -> None:
    """Writes text in UTF-8, whole or not at all; replaces an existing file.

    Raises:
        Trouble: The file cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: StoragePath, content: bytes | pa.Buffer) -> None:
    """Writes bytes, whole or not at all; replaces an existing file.

    Raises:
        Trouble: The file cannot be written.
    """
    with writing(path):
        storage.write_whole(path, content)


@contextlib.contextmanager
def writing(path: StoragePath) -> Iterator[None]:
    """Turns an OSError of the block into the `Trouble` that the file cannot be written.

    Raises:
        Trouble: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        # The bare reason, since the whole text of the error would name the hidden file that is written beside the path.
        raise Trouble(
            f"{path} cannot be written ({error.strerror or error}). What was written before is kept."
        ) from error
