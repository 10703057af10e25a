"""Closures that optimizers are given: they are called as the optimizer calls them."""

import pytest
import torch
from torch import nn

import parity


class Asks(torch.optim.SGD):
    """Asks its closure for the gradient."""

    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure(backward=True)
        super().step()
        return loss


class Scales(torch.optim.SGD):
    """Takes something other than a closure, which can be called."""

    def step(self, scale, closure=None):
        assert isinstance(scale, nn.Module)
        return super().step(closure)


@pytest.mark.parametrize("kind", [Asks, Scales])
def test_the_step_gets_the_arguments_that_it_was_given(tmp_path, one_thread, kind):
    model = nn.Linear(3, 1)
    optimizer = kind(model.parameters(), lr=0.1)
    inputs, target = torch.randn(4, 3), torch.randn(4, 1)
    with parity.Recorder(tmp_path / "out", model, optimizers=optimizer) as recorder:

        def closure(*, backward):
            output = model(inputs)
            loss = (output - target).square().mean()
            recorder.forward(inputs, output=output, target=target, loss=loss)
            if backward:
                loss.backward()
            recorder.backward()
            return loss

        if kind is Scales:
            closure(backward=True)
        optimizer.step(closure if kind is Asks else nn.Identity())
        recorder.step()
