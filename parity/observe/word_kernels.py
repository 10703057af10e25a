"""Kernels in Triton that digest and sum many tensors of a GPU at once; see `word_sums`, `sketch` and `row_sketch`.

Only a process whose tensors are on a GPU imports this module: torch for CUDA or ROCm brings Triton along.

A block is 8192 elements of a tensor, as in a sketch. What is found of it are ten numbers of 64 bits: the sum of its
words, the eight sums of a sketch in float64, and the sum of the squares. The program that finds the last of a tensor's
blocks done adds all of them in a fixed order, so that the same tensor gives the same bits in each run.
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
def block_weight(number):
    """The weight of a block of words: splitmix64 of its number."""
    state = number.to(tl.uint64) + tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
    state = (state ^ (state >> 30)) * tl.full((), 0xBF58476D1CE4E5B9, tl.uint64)
    state = (state ^ (state >> 27)) * tl.full((), 0x94D049BB133111EB, tl.uint64)
    return (state ^ (state >> 31)) | tl.full((), 1, tl.uint64)


@triton.jit
def words_digest(
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
            total += product * tl.where(place < 2048, block_weight(number), block_weight(number + 1))
        else:
            product *= weight
            product = product ^ (product >> 32)
            total += product * block_weight(number)
    return tl.sum(total, 0)


@triton.jit
def summable(value, WIDE: tl.constexpr):
    """Elements in the dtype in which they are summed."""
    return value.to(tl.float64) if WIDE else value.to(tl.float32)


@triton.jit
def add_if_last(found, begin, end, out):
    """Adds the numbers of the blocks of a tensor to what is in `out`, if those of all other blocks are stored already.

    Args:
        found: int64[blocks of all tensors, 10].
        begin: Number of the first block of the tensor.
        end: Number of the block after its last one.
        out: The ten numbers so far, and the number of blocks that are done; int64[12].
    """
    # Whatever this program has stored comes before its count, and what others have stored before theirs is seen after.
    tl.debug_barrier()
    if tl.atomic_add(out + 10, 1) == end - begin - 1:
        line = tl.arange(0, 64)
        number = tl.arange(0, 16)
        words = tl.zeros((64,), tl.int64)
        floats = tl.zeros((64, 16), tl.float64)
        for first in range(begin, end, 64):
            inside = first + line < end
            row = found + (first + line) * 10
            # Not from the cache of this multiprocessor, which may hold what was there before.
            words += tl.load(row, mask=inside, other=0, cache_modifier=".cg")
            read = (row[:, None] + 1 + number[None, :]).to(tl.pointer_type(tl.float64), bitcast=True)
            floats += tl.load(read, mask=inside[:, None] & (number < 9)[None, :], other=0.0, cache_modifier=".cg")
        tl.store(out, tl.load(out) + tl.sum(words, 0))
        into = (out + 1 + number).to(tl.pointer_type(tl.float64), bitcast=True)
        tl.store(into, tl.load(into, mask=number < 9, other=0.0) + tl.sum(floats, 0), mask=number < 9)
        tl.store(out + 10, 0)  # for the next batch


@triton.jit
def _keep(now, before, start, length):
    """Makes what eight rows of a block were what they are now.

    Args:
        now: Pointer to the first element of the block.
        before: Pointer to what it was.
        start: Number of the first element of each row in the block; int[8, 1].
        length: Numbers of elements of the rows; int[8, 1].
    """
    tl.debug_barrier()  # apart from what is read, which would have to wait for each store before it
    for part in tl.static_range(8):
        place = (part * 128 + tl.arange(0, 128))[None, :]
        inside = place < length
        tl.store(before + start + place, tl.load(now + start + place, mask=inside), mask=inside)


@triton.jit
def tensor_blocks(
    places,
    sizes,
    begins,
    blocks,
    found,
    out,
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
    """Finds the ten numbers of a block of a tensor.

    Args:
        places: The address of each tensor, and that of what it was before; int64[T, 2].
        sizes: Numbers of elements; int64[T].
        begins: Numbers of their first blocks among those of all tensors; int64[T + 1].
        blocks: The blocks to look at: the tensor of each, and its number in it; int32[B, 2].
        found: Where they are written, int64[blocks of all tensors, 10]; not used if the digest alone is wanted.
        out: Where those of a tensor's blocks are added, as in `add_if_last`; int64[T, 12].
        weights: Weights of places; int64[2048].
        element_signs: Signs of the elements of a row of a whole block, then those of a last block;
            float32[1024 + 8192].
        block_signs: Signs of whole blocks; float32[65536].
        DTYPE: The dtype of the elements.
        ITEM: As in `words_digest`.
        PER: As in `words_digest`.
        GROUPS: As in `words_digest`.
        SUMMED: Whether sums of the elements are wanted as well as the digest.
        UPDATED: Whether these are sums of what was added since the last visit; what was before is then written anew.
        WIDE: Whether elements are summed in float64.
    """
    program = tl.program_id(0)
    tensor = tl.load(blocks + 2 * program)
    block = tl.load(blocks + 2 * program + 1).to(tl.int64)
    address = tl.load(places + 2 * tensor)
    elements = tl.load(sizes + tensor)
    words = words_digest(address, weights, block, elements, 0, ITEM, PER, GROUPS, False).to(tl.int64, bitcast=True)
    if SUMMED:
        first, end = tl.load(begins + tensor), tl.load(begins + tensor + 1)
        mine = found + (first + block) * 10
        tl.store(mine, words)
        begin = block * 8192
        left = tl.minimum(elements - begin, 8192).to(tl.int32)
        whole = left == 8192
        number, lane = tl.arange(0, 8), tl.arange(0, 128)
        # The first rows of a last block have an element more.
        start = (number * (left // 8) + tl.minimum(left % 8, number))[:, None]
        length = (left // 8 + tl.where(left % 8 > number, 1, 0))[:, None]
        now = address.to(tl.pointer_type(DTYPE)) + begin
        before = tl.load(places + 2 * tensor + 1).to(tl.pointer_type(DTYPE)) + begin
        sums = tl.zeros((8, 128), tl.float64 if WIDE else tl.float32)
        squares = tl.zeros((8, 128), tl.float64 if WIDE else tl.float32)
        for part in tl.static_range(8):
            place = (part * 128 + lane)[None, :]
            inside = place < length
            element = start + place
            summed = summable(tl.load(now + element, mask=inside, other=0), WIDE)
            if UPDATED:
                summed -= summable(tl.load(before + element, mask=inside, other=0), WIDE)
            signs = tl.load(element_signs + tl.where(whole, place, 1024 + element), mask=inside, other=0.0)
            # Not only for what is not there, but also for the NaN that an infinity times 0 would be.
            sums += tl.where(inside, summed * signs, 0.0)
            squares += summed * summed
        if UPDATED:
            _keep(now, before, start, length)
        floats = (mine + 1).to(tl.pointer_type(tl.float64), bitcast=True)
        sign = tl.where(whole, tl.load(block_signs + block % 65536), 1.0)
        tl.store(floats + number, (tl.sum(sums, 1) * sign).to(tl.float64))
        tl.store(floats + 8, tl.sum(tl.sum(squares, 1), 0).to(tl.float64))
        add_if_last(found, first, end, out + tensor * 12)
    else:
        # In whatever order, which does not matter to integers.
        tl.atomic_add(out + tensor * 12, words)
