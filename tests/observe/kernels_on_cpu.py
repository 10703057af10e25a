"""Runs the kernels of a GPU on CPU tensors, in Triton's interpreter, and compares them with what the host computes.

A program of its own, since Triton reads this variable when it is imported. Prints what differs, and leaves the traces
of a loop that was recorded by both in a folder: `python kernels_on_cpu.py FOLDER`.
"""

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
from recorded_loop import record_by_both
from triton.runtime import interpreter

from parity.observe import device_sums, row_sums
from parity.observe.fingerprint import fingerprint
from parity.observe.host import array_of
from parity.observe.row_sketch import RowSketch
from parity.observe.row_sums import add_rows
from parity.observe.rows import Rows, RowSlots
from parity.observe.signs import summable
from parity.observe.sketch import norms_and_sketches
from parity.observe.word_fingerprint import WordFingerprints
from parity.observe.word_sums import word_sum

GENERATOR = torch.Generator().manual_seed(0)
SIZES = (0, 1, 3, 17, 1025)
BLOCKS = (8191, 8192, 8193, 16385, 24575)
# Rows, and elements of each, of which some are summed in tiles and some are not.
NARROW, WIDE = ((700, 12), (37, 64)), ((33, 68), (21, 300), (3, 2060))
DTYPES = [*device_sums._SUMMED]


def patch_the_language_once() -> None:
    """Spares Triton's interpreter most of its time.

    It puts its own functions into the language whenever a kernel calls a function, and takes none of them back before
    the kernel ends, or never: each is around those of the calls before.
    """
    if hasattr(interpreter, "_LangPatchScope"):
        interpreter._patch_lang(FunctionType(made.__code__, {"tl": tl, "core": tl.core}))
        interpreter._patch_lang = lambda function: interpreter._LangPatchScope()


def made(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    values = 3 * torch.randn(shape, generator=GENERATOR)
    return values > 0 if dtype is torch.bool else values.to(dtype)


def near(found: np.ndarray, expected: np.ndarray, norm: float) -> bool:
    """Whether sums are those of the host but for the rounding of float32."""
    return bool(np.all(np.abs(found - expected) <= 1e-6 * norm))


def check(name: str, out: torch.Tensor, digest: int, sums: np.ndarray, norm: float) -> None:
    numbers = out.numpy()[: device_sums.NUMBERS]
    floats = numbers.view(np.float64)
    if int(numbers[0]) % 2**64 != digest:
        print(f"{name}: digest")
    if not near(floats[1:9], sums, norm) or not near(np.sqrt(floats[9:]), np.array([norm]), norm):
        print(f"{name}: sums {floats[1:]} instead of {sums}, {norm}")


def compare(given: list[torch.Tensor], before: list[torch.Tensor] | None) -> None:
    """Compares the numbers of tensors, or of what was added since `before`."""
    arrays = [summable(array_of(each)) for each in given]
    past = [0 * array for array in arrays] if before is None else [summable(array_of(each)) for each in before]
    norms, sketches = norms_and_sketches([array - other for array, other in zip(arrays, past, strict=True)])
    out = torch.zeros((len(given), device_sums.COUNTED), dtype=torch.int64)
    layout = device_sums.layout_of(out.device, device_sums.kinds_of(given))
    device_sums.TensorSums(layout, summed=True).take(given, out, before)
    for each, numbers, norm, sums in zip(given, out, norms, sketches, strict=True):
        name = f"{'' if before is None else 'update of '}{each.dtype} {tuple(each.shape)}"
        check(name, numbers, word_sum(array_of(each, exact=True)), sums, norm)


def tensors() -> None:
    given = [made(dtype, size) for dtype in DTYPES for size in SIZES]
    given += [made(torch.float32, size) for size in BLOCKS] + [made(torch.bfloat16, size) for size in BLOCKS[:3]]
    # A view that begins at an odd place, whose words are not those of the memory.
    given += [made(torch.bfloat16, 41)[1:], made(torch.uint8, 42)[3:], made(torch.float32), made(torch.float32, 3, 4)]
    compare(given, None)
    floating = [each for each in given if each.is_floating_point()]
    before = [made(each.dtype, *each.shape) for each in floating]
    compare(floating, before)
    for each, past in zip(floating, before, strict=True):
        if not torch.equal(each, past):
            print(f"{each.dtype} {tuple(each.shape)}: not kept")
    # Without sums, of whatever has bytes.
    others = [
        made(torch.float32, 7).to(torch.float8_e4m3fn),
        torch.complex(made(torch.float64, 9), made(torch.float64, 9)),
    ]
    out = torch.zeros((2, device_sums.COUNTED), dtype=torch.int64)
    layout = device_sums.layout_of(out.device, device_sums.kinds_of(others))
    device_sums.TensorSums(layout, summed=False).take(others, out)
    for each, numbers in zip(others, out, strict=True):
        check(f"{each.dtype}", numbers, word_sum(array_of(each, exact=True)), np.zeros(8), 0.0)


def rows(dtypes: tuple[torch.dtype, ...], shapes: tuple[tuple[int, int], ...]) -> None:
    for dtype in dtypes:
        for count, width in shapes:
            given = made(dtype, count, width)
            out = torch.zeros(device_sums.COUNTED, dtype=torch.int64)
            sketch, summed, row, word = RowSketch(), dtype.is_floating_point, 0, 0
            for piece in (given[: count // 3], given[count // 3 :]):
                add_rows(piece, out, first_row=row, first_word=word, summed=summed)
                row, word = row + len(piece), word + piece.numel() * piece.element_size() // 4
                if summed:
                    sketch.add(array_of(piece))
            check(f"{dtype} rows {count} {width}", out, word_sum(array_of(given, exact=True)), sketch.sums, sketch.norm)


def odd_rows() -> None:
    """Rows of no whole number of words, in batches, and a fingerprint in which some tensors are the host's."""
    given = [made(torch.bfloat16, 30, 5), made(torch.bool, 30, 3), made(torch.int8, 30), made(torch.float16, 30, 3, 3)]
    # Whose last word, half of which is filled up, is the first of another segment.
    given += [made(torch.bfloat16, 30, 257), made(torch.float16, 30, 2049)]
    # A dimension of one element, whose stride is of no meaning.
    given += [made(torch.bfloat16, 5, 30).T[:, :1]]
    mixed = [made(torch.float32, 7), None, made(torch.float32, 5).to(torch.float8_e5m2), made(torch.float64, 3, 4).T]
    found = []
    for types in (set(), {"cpu"}):
        device_sums.WITH_KERNELS.clear()
        device_sums.WITH_KERNELS.update(types)
        rows = Rows(sketched=True, kind="words", slots=RowSlots())
        for begin, end in ((0, 7), (7, 8), (8, 30)):
            before, batch = rows.copy(), [each[begin:end] for each in given]
            rows.add(batch)
            if not rows.unchanged(before, batch) or rows.unchanged(
                before, [each ^ 1 if each.dtype == torch.int8 else each for each in batch]
            ):
                print("unchanged: wrong")
        fingerprints = WordFingerprints().take(mixed)
        if (rows.deferred, fingerprints.deferred) != (bool(types), bool(types)):
            print("deferred: wrong")
        found.append(
            (
                (rows.digest, *fingerprints.digests),
                (*rows.norms, *rows.sketches.ravel(), *fingerprints.norms, *fingerprints.sketches.ravel()),
            )
        )
    if found[0][0] != found[1][0]:
        print(f"odd rows: {found}")
    if not np.allclose(found[0][1], found[1][1], rtol=1e-5, atol=1e-5, equal_nan=True):
        print(f"odd rows: {found}")


def changing() -> None:
    """A quantity whose tensors are others from step to step: elsewhere, missing, of another shape or kind."""
    values = made(torch.complex64, 40)
    standing = made(torch.float32, 9)
    steps: list[list[torch.Tensor | None]] = [[standing, made(torch.float32, 12)] for _ in range(10)]
    steps += [
        [standing, None],
        [standing, made(torch.float32, 3, 4)],
        [standing, made(torch.float32, 4, 3).T],
        # Bits that are to be turned into others only when somebody asks.
        [standing, values.conj().imag],
        [values.conj(), values.imag],
        [standing, made(torch.float32, 3, 4).relu().to_sparse()],
        [standing, made(torch.float32, 3, 4).relu().to_sparse()],
        steps[3],
    ]
    words = WordFingerprints()
    for number, tensors in enumerate(itertools.chain(steps, replaced())):
        found, twin = words.take(tensors), fingerprint(tensors, "words")
        if [*found.digests] != [*twin.digests] or not np.allclose(found.norms, twin.norms, equal_nan=True):
            print(f"step {number}: {found.digests} instead of {twin.digests}")


def replaced() -> Iterator[list[torch.Tensor]]:
    """Tensors that stay the same objects, and mostly at the same address, with other elements, dtypes or shapes."""
    square, pair, numbers = made(torch.float32, 5, 5), made(torch.float32, 4), made(torch.float32, 7)
    given = [square, pair, torch._neg_view(numbers)]
    for _ in range(2):
        yield given
    numbers += 1
    yield given
    given.pop()
    for _ in range(2):
        yield given
    square.data = square.data.T
    yield given
    pair.data = pair.data.reshape(2, 2)
    yield given
    pair.data = torch._neg_view(pair.data)
    yield given
    square.data = made(torch.float64, 5, 5)
    yield given
    cube = made(torch.float32, 3, 3, 3)
    turned = torch.nn.Parameter(cube.permute(0, 2, 1))
    for _ in range(2):
        yield [turned]
    turned.data = cube.permute(2, 1, 0)  # neither is contiguous
    yield [turned]
    torch.utils.swap_tensors(turned, torch.nn.Parameter(made(torch.float32, 3, 3).relu().to_sparse()))
    yield [turned]


if __name__ == "__main__":
    torch.set_num_threads(1)
    patch_the_language_once()
    record_by_both(Path(sys.argv[1]))
    tensors()
    floating = (torch.float32, torch.bfloat16, torch.float64)
    rows((*floating, torch.int64), NARROW + WIDE)
    # Programs that take several groups of rows, as those of a large batch do; there are none of other rows.
    row_sums._MOST_PROGRAMS = 2
    rows(floating, WIDE)
    odd_rows()
    changing()
    print("done")
