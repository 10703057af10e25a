"""A checkpoint, as every reader returns it: named tensors, whose bytes are read when needed, and plain values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint.

    Attributes:
        dtype: Name of its dtype, as torch calls it, without "torch.".
        shape: Its shape.
        read: Returns its bytes, uint8[N]; a view of the file where that is possible.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Unread:
    """A file of a folder that is compared by its bytes only.

    Attributes:
        path: The file.
        why: Why it is not read, in words.
        state: Whether it may hold state of the training. If not, other bytes of it are said and decide nothing.
    """

    path: Path
    why: str
    state: bool = True


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file or folder.

    Attributes:
        path: The file or folder, as it was given.
        format: Name of the format that was detected.
        tensors: By name, in the order of the file; of nested dictionaries the keys are joined by dots.
        values: Numbers, texts and the like, by name.
        tied: Names of tensors that share their memory with an earlier one: its name.
        notes: What a reader should know.
        unread: Files that are not read, by their path in the folder.
    """

    path: str
    format: str
    tensors: Mapping[str, StoredTensor]
    values: Mapping[str, object] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unread: Mapping[str, Unread] = field(default_factory=dict)
