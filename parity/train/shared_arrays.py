"""Arrays in a file without a name, which several processes map instead of each having a copy."""

import mmap
import os
import pickle
import tempfile
from dataclasses import dataclass

import numpy as np

# Where each array begins in the file: at a multiple of a cache line, as Ray and NumPy place them.
ALIGNMENT = 64


@dataclass(frozen=True)
class Layout:
    """What another process needs, beside the file's descriptor, to find the arrays in the file.

    Attributes:
        pickled: The arrays without their bytes.
        spans: Where the bytes of each array begin and end.
    """

    pickled: bytes
    spans: tuple[tuple[int, int], ...]


def write_arrays(arrays: dict[str, np.ndarray]) -> tuple[int, Layout]:
    """Writes arrays to a new file that is gone once nobody has it open or mapped.

    Returns:
        The file's descriptor, which belongs to the caller, and what `map_arrays` needs.
    """
    # In memory where the system can, since a disk may be full, and there is nothing to keep.
    file = os.memfd_create("parity") if hasattr(os, "memfd_create") else _unnamed()
    buffers: list[pickle.PickleBuffer] = []
    # Protocol 5 leaves the bytes to us, and remembers how they are ordered: C and Fortran order may give other bits.
    pickled = pickle.dumps(arrays, protocol=5, buffer_callback=buffers.append)
    spans = []
    with open(file, "wb", closefd=False) as stream:
        for buffer in buffers:
            begin = -(-stream.tell() // ALIGNMENT) * ALIGNMENT
            stream.seek(begin)
            stream.write(buffer.raw())
            spans.append((begin, stream.tell()))
    return file, Layout(pickled, tuple(spans))


def map_arrays(file: int, layout: Layout) -> dict[str, np.ndarray]:
    """Maps the arrays of such a file; they are read-only. The descriptor may be closed afterwards."""
    size_bytes = os.fstat(file).st_size
    # An empty file cannot be mapped.
    mapped = memoryview(mmap.mmap(file, size_bytes, access=mmap.ACCESS_READ) if size_bytes else b"")
    buffers = [mapped[begin:end] for begin, end in layout.spans]
    arrays: dict[str, np.ndarray] = pickle.loads(layout.pickled, buffers=buffers)  # noqa: S301 - from our own parent
    return arrays


def _unnamed() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
