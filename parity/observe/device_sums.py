"""Digests, sketches and norms that are computed where the tensors are: what `word_kernels` is launched with.

Letters: T tensors, B blocks of 8192 elements.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from parity.observe.signs import BLOCK, BLOCKS, ELEMENT, MOST_SIGNS, REST, SUMS, make_signs
from parity.observe.word_sums import BLOCK_WORDS, place_weights, word_sum

# Types of devices on which the kernels run: CUDA and ROCm. Others are copied to the host and digested there.
WITH_KERNELS = {"cuda"}
# Numbers of 64 bits of a tensor: the sum of its words, the sums of its sketch and that of its squares, in float64.
NUMBERS = 2 + SUMS
# The same, a counter of the blocks of which they are done, and one that fills them up to a multiple of 16 bytes: Triton
# compiles a kernel anew for an address that is none.
COUNTED = NUMBERS + 2
# The names that Triton has for the dtypes whose elements it sums.
_SUMMED = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.int16: "int16",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.bool: "uint8",
}
_WARPS = 4
_NO_CONTEXT = contextlib.nullcontext()
# Tables of a set of tensors that are kept: gradients are new ones in each step, in memory that mostly was used before.
_MOST_TABLES = 8


def on_device(tensor: torch.Tensor, *, summed: bool = True) -> bool:
    """Whether the kernels digest this tensor, and sum it if that is wanted; the host digests all others."""
    device = tensor.device
    if device.type not in WITH_KERNELS or (summed and tensor.dtype not in _SUMMED):
        return False
    return _kernels_run(device)


@functools.cache
def _kernels_run(device: torch.device) -> bool:
    """Whether the kernels can be compiled here, and give what the host gives; says so once where they do not."""
    numbers = np.arange(3 * BLOCK // 2, dtype=np.float32)
    out = torch.zeros((1, COUNTED), dtype=torch.int64, device=device)
    try:
        given = [torch.from_numpy(numbers).to(device)]
        TensorSums(layout_of(device, kinds_of(given)), summed=True).take(given, out)
        found, square = int(out[0, 0]) % 2**64, float(out[0, 1:NUMBERS].view(torch.float64)[SUMS])
        expected = float(np.square(numbers, dtype=np.float64).sum())
        why = None if found == word_sum(numbers) else f"it gives {found:016x}, not {word_sum(numbers):016x}"
        if not why and not math.isclose(square, expected, rel_tol=1e-5):
            why = f"it gives a sum of squares of {square:.6g}, not {expected:.6g}"
    except Exception as error:  # noqa: BLE001 - no Triton, no C compiler, a GPU that it does not know: all are the same
        why = f"{type(error).__name__}: {error}".splitlines()[0]
    if why:
        warnings.warn(
            f"parity: {device} does not compute digests itself ({why}). Its tensors are copied to the host in each "
            "step instead, which gives the same digests and takes longer.",
            RuntimeWarning,
            stacklevel=2,
        )
    return why is None


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the blocks of T tensors are.

    Attributes:
        device: The device of the tensors.
        kinds: The dtype of each tensor, and its number of elements.
        begins: Where the blocks of each tensor begin, and where those of the last one end; int64[T + 1].
        on_device: The same there.
        sizes: The number of elements of each tensor, there; int64[T].
        groups: For each dtype its blocks, int32[B, 2]: the tensor of each, and its number in it.
    """

    device: torch.device
    kinds: tuple[tuple[torch.dtype, int], ...]
    begins: np.ndarray
    on_device: torch.Tensor
    sizes: torch.Tensor
    groups: list[tuple[torch.dtype, torch.Tensor]]

    @functools.cached_property
    def blocks(self) -> int:
        """Number of blocks of all tensors."""
        return int(self.begins[-1])


@functools.lru_cache(maxsize=64)
def layout_of(device: torch.device, kinds: tuple[tuple[torch.dtype, int], ...]) -> Layout:
    """The layout of tensors of these dtypes and numbers of elements."""
    dtypes = [dtype for dtype, _ in kinds]
    sizes = np.array([size for _, size in kinds], np.int64)
    counts = -(-sizes // BLOCK)
    begins = np.concatenate([[0], np.cumsum(counts)])
    groups = []
    for dtype in dict.fromkeys(dtypes):
        mine = np.array([number for number, each in enumerate(dtypes) if each == dtype])
        tensors = np.repeat(mine, counts[mine])
        if len(tensors):
            numbers = np.concatenate([np.arange(count) for count in counts[mine]])
            groups.append((dtype, moved(np.stack([tensors, numbers], axis=1).astype(np.int32), device)))
    return Layout(device, kinds, begins, moved(begins, device), moved(sizes, device), groups)


def moved(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy of an array on a device, for which the host does not wait."""
    tensor = torch.from_numpy(array)
    if device.type == "cpu":
        return tensor.clone()
    # From pinned memory, which torch keeps until the copy is made.
    return tensor.pin_memory().to(device, non_blocking=True)


@functools.cache
def weights_on(device: torch.device) -> torch.Tensor:
    """The weights of places in a block of words; int64[2048]."""
    return moved(place_weights().view(np.int64), device)


@functools.cache
def _tensor_signs(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The signs of elements, float32[1024 + 8192], and of blocks, float32[65536]."""
    elements = np.concatenate([make_signs(BLOCK // SUMS, ELEMENT), make_signs(BLOCK, REST)])
    return moved(elements, device), moved(make_signs(MOST_SIGNS, BLOCKS), device)


@functools.cache
def as_read(kernel: Any, dtype: torch.dtype, *, summed: bool) -> dict[str, Any]:
    """How a kernel reads a dtype: those of its arguments that are known when it is compiled."""
    import triton.language as tl

    size = dtype.itemsize
    read = {
        "DTYPE": getattr(tl, _SUMMED[dtype]) if summed else tl.uint8,
        "BITS": getattr(tl, f"uint{8 * size}") if summed else tl.uint8,
        "ITEM": min(size, 4),
        "PACKED": max(1, 4 // size),
        "PER": max(1, size // 4),
        "GROUPS": BLOCK * size // 4 // BLOCK_WORDS,
        "SUMMED": summed,
        "WIDE": dtype == torch.float64,
    }
    # With half as many, elements of 8 bytes take more registers than there are, and up to six times as long (H200).
    warps = _WARPS * 2 if size == 8 else _WARPS
    return {name: read[name] for name in kernel.arg_names if name in read} | {"num_warps": warps}


class TensorSums:
    """The sums of T tensors of one device, step by step.

    Args:
        layout: What the tensors are.
        summed: Whether sketches and norms are wanted as well as digests.
    """

    def __init__(self, layout: Layout, *, summed: bool) -> None:
        self._layout, self._summed = layout, summed
        # Where tensors were, and the table of that, which the device has.
        self._tables: dict[tuple[tuple[int, ...], tuple[int, ...]], torch.Tensor] = {}

    def take(
        self, tensors: Sequence[torch.Tensor], out: torch.Tensor, before: Sequence[torch.Tensor] | None = None
    ) -> None:
        """Has the device sum tensors; the host does not wait for it.

        Args:
            tensors: dtype[...], those of the layout, each of them `dense` and contiguous.
            out: Gets their numbers, and has been zeros; int64[T, 12].
            before: What they were at the last visit, of the same dtypes and sizes: what was added since is summed
                instead, and these are made what the tensors are now.

        Raises:
            ValueError: A tensor is not like what it was.
        """
        from parity.observe import word_kernels

        layout = self._layout
        found = out
        if self._summed:
            found = torch.empty((layout.blocks, NUMBERS), dtype=torch.int64, device=layout.device)
        with current(layout.device):
            places = self._places_of(tensors, before)
            for dtype, blocks in layout.groups:
                word_kernels.tensor_blocks[(len(blocks),)](
                    places,
                    layout.sizes,
                    layout.on_device,
                    blocks,
                    found,
                    out,
                    weights_on(layout.device),
                    *_tensor_signs(layout.device),
                    UPDATED=before is not None,
                    **as_read(word_kernels.tensor_blocks, dtype, summed=self._summed),
                )

    def _places_of(self, tensors: Sequence[torch.Tensor], before: Sequence[torch.Tensor] | None) -> torch.Tensor:
        """Where each tensor is, and where it was; int64[T, 2] on the device."""
        now = tuple(map(torch.Tensor.data_ptr, tensors))
        past = now if before is None else tuple(map(torch.Tensor.data_ptr, before))
        places = self._tables.get((now, past))
        if places is None:
            layout = self._layout
            # The kernel writes as much to what was before as there is now.
            if before is not None and (
                layout.kinds != kinds_of(before) or any(each.device != layout.device for each in before)
            ):
                raise ValueError("a parameter has another shape, dtype or device than in the step before")
            places = moved(np.array([now, past], np.int64).T.copy(), layout.device)
            if len(self._tables) == _MOST_TABLES:
                del self._tables[next(iter(self._tables))]
            self._tables[now, past] = places
        return places


def kinds_of(tensors: Sequence[torch.Tensor]) -> tuple[tuple[torch.dtype, int], ...]:
    """The dtype of each tensor, and its number of elements."""
    return tuple((tensor.dtype, tensor.numel()) for tensor in tensors)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the one on which kernels are launched."""
    # To set the device that is set already takes ten times as long as to ask.
    if device.type != "cuda" or torch.cuda.current_device() == device.index:
        return _NO_CONTEXT
    return torch.cuda.device(device)
