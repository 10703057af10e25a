"""A step in float64 that reaches the loop's own model leaves it as it was, and is the last one that is taken."""

import copy

import pyarrow.parquet as pq
import pytest
import torch
from one_step import take_step
from test_recorded_step import MSE, data
from torch import nn

import parity
from parity.observe.untouched import REACHES, ReachesLoop, left_alone


class Counting(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.calls = 0
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, inputs):
        self.calls += 1
        # Another tensor in the place of the buffer.
        self.mean = self.mean * 0.9 + inputs.mean(0).detach().float() * 0.1
        return inputs


def by_closure(model):
    for layer in model[1:3]:
        layer.forward = lambda inputs, own=layer.forward: own(inputs)


def by_hook(model):
    model[0].register_forward_hook(lambda _, inputs, output: model[1].forward(output))


def unpatched(_):
    pass


def net(patch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Counting(), nn.BatchNorm1d(4), nn.Linear(4, 3))
    patch(model)
    return model


def train(patch, *, out=None, steps=3):
    model = net(patch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    recorder = parity.Recorder(out, model, optimizers=optimizer, criterion=MSE) if out else None
    for step in range(steps):
        take_step(model, optimizer, MSE, *data(6 + step), recorder)
    if recorder:
        recorder.close()
    return model


@pytest.mark.parametrize("patch", [unpatched, by_closure, by_hook])
def test_a_recorded_model_is_that_of_a_bare_loop_to_the_bit(tmp_path, patch):
    bare, recorded = train(patch), train(patch, out=tmp_path / "run")
    for name, value in bare.state_dict().items():
        assert torch.equal(value, recorded.state_dict()[name]), name
    assert bare[1].calls == recorded[1].calls
    (why,) = pq.read_table(tmp_path / "run" / "trials.parquet")["shared_error"].to_pylist()
    assert why == (None if patch is unpatched else REACHES)


def parameter(model, _):
    model[0].weight.data[0, 0] = torch.nan


def attribute(model, _):
    model[1].calls += 1


def buffer(model, _):
    model[2].running_mean.add_(1)


def another_buffer(model, _):
    model[1].mean = model[1].mean + 1


def state(_, optimizer):
    next(iter(optimizer.state.values()))["momentum_buffer"].zero_()


@pytest.mark.parametrize("change", [parameter, attribute, buffer, another_buffer, state])
@pytest.mark.parametrize("error", [None, ArithmeticError, KeyboardInterrupt])
def test_what_is_changed_is_put_back(change, error):
    model = net(unpatched)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    MSE(model(data()[0]), data()[1]).backward()
    optimizer.step()
    before, calls = copy.deepcopy([model.state_dict(), optimizer.state_dict()]), model[1].calls
    with (
        pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else ReachesLoop),
        left_alone(model, [optimizer]),
    ):
        change(model, optimizer)
        if error:
            raise error
    after = [model.state_dict(), optimizer.state_dict()]
    assert str(before) == str(after)
    assert model[1].calls == calls


def test_what_is_not_changed_is_no_error():
    model = net(unpatched)
    with left_alone(model):
        copy.deepcopy(model)(data()[0])
    with pytest.raises(ArithmeticError), left_alone(model):
        raise ArithmeticError
