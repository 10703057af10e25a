"""Kernels in Triton for rows of batches, which arrive piece by piece; see `word_kernels` and `row_sketch`."""

import triton
import triton.language as tl

from parity.observe.word_kernels import add_if_last, block_weight, summable, words_digest


@triton.jit
def _terms(bits, place, weights, first, second, PER: tl.constexpr):
    """What elements of one or two words add to a digest; uint64[...].

    Args:
        bits: The bits of the elements; uint64[...].
        place: The places of their first words in the block that the first of them all is in; int32[...], below 4096.
        weights: Weights of places; int64[2048].
        first: Weight of that block.
        second: Weight of the block after it.
        PER: Number of words in an element.
    """
    terms = tl.zeros_like(bits)
    for part in tl.static_range(PER):
        word, at = (bits >> (32 * part)) & 0xFFFFFFFF, place + part
        product = word * tl.load(weights + (at & 2047)).to(tl.uint64, bitcast=True)
        product = product ^ (product >> 32)
        terms += product * tl.where(at < 2048, first, second)
    return terms


# Not compiled anew for each number of rows.
@triton.jit(do_not_specialize=["elements", "width", "first_row", "first_word"])
def row_blocks(
    address,
    elements,
    width,
    first_row,
    first_word,
    found,
    out,
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
    """Adds the ten numbers of a block of rows: of any whose digest alone is wanted, or of narrow ones.

    Args:
        address: Address of rows of a batch, dtype[R, F].
        elements: R F.
        width: F.
        first_row: Number of rows that came before.
        first_word: Number of words that came before.
        found: Where they are written first, int64[blocks, 10]; not used if the digest alone is wanted.
        out: Where they are added, as in `add_if_last`; int64[12].
        weights: Weights of places; int64[2048].
        element_signs: Signs of the elements, row after row; float32[65536].
        row_signs: Signs of the rows; float32[65536].
        DTYPE: The dtype of the elements.
        ITEM: As in `words_digest`.
        PER: As in `words_digest`.
        GROUPS: As in `words_digest`.
        SUMMED: Whether sums are wanted as well as the digest.
        WIDE: Whether elements are summed in float64.
    """
    block = tl.program_id(0).to(tl.int64)
    elements = elements.to(tl.int64)
    first_row = first_row.to(tl.int64)
    words = words_digest(address, weights, block, elements, first_word.to(tl.int64), ITEM, PER, GROUPS, True)
    words = words.to(tl.int64, bitcast=True)
    if SUMMED:
        mine = found + block * 10
        tl.store(mine, words)
        lane = tl.arange(0, 512)
        number = tl.arange(0, 8)
        values = address.to(tl.pointer_type(DTYPE))
        sums = tl.zeros((8, 512), tl.float64 if WIDE else tl.float32)
        squares = tl.zeros((512,), tl.float64 if WIDE else tl.float32)
        width = width.to(tl.int32)
        for part in range(16):
            begin = block * 8192 + part * 512
            value = summable(tl.load(values + begin + lane, mask=begin + lane < elements, other=0), WIDE)
            squares += value * value
            # Divisions of 64 bits for all at once: one for each element would take longer than all else.
            row = first_row + begin // width
            further = ((begin % width).to(tl.int32) + lane) // width
            place = ((first_row * width + begin) % 65536).to(tl.int32) + lane
            signs = tl.load(element_signs + (place & 65535))
            signs *= tl.load(row_signs + (((row % 65536).to(tl.int32) + further) & 65535))
            its_sum = (((row % 8).to(tl.int32) + further) & 7)[None, :] == number[:, None]
            sums += tl.where(its_sum, (value * signs)[None, :], 0.0)
        floats = (mine + 1).to(tl.pointer_type(tl.float64), bitcast=True)
        tl.store(floats + number, tl.sum(sums, 1).to(tl.float64))
        tl.store(floats + 8, tl.sum(squares, 0).to(tl.float64))
        add_if_last(found, 0, tl.num_programs(0), out)
    else:
        tl.atomic_add(out, words)


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
    out,
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
    """Adds the ten numbers of a segment of wide rows, as `RowSketch` sums them.

    A segment is 128 PARTS units of a row, with a unit of a word or an element, whatever is larger. Eight rows, one for
    each sum, are taken together.

    Args:
        address: Address of rows of a batch, dtype[R, F]; the digest is right where each is a whole number of words.
        rows: R.
        width: F, below 2**30.
        first_row: Number of rows that came before.
        first_word: Number of words that came before.
        segments: Number of segments of a row.
        groups: How many times eight rows a program takes.
        found: Where they are written first; int64[programs, 10].
        out: As in `row_blocks`.
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
    numbers = found + program.to(tl.int64) * 10
    first_row = first_row.to(tl.int64)
    width = width.to(tl.int32)
    begin = (program % segments) * (128 * PARTS)
    number = tl.arange(0, 8)[:, None]
    lane = tl.arange(0, 128)[None, :]
    values = address.to(tl.pointer_type(DTYPE))
    signs_of_row = sign_bits + number * ((width + 31) // 32)
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
        first, second = block_weight(block), block_weight(block + 1)
        signed = tl.zeros((8, 128), tl.float64 if WIDE else tl.float32)
        for part in range(PARTS):
            unit = part * 128 + lane
            bits = tl.zeros((8, 128), tl.uint64)
            for each in tl.static_range(PACKED):
                column = (begin + unit) * PACKED + each
                value = tl.load(values + mine * width + column, mask=there & (column < width), other=0)
                bits |= value.to(BITS, bitcast=True).to(tl.uint64) << (32 // PACKED * each)
                summed = summable(value, WIDE)
                squares += summed * summed
                signs = tl.load(signs_of_row + column // 32, mask=column < width, other=0) >> (column % 32)
                signed += tl.where((signs & 1) == 1, summed, -summed)
            terms += _terms(bits, first_place + unit * PER, weights, first, second, PER)
        sums += signed * tl.load(row_signs + row % 65536)
    tl.store(numbers, tl.sum(tl.sum(terms, 1), 0).to(tl.int64, bitcast=True))
    floats = (numbers + 1).to(tl.pointer_type(tl.float64), bitcast=True)
    tl.store(floats + tl.arange(0, 8), tl.sum(sums, 1).to(tl.float64))
    tl.store(floats + 8, tl.sum(tl.sum(squares, 1), 0).to(tl.float64))
    add_if_last(found, 0, tl.num_programs(0), out)
