"""States as bytes: to the bit, and without code in them."""

import pickle
import random

import numpy as np
import pytest
import torch

from parity.observe.generators import restore_generators, seed_generators, take_generators
from parity.train.saved_state import StateNotPortable, pack, unpack


class Planted:
    """Would run code when it is read back."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


def test_tensors_numbers_and_their_nests_come_back():
    state = {
        "float": 0.1,
        "none": None,
        "nest": [1, (2, "three", {"four": True})],
        "nan": torch.tensor([float("nan"), -0.0]),
        "bfloat16": torch.arange(3, dtype=torch.bfloat16),
        "wide": torch.tensor(2**62),
    }
    found = unpack(pack(state))
    assert found["nest"] == state["nest"] and found["float"] == 0.1 and found["none"] is None
    for name in ("nan", "bfloat16", "wide"):
        assert found[name].dtype == state[name].dtype
        assert found[name].reshape(-1).view(torch.uint8).tolist() == state[name].reshape(-1).view(torch.uint8).tolist()


def test_generators_go_on_where_they_stood():
    seed_generators(7)
    packed = pack(take_generators())
    drawn = random.random(), np.random.random(), torch.rand(3).tolist()
    restore_generators(unpack(packed))
    assert (random.random(), np.random.random(), torch.rand(3).tolist()) == drawn


def test_what_would_run_code_is_refused_on_both_sides():
    with pytest.raises(StateNotPortable):
        pack({"planted": Planted()})
    with pytest.raises(StateNotPortable):
        unpack(pickle.dumps({"state": Planted()}, protocol=2))


@pytest.mark.parametrize("cut", [0, 10, -20])
def test_a_part_is_refused(cut):
    packed = pack({"values": torch.arange(100)})
    with pytest.raises(StateNotPortable):
        unpack(packed[:cut])
