"""Compares two checkpoints: names, shapes, dtypes and bytes of their tensors, with figures of those that differ."""

import filecmp
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import xxhash

from parity.checkpoints.dtypes import DTYPES, WIDTHS, dtype_of
from parity.checkpoints.figures import Figures, equal, figures, figures_of_two_dtypes
from parity.checkpoints.tensor import Checkpoint, StoredTensor
from parity.plan.tolerance import EXIT_STATUSES, Tolerance, Word

Kind: TypeAlias = Literal["numbers", "dtype", "shape", "only baseline", "only candidate", "value"]
# Bytes of a block that is digested at once.
_BLOCK = 2**22
# Threads that compare tensors beside each other. NumPy lets them run at the same time.
_MOST_THREADS = 8
# What libraries put before the names of a model that they wrap.
_WRAPPER = re.compile(r"((state_dict|model_state_dict|module|_orig_mod|model|net|network)\.)+")
# In names of states of random generators.
_GENERATOR = ("rng", "generator", "random_state")


@dataclass(frozen=True)
class Side:
    """What a checkpoint has under a name.

    Attributes:
        dtype: Name of the dtype; of a plain value, of its class.
        shape: Shape of the tensor; () for a plain value.
        digest: XXH3, 64 bits, of the tensor's bytes; None for a plain value.
        value: The plain value in words; None for a tensor.
    """

    dtype: str
    shape: tuple[int, ...]
    digest: int | None
    value: str | None = None


@dataclass(frozen=True)
class Difference:
    """A name at which two checkpoints differ.

    Attributes:
        name: The name.
        kind: What differs.
        word: "differ", or "within" where all elements are within the tolerance.
        baseline, candidate: What each side has; None where it has nothing.
        figures: Figures of the numbers, where both have tensors of one shape; None otherwise.
        same_as: Another name under which the other side has the same bytes, or None.
        tied_to: Where a side lacks the name: the name that it has and that this tensor is tied to on the other side.
    """

    name: str
    kind: Kind
    word: Word
    baseline: Side | None
    candidate: Side | None
    figures: Figures | None = None
    same_as: str | None = None
    tied_to: str | None = None


@dataclass(frozen=True)
class CheckpointComparison:
    """Two checkpoints.

    Attributes:
        differences: In the order of the baseline's file, then names that only the candidate has.
        equal: Number of tensors and of values that are equal.
        equal_bytes: Bytes of the equal tensors.
        renamed: Beginning of every name that one side has and the other lacks, such as "module.", or None.
        not_numbers: NaN in equal tensors: the tensors that have some, of those that are floats.
        unread: What was not compared and is not the same on both sides, a sentence each.
        not_state: The same of files that hold no state of the training, which decide nothing.
    """

    baseline: Checkpoint
    candidate: Checkpoint
    differences: tuple[Difference, ...]
    equal: int
    equal_values: int
    equal_bytes: int
    renamed: str | None
    not_numbers: tuple[str, ...]
    tolerance: Tolerance
    unread: tuple[str, ...] = ()
    not_state: tuple[str, ...] = ()

    @property
    def word(self) -> Word:
        """The worst of the differences."""
        if any(each.word == "differ" for each in self.differences):
            return "differ"
        return "undecided" if self.unread else "within" if self.differences else "identical"

    @property
    def exit_status(self) -> int:
        """Exit status of a command that found this."""
        return EXIT_STATUSES[self.word]


def compare_checkpoints(baseline: Checkpoint, candidate: Checkpoint, *, tolerance: Tolerance) -> CheckpointComparison:
    """Compares two checkpoints by name.

    Args:
        baseline: The checkpoint that the other one is compared with.
        candidate: The other checkpoint.
        tolerance: What is allowed of each element.
    """
    prefix, left, right = _align(baseline, candidate)
    differences: list[Difference] = []
    equal_tensors, equal_bytes, not_numbers = 0, 0, []
    names = [name for name in left.tensors if name in right.tensors]
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        compared = pool.map(lambda name: _compare(name, left.tensors[name], right.tensors[name], tolerance), names)
        found = dict(zip(names, compared, strict=True))
    for name in left.tensors:
        if name not in found:
            differences.append(_one_sided(name, left, right, "only baseline"))
            continue
        difference, size, nan = found[name]
        if difference:
            differences.append(difference)
            continue
        equal_tensors += 1
        equal_bytes += size
        if nan:
            not_numbers.append(name)
    differences += [
        _one_sided(name, right, left, "only candidate") for name in right.tensors if name not in left.tensors
    ]
    values = [*_values(left.values, right.values)]
    equal_values = len({**left.values, **right.values}) - len(values)
    return CheckpointComparison(
        baseline,
        candidate,
        (*_other_names(differences), *values),
        equal=equal_tensors,
        equal_values=equal_values,
        equal_bytes=equal_bytes,
        renamed=prefix,
        not_numbers=tuple(not_numbers),
        tolerance=tolerance,
        unread=(*_unread(baseline, candidate, state=True),),
        not_state=(*_unread(baseline, candidate, state=False),),
    )


def _unread(baseline: Checkpoint, candidate: Checkpoint, *, state: bool) -> Iterator[str]:
    """What is said of each file that was not read, where both sides do not have the same bytes of it.

    Args:
        baseline: A checkpoint.
        candidate: The other one.
        state: Whether of files that may hold state of the training on a side, or of those that do not.
    """
    mine, others = baseline.unread, candidate.unread
    for name in [*mine, *(name for name in others if name not in mine)]:
        sides = [each[name] for each in (mine, others) if name in each]
        if any(side.state for side in sides) != state:
            continue
        if len(sides) < 2:
            yield f"{name} is in the {'baseline' if name in mine else 'candidate'} only ({sides[0].why})"
        elif not filecmp.cmp(sides[0].path, sides[1].path, shallow=False):
            yield f"{name} has other bytes ({next((side for side in sides if side.state), sides[0]).why})"


def _align(baseline: Checkpoint, candidate: Checkpoint) -> tuple[str | None, Checkpoint, Checkpoint]:
    """Both with the same names, where those of one side are those of the other with one more beginning."""
    mine, others = {*baseline.tensors}, {*candidate.tensors}
    if not mine & others:
        for longer, shorter in ((mine, others), (others, mine)):
            one = next(iter(shorter), "")
            for prefix in {name.removesuffix(one) for name in longer if one and name.endswith(one)}:
                if _WRAPPER.fullmatch(prefix) and {prefix + name for name in shorter} == longer:
                    return prefix, _without(prefix, baseline), _without(prefix, candidate)
    return None, baseline, candidate


def _without(prefix: str, found: Checkpoint) -> Checkpoint:
    tensors = {name.removeprefix(prefix): tensor for name, tensor in found.tensors.items()}
    tied = {name.removeprefix(prefix): other.removeprefix(prefix) for name, other in found.tied.items()}
    return replace(found, tensors=tensors, tied=tied)


def _compare(
    name: str, mine: StoredTensor, other: StoredTensor, tolerance: Tolerance
) -> tuple[Difference | None, int, bool]:
    """How two tensors differ; or None, the bytes that are equal, and whether there is a NaN among them."""
    difference = _difference(name, mine, other, tolerance)
    if difference:
        return difference, 0, False
    octets = mine.read()
    return None, len(octets), has_nan(octets, mine.dtype)


def _difference(name: str, mine: StoredTensor, other: StoredTensor, tolerance: Tolerance) -> Difference | None:
    sides = {"rtol": tolerance.rtol, "atol": tolerance.atol}
    if mine.shape != other.shape:
        return Difference(name, "shape", "differ", side_of(mine), side_of(other))
    if mine.dtype != other.dtype:
        comparable = mine.dtype in WIDTHS and other.dtype in WIDTHS
        found = figures_of_two_dtypes(mine, other, **sides) if comparable else None
        # Another dtype is a difference, also where the numbers are the same, unless a tolerance is given.
        return Difference(name, "dtype", _word(found, tolerance), side_of(mine), side_of(other), found)
    if equal(mine.read(), other.read()):
        return None
    if len(mine.read()) != len(other.read()):
        return Difference(name, "numbers", "differ", side_of(mine), side_of(other))
    found = figures(mine, other, **sides)
    # A tolerance is about numbers.
    exact = mine.dtype not in DTYPES or mine.dtype == "bool" or is_generator(name, mine.dtype)
    word: Word = "differ" if exact else _word(found, tolerance)
    return Difference(name, "numbers", word, side_of(mine), side_of(other), found)


def is_generator(name: str, dtype: str) -> bool:
    """Whether a tensor is the state of a random generator, as far as its name says it."""
    return dtype.startswith("uint") and any(word in name.lower() for word in _GENERATOR)


def _word(found: Figures | None, tolerance: Tolerance) -> Word:
    return "within" if found and (tolerance.rtol or tolerance.atol) and not found.violations else "differ"


def side_of(tensor: StoredTensor) -> Side:
    """A tensor in a few words, with the digest of its bytes."""
    octets = tensor.read()
    state = xxhash.xxh3_64()
    for begin in range(0, len(octets), _BLOCK):
        state.update(octets[begin : begin + _BLOCK].data)
    return Side(tensor.dtype, tensor.shape, state.intdigest())


def _one_sided(name: str, side: Checkpoint, other: Checkpoint, kind: Kind) -> Difference:
    found = side_of(side.tensors[name])
    # Libraries store tied tensors once, and not always under the same name.
    original = side.tied.get(name)
    tied = original if original in other.tensors else None
    word: Word = "within" if tied else "differ"
    mine, others = (found, None) if kind == "only baseline" else (None, found)
    return Difference(name, kind, word, mine, others, tied_to=tied)


def _other_names(differences: list[Difference]) -> Iterator[Difference]:
    """The differences, each with the name under which the other side has the bytes: tensors that were swapped."""
    names: dict[Side, str] = {}
    for each in differences:
        if each.candidate and each.candidate.shape:
            names.setdefault(each.candidate, each.name)
    for each in differences:
        elsewhere = names.get(each.baseline) if each.baseline else None
        yield replace(each, same_as=elsewhere) if elsewhere and elsewhere != each.name else each


def _values(left: Mapping[str, object], right: Mapping[str, object]) -> Iterator[Difference]:
    """The plain values that differ: numbers, texts and anything else that is not a tensor."""
    for name in [*left, *(name for name in right if name not in left)]:
        if name in left and name in right and _same_value(left[name], right[name]):
            continue
        mine, other = (_value(each[name]) if name in each else None for each in (left, right))
        yield Difference(name, "value", "differ", mine, other)


def _same_value(mine: object, other: object) -> bool:
    # Their texts, too: 0.0 and -0.0, or 1 and True, are equal and not the same; NaN is not equal and is the same.
    return type(mine) is type(other) and repr(mine) == repr(other)


def _value(value: object) -> Side:
    return Side(type(value).__name__, (), None, repr(value)[:200])


def has_nan(octets: np.ndarray, dtype: str) -> bool:
    """Whether a tensor of floats has a NaN; uint8[N]."""
    layout = dtype_of(dtype)
    if layout.kind != "float":
        return False
    bits = layout.bits(octets)
    step = 2**18
    return any(bool(layout.is_nan(bits[begin : begin + step]).any()) for begin in range(0, len(bits), step))
