"""The autograd graph shows the dtypes in which a model computes, whatever dtype its output has."""

import pytest
import torch
from torch import nn

from parity.observe.graph import narrowest


def model(within=lambda hidden: hidden, *, dtype=torch.float32):
    torch.manual_seed(0)
    first, last = nn.Linear(4, 3).to(dtype), nn.Linear(3, 2).to(dtype)
    return lambda inputs: last(within(first(inputs.to(dtype))))


class Doubled(torch.autograd.Function):
    """An operation of one's own, whose node is one of Python."""

    @staticmethod
    def forward(ctx, inputs):
        return inputs * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


@pytest.mark.parametrize(
    ("within", "found"),
    [
        (lambda hidden: hidden, torch.float32),
        (lambda hidden: hidden.double().float(), torch.float32),
        (lambda hidden: hidden.half().float(), torch.float16),
        (lambda hidden: Doubled.apply(hidden.bfloat16()).float(), torch.bfloat16),
        # Of two, the one with fewer bits.
        (lambda hidden: hidden.half().float() + hidden.bfloat16().float(), torch.bfloat16),
        # What only chooses rows is not computed with.
        (lambda hidden: hidden[torch.argsort(hidden[:, 0]).long()], torch.float32),
    ],
)
def test_the_narrowest_dtype_is_found_wherever_it_is(within, found):
    assert narrowest([model(within)(torch.randn(5, 4))]).name == str(found).removeprefix("torch.")


def test_autocast_is_seen_behind_logits_in_float32_and_the_parameters_count():
    inputs = torch.randn(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        output = model()(inputs)
    assert narrowest([output.float()]).name == "bfloat16"
    assert narrowest([model(dtype=torch.bfloat16)(inputs).float()]).name == "bfloat16"
    assert narrowest([model(dtype=torch.float64)(inputs)]).name == "float64"


def test_a_tensor_without_a_graph_shows_its_own_dtype_and_nothing_shows_none():
    assert narrowest([torch.zeros(2, dtype=torch.float16), torch.zeros(2, dtype=torch.int64)]).name == "float16"
    assert narrowest([]) is None
