"""Random generators: the global ones of Python, NumPy, torch and its accelerators, read and written in one place."""

from __future__ import annotations

import contextlib
import ctypes
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash


@dataclass(frozen=True)
class GlobalGenerator:
    """A generator that all code of a process shares.

    Attributes:
        whose: Its name in a sentence, as in "draws from NumPy's global generator".
        take: Returns its state; None where this process has no such generator.
        restore: Writes a state that `take` returned.
    """

    whose: str
    take: Callable[[], Any]
    restore: Callable[[Any], None]


def _take_numpy() -> tuple[Any, ...]:
    """NumPy's state without an array, so that it can be stored as plain values."""
    state: Any = np.random.get_state()
    name, keys, *rest = state
    # np.random.set_state takes the keys as a list, too.
    return (name, keys.tolist(), *rest)


def _take_cuda() -> list[torch.Tensor]:
    """A state for each GPU; empty where nothing has used CUDA yet, since asking would create a context."""
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]


def _restore_cuda(states: list[torch.Tensor]) -> None:
    """Writes the states where this process sees as many GPUs as the one that took them."""
    # A state belongs to one GPU: for another number of GPUs there is no assignment, and theirs stay as they are.
    if states and torch.cuda.is_available() and len(states) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states)


# Asked once: a process gets no other hardware.
_HAS_MPS = torch.backends.mps.is_available()


def _take_mps() -> torch.Tensor | None:
    return torch.mps.get_rng_state() if _HAS_MPS else None


def _restore_mps(state: torch.Tensor | None) -> None:
    if state is not None and _HAS_MPS:
        torch.mps.set_rng_state(state)


# By the names that stored states use: a state is restored by looking up each of them, so a name that changed would
# make older states unreadable.
GENERATORS: dict[str, GlobalGenerator] = {
    "torch": GlobalGenerator("torch's", torch.get_rng_state, torch.set_rng_state),
    "numpy": GlobalGenerator("NumPy's", _take_numpy, np.random.set_state),
    "python": GlobalGenerator("Python's", random.getstate, random.setstate),
    "cuda": GlobalGenerator("CUDA's", _take_cuda, _restore_cuda),
    "mps": GlobalGenerator("MPS's", _take_mps, _restore_mps),
}


def seed_generators(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's generators; torch seeds those of its accelerators as well."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def take_generators() -> dict[str, Any]:
    """The states of the global generators, by name."""
    # Each is read even if nothing has used it: whoever restores them cannot know which the block will use.
    return {name: generator.take() for name, generator in GENERATORS.items()}


def restore_generators(states: dict[str, Any]) -> None:
    """Writes the states that `take_generators` returned; those of GPUs only where this process sees as many GPUs."""
    for name, generator in GENERATORS.items():
        generator.restore(states[name])


@contextlib.contextmanager
def generators_restored() -> Iterator[None]:
    """Gives the global generators back the states that they had before the block."""
    states = take_generators()
    # A block that raises must not leave its draws behind either.
    try:
        yield
    finally:
        restore_generators(states)


def digest_generators() -> list[int]:
    """A digest of the state of each global generator, in the order of `trace.GENERATORS`; 0 for one that is not used.

    Cheaper than `take_generators`, since it is asked at each step.
    """
    drawn = random.getstate()
    accelerators = [torch.cat(states) if (states := _take_cuda()) else None, _take_mps()]
    return [
        xxhash.xxh3_64_intdigest(torch.get_rng_state().numpy().data),
        _NUMPY.digest(),
        # The hash of a tuple of numbers is the same in each process; that of None, which may be in it, is not.
        hash((drawn[1], drawn[2] or 0.0)) % 2**64,
        *(0 if state is None else xxhash.xxh3_64_intdigest(state.numpy().data) for state in accelerators),
    ]


class _NumpyDigest:
    """The digest of the state of NumPy's generator, which takes 80 microseconds to ask for and is rarely used."""

    def __init__(self) -> None:
        # The generator that was asked last, its memory if it is NumPy's default one, the digest of that memory then,
        # and of its state.
        self._generator: Any = None
        self._memory: ctypes.Array[ctypes.c_char] | None = None
        self._known: tuple[int, int] | None = None

    def digest(self) -> int:
        """The digest now; uint64."""
        generator = np.random.get_bit_generator()  # type: ignore[attr-defined]  # not in its stubs
        if generator is not self._generator:
            self._generator, self._known = generator, None
            # 624 words and a position in them (NumPy, src/mt19937/mt19937.h).
            default = isinstance(generator, np.random.MT19937)
            self._memory = (ctypes.c_char * (625 * 4)).from_address(generator.ctypes.state_address) if default else None
        state: Any
        if self._memory is None:
            state = np.random.get_state(legacy=False)
            return xxhash.xxh3_64_intdigest(repr(state).encode())
        memory = xxhash.xxh3_64_intdigest(self._memory)
        if self._known is not None and self._known[0] == memory:
            return self._known[1]
        state = np.random.get_state(legacy=False)
        rest = (state["state"]["pos"], state["has_gauss"], state["gauss"])
        found = xxhash.xxh3_64_intdigest(state["state"]["key"].data, hash(rest) % 2**64)
        # Normal numbers come in pairs, of which the second waits outside of the generator's memory. Where none waits,
        # nobody can have drawn while that memory stayed as it was.
        self._known = None if state["has_gauss"] else (memory, found)
        return found


_NUMPY = _NumpyDigest()


def drew(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether something drew from torch's CPU or CUDA generators between two calls of `take_generators`.

    Args:
        before: What the first call returned.
        after: What the second call returned. A CUDA generator that did not exist before has been used.
    """
    if not torch.equal(before["torch"], after["torch"]) or len(before["cuda"]) != len(after["cuda"]):
        return True
    return any(not torch.equal(left, right) for left, right in zip(before["cuda"], after["cuda"], strict=True))
