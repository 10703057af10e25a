"""Closures are called as the optimizer calls them, and no hook is left of a step that is not measured."""

import pytest
import torch
from torch import nn
from torch.nn.modules import module as modules

import parity
from parity.observe.measured_steps import MeasuredSteps


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


def test_no_hook_waits_for_a_step_that_will_not_be_measured(one_thread):
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1))
    before = len(modules._global_forward_pre_hooks)
    steps = MeasuredSteps(model, [], oracle=lambda *_: None, compiled=False)
    assert len(modules._global_forward_pre_hooks) == before + 1
    steps.stop("not wanted")
    assert len(modules._global_forward_pre_hooks) == before
