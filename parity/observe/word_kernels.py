"""Kernels in Triton that digest and sum many tensors of a GPU at once; see `word_sums`, `sketch` and `row_sketch`.

Only a process whose tensors are on a GPU imports this module: torch for CUDA or ROCm brings Triton along.

A block is 8192 elements of a tensor, as in a sketch. What is found of it are ten numbers of 64 bits: the sum of its
words, the eight sums of a sketch in float64, and the sum of the squares. Those of the blocks of a tensor are added in a
fixed order, so that the same tensor gives the same bits in each run.
"""

import triton
import triton.language as tl


@triton.jit
def _load_words(address, word, items, ITEM: tl.constexpr):
    """Words of a tensor of so many items; uint64[...], 0 where none is left."""
    if ITEM == 4:
        found = tl.load(address.to(tl.pointer_type(tl.uint32)) + word, mask=word < items, other=0).to(tl.uint64)
    else:
        # Not read as words, since a view may begin anywhere.
        narrow = address.to(tl.pointer_type(tl.uint16 if ITEM == 2 else tl.uint8))
        found = tl.zeros_like(word).to(tl.uint64)
        for part in tl.static_range(4 // ITEM):
            item = word * (4 // ITEM) + part
            read = tl.load(narrow + item, mask=item < items, other=0).to(tl.uint64)
            found |= read << (8 * ITEM * part)
    return found


@triton.jit
def _block_weight(number):
    """The weight of a block of words: splitmix64 of its number."""
    state = number.to(tl.uint64) + tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
    state = (state ^ (state >> 30)) * tl.full((), 0xBF58476D1CE4E5B9, tl.uint64)
    state = (state ^ (state >> 27)) * tl.full((), 0x94D049BB133111EB, tl.uint64)
    return (state ^ (state >> 31)) | tl.full((), 1, tl.uint64)


@triton.jit
def _digest(
    address,
    weights,
    block,
    elements,
    first,
    ITEM: tl.constexpr,
    PER: tl.constexpr,
    GROUPS: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """The sum of the words of a block of elements; uint64.

    Args:
        address: Address of the tensor.
        weights: Weights of places; int64[2048].
        block: Number of the block in the tensor.
        elements: Number of elements of the tensor.
        first: Number of words that come before the tensor.
        ITEM: 1, 2 or 4: bytes of what the tensor is read as.
        PER: Number of these in an element.
        GROUPS: How many times 2048 words a block of elements is.
        SPLIT: Whether `first` may be in the middle of a block of the digest.
    """
    lane = tl.arange(0, 2048)
    total = tl.zeros((2048,), tl.uint64)
    weight = tl.load(weights + lane).to(tl.uint64, bitcast=True)
    for group in tl.static_range(GROUPS):
        begin = (block * GROUPS + group) * 2048
        product = _load_words(address, begin + lane, elements * PER, ITEM)
        number = (first + begin) // 2048
        if SPLIT:
            place = ((first + begin) % 2048).to(tl.int32) + lane
            product *= tl.load(weights + (place & 2047)).to(tl.uint64, bitcast=True)
            product = product ^ (product >> 32)
            total += product * tl.where(place < 2048, _block_weight(number), _block_weight(number + 1))
        else:
            product *= weight
            product = product ^ (product >> 32)
            total += product * _block_weight(number)
    return tl.sum(total, 0)


@triton.jit
def tensor_blocks(
    table,
    blocks,
    found,
    weights,
    element_signs,
    block_signs,
    DTYPE: tl.constexpr,
    ITEM: tl.constexpr,
    PER: tl.constexpr,
    GROUPS: tl.constexpr,
    SUMMED: tl.constexpr,
    UPDATED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Writes the ten numbers of a block of a tensor.

    Args:
        table: For each tensor its address, the address of what it was before, its number of elements, and the number
            of its first block among those of all tensors; int64[T, 4].
        blocks: The blocks to look at: the tensor of each, and its number in it; int32[B, 2].
        found: int64[blocks of all tensors, 10].
        weights: Weights of places; int64[2048].
        element_signs: Signs of the elements of a row of a whole block, then those of a last block;
            float32[1024 + 8192].
        block_signs: Signs of whole blocks; float32[65536].
        DTYPE: The dtype of the elements.
        ITEM: As in `_digest`.
        PER: As in `_digest`.
        GROUPS: As in `_digest`.
        SUMMED: Whether sums of the elements are wanted as well as the digest.
        UPDATED: Whether these are sums of what was added since the last visit; what was before is then written anew.
        WIDE: Whether elements are summed in float64.
    """
    program = tl.program_id(0)
    tensor = tl.load(blocks + 2 * program)
    block = tl.load(blocks + 2 * program + 1).to(tl.int64)
    row = table + 4 * tensor
    address = tl.load(row)
    elements = tl.load(row + 2)
    out = found + (tl.load(row + 3) + block) * 10
    digest = _digest(address, weights, block, elements, 0, ITEM, PER, GROUPS, False)
    tl.store(out, digest.to(tl.int64, bitcast=True))
    if SUMMED:
        begin = block * 8192
        left = tl.minimum(elements - begin, 8192).to(tl.int32)
        whole = left == 8192
        number = tl.arange(0, 8)
        lane = tl.arange(0, 128)
        # The first rows of a last block have an element more.
        start = (number * (left // 8) + tl.minimum(left % 8, number))[:, None]
        length = (left // 8 + tl.where(left % 8 > number, 1, 0))[:, None]
        now = address.to(tl.pointer_type(DTYPE)) + begin
        before = tl.load(row + 1).to(tl.pointer_type(DTYPE)) + begin
        sums = tl.zeros((8, 128), tl.float64 if WIDE else tl.float32)
        squares = tl.zeros((8, 128), tl.float64 if WIDE else tl.float32)
        for part in tl.static_range(8):
            place = (part * 128 + lane)[None, :]
            inside = place < length
            element = start + place
            value = tl.load(now + element, mask=inside, other=0)
            summed = value.to(tl.float64) if WIDE else value.to(tl.float32)
            if UPDATED:
                past = tl.load(before + element, mask=inside, other=0)
                summed -= past.to(tl.float64) if WIDE else past.to(tl.float32)
                tl.store(before + element, value, mask=inside)
            signs = tl.load(element_signs + tl.where(whole, place, 1024 + element), mask=inside, other=0.0)
            # Not only for what is not there, but also for the NaN that an infinity times 0 would be.
            sums += tl.where(inside, summed * signs, 0.0)
            squares += summed * summed
        floats = (out + 1).to(tl.pointer_type(tl.float64), bitcast=True)
        sign = tl.where(whole, tl.load(block_signs + block % 65536), 1.0)
        tl.store(floats + number, (tl.sum(sums, 1) * sign).to(tl.float64))
        tl.store(floats + 8, tl.sum(tl.sum(squares, 1), 0).to(tl.float64))


# Not compiled anew for each number of rows.
@triton.jit(do_not_specialize=["elements", "width", "first_row", "first_word"])
def row_blocks(
    address,
    elements,
    width,
    first_row,
    first_word,
    found,
    weights,
    element_signs,
    row_signs,
    DTYPE: tl.constexpr,
    ITEM: tl.constexpr,
    PER: tl.constexpr,
    GROUPS: tl.constexpr,
    SUMMED: tl.constexpr,
    NARROW: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Writes the ten numbers of a block of rows, as `RowSketch` sums them.

    Args:
        address: Address of rows of a batch, dtype[R, F].
        elements: R F.
        width: F, below 2**30.
        first_row: Number of rows that came before.
        first_word: Number of words that came before.
        found: int64[blocks, 10].
        weights: Weights of places; int64[2048].
        element_signs: Of narrow rows the signs of their elements, one after the other, float32[65536]; else those of
            each of the eight sums, in bits: int32[8, ceil(F / 32)].
        row_signs: Signs of the rows; float32[65536].
        DTYPE: The dtype of the elements.
        ITEM: As in `_digest`.
        PER: As in `_digest`.
        GROUPS: As in `_digest`.
        SUMMED: Whether sums are wanted as well as the digest.
        NARROW: Whether all elements have signs of their own.
        WIDE: Whether elements are summed in float64.
    """
    block = tl.program_id(0).to(tl.int64)
    out = found + block * 10
    elements = elements.to(tl.int64)
    first_row = first_row.to(tl.int64)
    digest = _digest(address, weights, block, elements, first_word.to(tl.int64), ITEM, PER, GROUPS, True)
    tl.store(out, digest.to(tl.int64, bitcast=True))
    if SUMMED:
        lane = tl.arange(0, 512)
        number = tl.arange(0, 8)
        values = address.to(tl.pointer_type(DTYPE))
        sums = tl.zeros((8, 512), tl.float64 if WIDE else tl.float32)
        squares = tl.zeros((512,), tl.float64 if WIDE else tl.float32)
        width = width.to(tl.int32)
        for part in tl.static_range(16):
            begin = block * 8192 + part * 512
            inside = begin + lane < elements
            value = tl.load(values + begin + lane, mask=inside, other=0)
            value = value.to(tl.float64) if WIDE else value.to(tl.float32)
            squares += value * value
            # Divisions of 64 bits for all at once: one for each element would take longer than all else.
            row = first_row + begin // width
            local = (begin % width).to(tl.int32) + lane
            further = local // width
            if NARROW:
                place = ((first_row * width + begin) % 65536).to(tl.int32) + lane
                signs = tl.load(element_signs + (place & 65535))
            else:
                column = local - further * width
                line = ((row % 8).to(tl.int32) + further) & 7
                bits = tl.load(element_signs + line * ((width + 31) // 32) + column // 32)
                signs = (((bits >> (column % 32)) & 1) * 2 - 1).to(tl.float32)
            signs *= tl.load(row_signs + (((row % 65536).to(tl.int32) + further) & 65535))
            signed = tl.where(inside, value * signs, 0.0)
            mine = (((row % 8).to(tl.int32) + further) & 7)[None, :] == number[:, None]
            sums += tl.where(mine, signed[None, :], 0.0)
        floats = (out + 1).to(tl.pointer_type(tl.float64), bitcast=True)
        tl.store(floats + number, tl.sum(sums, 1).to(tl.float64))
        tl.store(floats + 8, tl.sum(squares, 0).to(tl.float64))


@triton.jit
def add_blocks(found, begins, out, SUMMED: tl.constexpr, ADD: tl.constexpr):
    """Adds the numbers of the blocks of each tensor.

    Args:
        found: int64[blocks of all tensors, 10].
        begins: Where the blocks of each tensor begin, and where those of the last one end; int64[T + 1].
        out: int64[T, 10].
        SUMMED: Whether there are sums; they are zeros otherwise.
        ADD: Whether to add to what is in `out`.
    """
    tensor = tl.program_id(0)
    begin = tl.load(begins + tensor)
    end = tl.load(begins + tensor + 1)
    lane = tl.arange(0, 128)
    words = tl.zeros((128,), tl.int64)
    into = out + tensor * 10
    for first in range(begin, end, 128):
        words += tl.load(found + (first + lane) * 10, mask=first + lane < end, other=0)
    total = tl.sum(words, 0)
    tl.store(into, total + tl.load(into) if ADD else total)
    floats = found.to(tl.pointer_type(tl.float64), bitcast=True)
    into_floats = into.to(tl.pointer_type(tl.float64), bitcast=True)
    for number in tl.static_range(1, 10):
        if SUMMED:
            values = tl.zeros((128,), tl.float64)
            for first in range(begin, end, 128):
                place = (first + lane) * 10 + number
                values += tl.load(floats + place, mask=first + lane < end, other=0.0)
            summed = tl.sum(values, 0)
            tl.store(into_floats + number, summed + tl.load(into_floats + number) if ADD else summed)
        elif not ADD:
            tl.store(into + number, 0)
