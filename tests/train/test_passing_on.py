"""What is sent back through a model leaves nothing behind, and is sent only where that is certain."""

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from parity.train.passing_on import pass_on


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3), nn.LogSoftmax(1))


def state(of):
    return [each.clone() for each in (*of.state_dict().values(), torch.get_rng_state())]


@pytest.mark.parametrize("again", [False, True])
def test_nothing_is_left_behind_and_the_backward_has_the_same_bits(again):
    gradients = []
    for sent in (False, True):
        mine, inputs = model(), torch.ones(5, 4).cumsum(0)
        output = checkpoint(mine, inputs, use_reentrant=False) if again else mine(inputs)
        before = state(mine)
        if sent:
            assert pass_on(mine, output, [torch.eye(5, 3)]) > 1e6
            assert all(map(torch.equal, before, state(mine)))
            assert all(parameter.grad is None for parameter in mine.parameters())
        output.square().sum().backward()
        gradients.append([parameter.grad for parameter in mine.parameters()] + state(mine))
    assert all(map(torch.equal, *gradients))


def test_what_log_softmax_takes_away_does_not_arrive():
    mine = model()
    output = mine(torch.ones(5, 4).cumsum(0))
    assert pass_on(mine, output, [output.detach().exp()]) < 20
    assert pass_on(mine, output, [output.detach()]) > 1e6


@pytest.mark.parametrize("hook", ["parameter", "module", "output", "python"])
def test_a_backward_that_others_see_is_not_taken_twice(hook):
    seen, mine = [], model()
    if hook == "parameter":
        mine[0].weight.register_hook(seen.append)
    if hook == "module":
        mine[3].register_full_backward_hook(lambda *_: seen.append(1))
    inputs = torch.ones(5, 4).cumsum(0)
    output = checkpoint(mine, inputs.requires_grad_(), use_reentrant=True) if hook == "python" else mine(inputs)
    if hook == "output":
        output.register_hook(seen.append)
    assert math.isnan(pass_on(mine, output, [torch.eye(5, 3)])) and not seen
