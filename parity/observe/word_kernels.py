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
def _word_terms(word, place, weights, first, second):
    """What words add to a digest; uint64[...].

    Args:
        word: The words; uint64[...].
        place: Their places in the block that the first of them is in; int32[...], below 4096.
        weights: Weights of places; int64[2048].
        first: Weight of that block.
        second: Weight of the block after it.
    """
    product = word * tl.load(weights + (place & 2047)).to(tl.uint64, bitcast=True)
    product = product ^ (product >> 32)
    return product * tl.where(place < 2048, first, second)


@triton.jit
def _as_summed(value, WIDE: tl.constexpr):
    return value.to(tl.float64) if WIDE else value.to(tl.float32)


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
        found: Where they are written, int64[blocks of all tensors, 10]; if the digest alone is wanted, where it is added
            to that of the tensor's other blocks, int64[T, 10].
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
    digest = _digest(address, weights, block, elements, 0, ITEM, PER, GROUPS, False).to(tl.int64, bitcast=True)
    if SUMMED:
        out = found + (tl.load(row + 3) + block) * 10
        tl.store(out, digest)
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
            summed = _as_summed(tl.load(now + element, mask=inside, other=0), WIDE)
            if UPDATED:
                summed -= _as_summed(tl.load(before + element, mask=inside, other=0), WIDE)
            signs = tl.load(element_signs + tl.where(whole, place, 1024 + element), mask=inside, other=0.0)
            # Not only for what is not there, but also for the NaN that an infinity times 0 would be.
            sums += tl.where(inside, summed * signs, 0.0)
            squares += summed * summed
        if UPDATED:
            # Apart from what is read, which would have to wait for each store before it.
            for part in tl.static_range(8):
                place = (part * 128 + lane)[None, :]
                inside = place < length
                tl.store(before + start + place, tl.load(now + start + place, mask=inside), mask=inside)
        floats = (out + 1).to(tl.pointer_type(tl.float64), bitcast=True)
        sign = tl.where(whole, tl.load(block_signs + block % 65536), 1.0)
        tl.store(floats + number, (tl.sum(sums, 1) * sign).to(tl.float64))
        tl.store(floats + 8, tl.sum(tl.sum(squares, 1), 0).to(tl.float64))
    else:
        # In whatever order, which does not matter to integers.
        tl.atomic_add(found + tensor * 10, digest)


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
    WIDE: tl.constexpr,
):
    """Writes the ten numbers of a block of rows: of any whose digest alone is wanted, or of narrow ones.

    Args:
        address: Address of rows of a batch, dtype[R, F].
        elements: R F.
        width: F.
        first_row: Number of rows that came before.
        first_word: Number of words that came before.
        found: Where they are written, int64[blocks, 10]; if the digest alone is wanted, what it is added to, int64[1].
        weights: Weights of places; int64[2048].
        element_signs: Signs of the elements, row after row; float32[65536].
        row_signs: Signs of the rows; float32[65536].
        DTYPE: The dtype of the elements.
        ITEM: As in `_digest`.
        PER: As in `_digest`.
        GROUPS: As in `_digest`.
        SUMMED: Whether sums are wanted as well as the digest.
        WIDE: Whether elements are summed in float64.
    """
    block = tl.program_id(0).to(tl.int64)
    elements = elements.to(tl.int64)
    first_row = first_row.to(tl.int64)
    digest = _digest(address, weights, block, elements, first_word.to(tl.int64), ITEM, PER, GROUPS, True)
    digest = digest.to(tl.int64, bitcast=True)
    if SUMMED:
        out = found + block * 10
        tl.store(out, digest)
        lane = tl.arange(0, 512)
        number = tl.arange(0, 8)
        values = address.to(tl.pointer_type(DTYPE))
        sums = tl.zeros((8, 512), tl.float64 if WIDE else tl.float32)
        squares = tl.zeros((512,), tl.float64 if WIDE else tl.float32)
        width = width.to(tl.int32)
        for part in tl.static_range(16):
            begin = block * 8192 + part * 512
            value = _as_summed(tl.load(values + begin + lane, mask=begin + lane < elements, other=0), WIDE)
            squares += value * value
            # Divisions of 64 bits for all at once: one for each element would take longer than all else.
            row = first_row + begin // width
            further = ((begin % width).to(tl.int32) + lane) // width
            place = ((first_row * width + begin) % 65536).to(tl.int32) + lane
            signs = tl.load(element_signs + (place & 65535))
            signs *= tl.load(row_signs + (((row % 65536).to(tl.int32) + further) & 65535))
            mine = (((row % 8).to(tl.int32) + further) & 7)[None, :] == number[:, None]
            sums += tl.where(mine, (value * signs)[None, :], 0.0)
        floats = (out + 1).to(tl.pointer_type(tl.float64), bitcast=True)
        tl.store(floats + number, tl.sum(sums, 1).to(tl.float64))
        tl.store(floats + 8, tl.sum(squares, 0).to(tl.float64))
    else:
        tl.atomic_add(found, digest)


@triton.jit(do_not_specialize=["rows", "width", "first_row", "first_word", "segments", "groups"])
def row_tiles(
    address,
    rows,
    width,
    first_row,
    first_word,
    segments,
    groups,
    found,
    weights,
    sign_bits,
    row_signs,
    DTYPE: tl.constexpr,
    BITS: tl.constexpr,
    PACKED: tl.constexpr,
    PER: tl.constexpr,
    PARTS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Writes the ten numbers of a segment of wide rows, as `RowSketch` sums them.

    A segment is 128 PARTS units of a row, with a unit of a word or an element, whatever is larger. Eight rows, one for
    each sum, are taken together.

    Args:
        address: Address of rows of a batch, dtype[R, F], each a whole number of words.
        rows: R.
        width: F, below 2**30.
        first_row: Number of rows that came before.
        first_word: Number of words that came before.
        segments: Number of segments of a row.
        groups: How many times eight rows a program takes.
        found: int64[programs, 10].
        weights: Weights of places; int64[2048].
        sign_bits: Signs of the elements of a row for each of the eight sums; int32[8, ceil(F / 32)].
        row_signs: Signs of the rows; float32[65536].
        DTYPE: The dtype of the elements.
        BITS: The unsigned dtype of their bits.
        PACKED: Number of elements in a word; 1 where one is a word or more.
        PER: Number of words in an element; 1 where it is a word or less.
        PARTS: 1, 2, 4 or 8.
        WIDE: Whether elements are summed in float64.
    """
    program = tl.program_id(0)
    out = found + program.to(tl.int64) * 10
    first_row = first_row.to(tl.int64)
    width = width.to(tl.int32)
    begin = (program % segments) * (128 * PARTS)
    number = tl.arange(0, 8)[:, None]
    lane = tl.arange(0, 128)[None, :]
    values = address.to(tl.pointer_type(DTYPE))
    bits_of_row = sign_bits + number * ((width + 31) // 32)
    terms = tl.zeros((8, 128), tl.uint64)
    sums = tl.zeros((8, 128), tl.float64 if WIDE else tl.float32)
    squares = tl.zeros((8, 128), tl.float64 if WIDE else tl.float32)
    for group in range(groups):
        # Counted from the first row of the batch, so that a row enters its sum whatever came before.
        row = (first_row // 8 + (program // segments).to(tl.int64) * groups + group) * 8 + number
        mine = row - first_row
        there = (mine >= 0) & (mine < rows)
        word = first_word.to(tl.int64) + mine * (width // PACKED * PER) + begin * PER
        block = word // 2048
        first_place = (word % 2048).to(tl.int32)
        first, second = _block_weight(block), _block_weight(block + 1)
        signed = tl.zeros((8, 128), tl.float64 if WIDE else tl.float32)
        for part in tl.static_range(PARTS):
            unit = part * 128 + lane
            packed = tl.zeros((8, 128), tl.uint64)
            for each in tl.static_range(PACKED):
                column = (begin + unit) * PACKED + each
                inside = there & (column < width)
                value = tl.load(values + mine * width + column, mask=inside, other=0)
                packed |= value.to(BITS, bitcast=True).to(tl.uint64) << (32 // PACKED * each)
                summed = _as_summed(value, WIDE)
                squares += summed * summed
                bits = tl.load(bits_of_row + column // 32, mask=column < width, other=0)
                signed += tl.where(((bits >> (column % 32)) & 1) == 1, summed, -summed)
            place = first_place + unit * PER
            if PER == 2:
                terms += _word_terms(packed & 0xFFFFFFFF, place, weights, first, second)
                terms += _word_terms(packed >> 32, place + 1, weights, first, second)
            else:
                terms += _word_terms(packed, place, weights, first, second)
        sums += signed * tl.load(row_signs + row % 65536)
    tl.store(out, tl.sum(tl.sum(terms, 1), 0).to(tl.int64, bitcast=True))
    floats = (out + 1).to(tl.pointer_type(tl.float64), bitcast=True)
    tl.store(floats + tl.arange(0, 8), tl.sum(sums, 1).to(tl.float64))
    tl.store(floats + 8, tl.sum(tl.sum(squares, 1), 0).to(tl.float64))


@triton.jit
def add_blocks(found, begins, out, ADD: tl.constexpr):
    """Adds the numbers of the blocks of each tensor.

    Args:
        found: int64[blocks of all tensors, 10].
        begins: Where the blocks of each tensor begin, and where those of the last one end; int64[T + 1].
        out: int64[T, 10].
        ADD: Whether to add to what is in `out`.
    """
    tensor = tl.program_id(0)
    begin = tl.load(begins + tensor)
    end = tl.load(begins + tensor + 1)
    line = tl.arange(0, 256)[:, None]
    number = tl.arange(0, 16)[None, :]
    words = tl.zeros((256, 16), tl.int64)
    floats = tl.zeros((256, 16), tl.float64)
    for first in range(begin, end, 256):
        inside = (first + line < end) & (number < 10)
        read = tl.load(found + (first + line) * 10 + number, mask=inside, other=0)
        words += tl.where(number == 0, read, 0)
        floats += tl.where(number == 0, 0.0, read.to(tl.float64, bitcast=True))
    number = tl.arange(0, 16)
    into = out + tensor * 10 + number
    word, summed = tl.sum(words, 0), tl.sum(floats, 0)
    if ADD:
        known = tl.load(into, mask=number < 10, other=0)
        word += known
        summed += known.to(tl.float64, bitcast=True)
    tl.store(into, tl.where(number == 0, word, summed.to(tl.int64, bitcast=True)), mask=number < 10)
