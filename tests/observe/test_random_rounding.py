"""Random rounding shows what rounding can do to a step, and changes nothing else."""

import torch
from torch import nn

from parity.observe.random_rounding import RandomRounding

U = 2.0**-24


def spread(compute, *, seeds=6):
    """The largest relative distance that rounding makes, in u of float32."""
    exact = compute()
    distances = []
    for seed in range(seeds):
        with RandomRounding(U, seed):
            moved = compute()
        distances.append(float((moved - exact).norm() / exact.norm()) / U)
    return max(distances)


def test_a_product_moves_by_a_few_u():
    left, right = (torch.randn(20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    assert 3 < spread(lambda: left @ right) < 6
    assert 0.7 < spread(lambda: left + right) < 1.5


def test_a_small_sum_of_large_terms_moves_as_far_as_its_terms():
    terms = torch.tensor([1e6, -1e6, 1.0], dtype=torch.float64)
    assert spread(lambda: (terms * 1.5).sum()) > 1e5


def test_a_maximum_of_two_that_rounding_can_swap_is_swapped():
    layer = torch.tensor([[1.0, 1.0 + 1e-9]], dtype=torch.float64)

    def gradient():
        inputs = layer.clone().requires_grad_()
        nn.functional.max_pool1d(inputs * 3, 2).sum().backward()
        return inputs.grad

    assert spread(gradient) > 1e6


def test_what_is_apart_is_not_swapped():
    layer = torch.tensor([[1.0, 1.1]], dtype=torch.float64)

    def gradient():
        inputs = layer.clone().requires_grad_()
        nn.functional.max_pool1d(inputs * 3, 2).sum().backward()
        return inputs.grad

    assert spread(gradient) < 20


def test_it_repeats_and_draws_from_no_generator_of_the_training():
    before = torch.get_rng_state()
    values = torch.ones(50, dtype=torch.float64)
    results = []
    for _ in range(2):
        with RandomRounding(U, 7):
            results.append(values * 2)
    assert torch.equal(*results) and not torch.equal(results[0], values * 2)
    assert torch.equal(torch.get_rng_state(), before)
    with RandomRounding(U, 7):
        view = values[:10]  # the memory of `values`, which stays as it is
    assert torch.equal(view, torch.ones(10, dtype=torch.float64))
