"""A step in float64 draws what the step drew in its own dtype."""

import pytest
import torch
from torch.nn import functional

from parity.observe.same_draws import SameDraws

DRAWING = {
    "dropout": lambda x: functional.dropout(x, 0.3),
    "randn_like": lambda x: x + torch.randn_like(x),
    "rand": lambda x: x + torch.rand(x.shape, dtype=x.dtype),
    "normal_": lambda x: x + torch.empty_like(x).normal_(),
    "bernoulli": lambda x: x * torch.bernoulli(x.clamp(0, 1)),
    "gumbel": lambda x: functional.gumbel_softmax(x),
    "attention": lambda x: functional.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.5),
}


def drawn(name, inputs):
    torch.manual_seed(3)
    return DRAWING[name](inputs)


@pytest.mark.parametrize("name", DRAWING)
def test_the_same_numbers_are_drawn(name):
    inputs = torch.rand(7, 40, generator=torch.Generator().manual_seed(0)) + 0.1
    right = drawn(name, inputs)
    with SameDraws(torch.float32):
        wide = drawn(name, inputs.double())
    assert wide.dtype == torch.float64
    assert torch.allclose(wide, right.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["randn_like", "rand", "normal_"])
def test_this_check_can_fail(name):
    inputs = torch.rand(7, 40, generator=torch.Generator().manual_seed(0)) + 0.1
    assert not torch.allclose(drawn(name, inputs.double()), drawn(name, inputs).double(), rtol=1e-5, atol=1e-5)


def test_what_computes_is_not_narrowed():
    inputs = torch.rand(1, 7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with SameDraws(torch.float32):
        found = functional.scaled_dot_product_attention(inputs, inputs, inputs)
    right = ((inputs @ inputs.mT) / 12**0.5).softmax(-1) @ inputs
    assert float((found - right).norm() / right.norm()) < 1e-14
