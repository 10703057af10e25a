"""safetensors: a JSON header with name, dtype, shape and place of each tensor, then their bytes.

Source:
    huggingface/safetensors, README.md, "Format".
"""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from parity.checkpoints.dtypes import DTYPES
from parity.checkpoints.tensor import Checkpoint, StoredTensor
from parity.ground.errors import Trouble
from parity.store.json_text import each_once

FORMAT = "safetensors"
_HEADER = "its header is not what a safetensors file has"
# The library refuses longer headers, too.
_LONGEST_HEADER = 100_000_000
_NAMES = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "C64": "complex64",
}


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length of a header and the header."""
    return len(head) > 8 and 2 <= int.from_bytes(head[:8], "little") <= _LONGEST_HEADER and head[8:9] == b"{"


def read(path: Path) -> Checkpoint:
    """Reads the header of a file; the bytes of its tensors are mapped into memory.

    Raises:
        Trouble: The file is damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= size - 8 else b""
    try:
        header = json.loads(text, object_pairs_hook=each_once)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"{_HEADER} ({error})") from error
    # What the user wrote beside the tensors; "format" says which library did.
    metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(each, str) for each in metadata.values()):
        raise _damaged(path, _HEADER)
    places = {name: _place(path, name, each) for name, each in header.items()}
    content = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else np.zeros(0, np.uint8)
    tensors = {}
    for name, (code, shape, (begin, end)) in places.items():
        dtype = _NAMES.get(code, code)
        width = DTYPES[dtype].size * (2 if dtype.startswith("complex") else 1) if dtype in DTYPES else None
        if not 0 <= begin <= end <= len(content):
            raise _damaged(path, f"tensor {name!r} lies beyond the end of the file, which has {size:,} bytes")
        if width and math.prod(shape) * width != end - begin:
            raise _damaged(path, f"tensor {name!r} of {dtype}{str([*shape])[:80]} has {end - begin:,} bytes")
        tensors[name] = StoredTensor(dtype, shape, partial(_part, content, begin, end))
    spans = sorted(offsets for _, _, offsets in places.values())
    if [0, *(end for _, end in spans)] != [*(begin for begin, _ in spans), len(content)]:
        raise _damaged(path, "it has bytes that belong to no tensor, or to two")
    values = {f"metadata.{key}": value for key, value in metadata.items() if key != "format"}
    return Checkpoint(str(path), FORMAT, tensors, values)


def _place(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """The dtype, the shape and the two offsets of a tensor."""
    found: dict[str, Any] = entry if isinstance(entry, dict) else {}
    code, shape, offsets = found.get("dtype"), found.get("shape"), found.get("data_offsets")
    if not isinstance(code, str) or not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise _damaged(path, f"{_HEADER}, in the entry of {name[:200]!r}")
    if all(type(each) is int and each >= 0 for each in (*shape, *offsets)):
        return code, tuple(shape), (offsets[0], offsets[1])
    raise _damaged(path, f"{_HEADER}, in the entry of {name[:200]!r}")


def _part(content: np.ndarray, begin: int, end: int) -> np.ndarray:
    return content[begin:end]


def _damaged(path: Path, what: str) -> Trouble:
    return Trouble(f"{path} is damaged: {what}. Copy it again from where it was written.")
