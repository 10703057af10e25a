"""A loop's step in float64: called as the loop calls its model, from the generators that the loop had."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from parity.ground.errors import OracleUnavailable
from parity.observe.audit import oracle_of
from parity.observe.generators import take_generators
from parity.observe.recorded_step import RecordedStep

MSE = nn.MSELoss()


def data(rows=6):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(rows, 4, generator=generator), torch.randn(rows, 3, generator=generator)


def step_of(model, inputs, *, output, generators=None, target=None):
    target = data()[1] if target is None else target
    return RecordedStep(model, inputs, output=output, target=target, oracle=oracle_of(MSE), generators=generators)


def linear():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = linear()

    def forward(self, inputs, shift=None, *, scale=1.0):
        return self.layer(inputs) * scale + (0 if shift is None else shift)


@dataclass
class Result:
    hidden: torch.Tensor
    logits: torch.Tensor


class Several(nn.Module):
    """A model whose loop gives its loss one of several results."""

    def __init__(self):
        super().__init__()
        self.layer = linear()

    def forward(self, inputs):
        logits = self.layer(inputs)
        return Result(logits * 2, logits)


@pytest.mark.parametrize("called", ["one", "order", "name"])
def test_the_model_is_called_as_in_the_loop(called):
    model, (inputs, _) = TwoInputs(), data()
    given = {"one": inputs, "order": (inputs, inputs[:, :1]), "name": {"scale": 3.0, "inputs": inputs}}[called]
    arguments = {"one": ((inputs,), {}), "order": (given, {}), "name": ((), given)}[called]
    output = model(*arguments[0], **arguments[1])
    found = step_of(model, given, output=output).values["output"][0]
    assert found.dtype == np.float64
    assert np.allclose(found, output.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 3), (18,)])
def test_the_loops_output_is_found_among_what_the_model_returns(shape):
    model, (inputs, target) = Several(), data()
    output = model(inputs).logits.reshape(shape)
    step = step_of(model, inputs, output=output, target=target.reshape(shape))
    assert np.allclose(step.values["output"][0], output.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert np.abs(step.values["param_grad"][0]).max() > 0


def test_a_whole_result_as_output_works():
    model, (inputs, _) = Several(), data()
    oracle = oracle_of(lambda output, target: MSE(output.logits, target))
    step = RecordedStep(model, inputs, output=model(inputs), target=data()[1], oracle=oracle, generators=None)
    assert len(step.values["output"]) == 2


def test_another_output_is_told():
    with pytest.raises(OracleUnavailable, match=r"the loop's output, float64\[5\], is not what the model returns"):
        step_of(linear(), data()[0], output=torch.zeros(5), target=torch.zeros(5))


@pytest.mark.parametrize("noise", ["dropout", "normal"])
def test_the_step_draws_what_the_loop_drew_and_the_loop_does_not_notice(noise):
    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = linear()

        def forward(self, inputs):
            hidden = self.layer(inputs)
            return nn.functional.dropout(hidden) if noise == "dropout" else hidden + torch.randn_like(hidden)

    model, (inputs, _) = Drawing(), data()
    before = take_generators()
    output = model(inputs)
    after = torch.get_rng_state()
    step = step_of(model, inputs, output=output, generators=before)
    assert np.allclose(step.values["output"][0], output.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.get_rng_state(), after)
    # Without the state it draws other numbers.
    other = step_of(model, inputs, output=output).values["output"][0]
    assert not np.allclose(other, output.detach().numpy(), rtol=1e-3)


def test_a_repeat_is_the_same_step_and_the_update_comes_from_both_gradients():
    torch.manual_seed(0)
    model, (inputs, target) = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), data()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    output = model(inputs)
    MSE(output, target).backward()
    step = step_of(model, inputs, output=output)
    again = step.take()
    for quantity in again:
        for one, other in zip(step.values[quantity], again[quantity], strict=True):
            assert np.array_equal(one, other)
    step.update([optimizer], model, unchanged=True)
    optimizer.step()
    own = step.own_difference(model)
    for index in (0, 4):  # the first layer's weight, the last layer's
        size = np.linalg.norm(step.own_update[index])
        assert np.linalg.norm(own[index] - step.own_update[index]) < 1e-4 * size
        assert np.linalg.norm(step.values["update"][index] - step.own_update[index]) < 1e-2 * size
    assert np.array_equal(step.take()["param_grad"][0], again["param_grad"][0])  # its parameters are back


def test_a_changed_gradient_gives_no_whole_step():
    model, (inputs, target) = linear(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    output = model(inputs)
    MSE(output, target).backward()
    step = step_of(model, inputs, output=output)
    model.weight.grad *= 3
    step.update([optimizer], model, unchanged=False)
    assert "update" not in step.values
    assert np.allclose(step.own_update[0], -0.5 * model.weight.grad.numpy(), rtol=1e-6)
