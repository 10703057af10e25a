"""The noise of --noise: one ulp up or down, from generators of its own."""

import pytest
import torch

from parity.train.rounding_noise import round_randomly


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_each_element_moves_by_one_ulp_and_zeros_stay(dtype):
    grad = torch.randn(500, generator=torch.Generator().manual_seed(0)).to(dtype)
    grad[::10] = 0
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[grad.element_size()]
    moved = round_randomly(grad, seed=(0, 1, 2))
    steps = (moved.view(integers) - grad.view(integers)).abs()
    assert moved.dtype == dtype and set(steps[grad == 0].tolist()) == {0} and set(steps[grad != 0].tolist()) == {1}
    assert (moved > grad).any() and (moved < grad).any()


def test_it_repeats_by_its_seed_and_draws_from_no_global_generator():
    grad, before = torch.ones(100), torch.get_rng_state()
    assert torch.equal(round_randomly(grad, seed=(0, 1, 2)), round_randomly(grad, seed=(0, 1, 2)))
    assert not torch.equal(round_randomly(grad, seed=(0, 1, 2)), round_randomly(grad, seed=(0, 1, 3)))
    assert torch.equal(torch.get_rng_state(), before)
