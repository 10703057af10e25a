"""Arrays in a file without a name, which several processes map instead of each having a copy."""

import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import Literal

import numpy as np

# Where each array begins in the file: at a multiple of a cache line, as Ray and NumPy place them.
ALIGNMENT = 64


@dataclass(frozen=True)
class Span:
    """Where an array lies in the file, and how its bytes are to be read.

    Attributes:
        name: Its name.
        dtype: Its dtype.
        shape: Its shape.
        order: "C" or "F": another order of the elements may give other bits.
        begin: Where its first byte is.
        objects: The array itself, if its elements are Python objects, which a file cannot share; else None.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    begin: int
    objects: np.ndarray | None = None


# What another process needs, beside the file's descriptor, to find the arrays in the file.
Layout = tuple[Span, ...]


def write_arrays(arrays: dict[str, np.ndarray]) -> tuple[int, Layout]:
    """Writes arrays to a new file that is gone once nobody has it open or mapped.

    Returns:
        The file's descriptor, which belongs to the caller, and what `map_arrays` needs.
    """
    # In memory where the system can, since a disk may be full, and there is nothing to keep.
    file = os.memfd_create("parity") if hasattr(os, "memfd_create") else _unnamed()
    spans = []
    with open(file, "wb", closefd=False) as stream:
        for name, array in arrays.items():
            order: Literal["C", "F"] = "C" if array.flags.c_contiguous or not array.flags.f_contiguous else "F"
            shared = array.size > 0 and not array.dtype.hasobject
            begin = -(-stream.tell() // ALIGNMENT) * ALIGNMENT if shared else 0
            if shared:
                stream.seek(begin)
                stream.write(array.ravel(order).view(np.uint8).data)
            objects = array if array.dtype.hasobject else None
            spans.append(Span(name, array.dtype, array.shape, order, begin, objects))
    return file, tuple(spans)


def map_arrays(file: int, layout: Layout) -> dict[str, np.ndarray]:
    """Maps the arrays of such a file; they are read-only. The descriptor may be closed afterwards."""
    size_bytes = os.fstat(file).st_size
    # An empty file cannot be mapped.
    mapped = mmap.mmap(file, size_bytes, access=mmap.ACCESS_READ) if size_bytes else b""
    return {
        span.name: np.ndarray(span.shape, span.dtype, mapped, span.begin, order=span.order)
        if span.objects is None
        else span.objects
        for span in layout
    }


def _unnamed() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
