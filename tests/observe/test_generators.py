"""Digests of the global generators: another state has another digest, whoever drew."""

import random

import numpy as np
import pytest
import torch

from parity.observe.generators import digest_generators, generators_restored
from parity.store.trace import GENERATORS


@pytest.fixture(autouse=True)
def _restored():
    with generators_restored():
        yield


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("torch", lambda: torch.rand(1)),
        ("numpy", np.random.rand),
        # The second of two normal numbers is drawn from what the first has left, outside of the generator's memory.
        ("numpy", np.random.standard_normal),
        ("python", random.random),
        ("python", lambda: random.gauss(0, 1)),
    ],
)
def test_each_draw_is_seen_and_nothing_else(name, draw):
    seen = []
    for _ in range(4):
        before = digest_generators()
        assert digest_generators() == before
        draw()
        after = digest_generators()
        changed = [each for each, old, new in zip(GENERATORS, before, after, strict=True) if old != new]
        assert changed == [name]
        seen.append(tuple(after))
    assert len(set(seen)) == 4


def test_a_state_that_comes_back_has_its_digest():
    before, state = digest_generators(), np.random.get_state()
    np.random.standard_normal()
    np.random.set_state(state)
    assert digest_generators() == before


def test_numpy_may_have_another_generator():
    default = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(3))
        before = digest_generators()
        assert digest_generators() == before
        np.random.rand()
        assert digest_generators() != before
    finally:
        np.random.set_bit_generator(default)
