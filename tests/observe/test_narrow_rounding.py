"""What a step in float64 computes in a narrower dtype is seen, and its rounding is measured; nothing else is."""

import numpy as np
import pytest
import torch

from parity.observe.narrow_rounding import NarrowRounding

WIDE = torch.linspace(0.1, 1, 12, dtype=torch.float64).reshape(3, 4)


@pytest.mark.parametrize(
    ("compute", "seen"),
    [
        (lambda: WIDE.exp() @ WIDE.T, False),
        # Made of no tensor, moved, viewed or taken from integers: exact.
        (lambda: WIDE + torch.arange(4, dtype=torch.float32), False),
        (lambda: WIDE * (torch.arange(4) > 2).float()[None].expand(3, 4), False),
        (lambda: torch.cat([torch.zeros(2), torch.ones(3)])[1:].double(), False),
        (lambda: WIDE.argmax(1) + 1, False),
        # The counter of an optimizer.
        (lambda: torch.tensor(0.0).add_(1), False),
        (lambda: torch.tensor(0.5).add_(1), True),
        (lambda: WIDE.float().double(), True),
        (lambda: WIDE + torch.arange(4.0).sin(), True),
        (lambda: torch.zeros(3, 4).copy_(WIDE), True),
        (lambda: torch.ones(3).mul_(0.1), True),
        (lambda: WIDE.bfloat16().softmax(1).double(), True),
    ],
)
def test_what_is_computed_in_a_narrower_dtype_is_seen(compute, seen):
    right = compute()
    with NarrowRounding() as noted:
        found = compute()
    assert noted.seen == seen
    assert torch.equal(found, right)


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 2.0**-24), (torch.bfloat16, 2.0**-8)])
def test_results_are_moved_by_a_few_of_their_own_units(dtype, unit):
    wide = torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = torch.get_rng_state()
    with NarrowRounding(seed=0):
        found, again = wide.to(dtype).double(), wide.sin()
    distance = float((found - wide).norm() / wide.norm())
    assert 0.5 * unit < distance < 4 * unit
    assert torch.equal(again, wide.sin()) and torch.equal(torch.get_rng_state(), drawn)
    with NarrowRounding(seed=0):
        assert np.array_equal(wide.to(dtype).double(), found)
