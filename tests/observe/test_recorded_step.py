"""A loop's step in float64: called as the loop calls its model, from the generators that the loop had."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity.ground.errors import OracleUnavailable
from parity.observe.audit import oracle_of
from parity.observe.beside_step import added_to_buffers, elsewhere
from parity.observe.generators import take_generators
from parity.observe.recorded_step import RecordedStep, buffers_of
from parity.store.stored_run import read_run

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


@pytest.mark.parametrize("momentum", [0.1, 0.2])
def test_what_a_step_adds_to_buffers_begins_with_what_they_were_before_it(momentum):
    model = nn.Sequential(linear(), nn.BatchNorm1d(3, momentum=momentum), nn.BatchNorm1d(3, track_running_stats=False))
    before = [None if each is None else each.clone() for each in buffers_of(model)]
    inputs = data()[0]
    step = step_of(model, inputs, output=model(inputs))
    loops = [None if each is None else each.clone() for each in buffers_of(model)]
    found = added_to_buffers(step, before)
    hidden = inputs.double() @ model[0].weight.detach().double().T + model[0].bias.detach().double()
    mean, variance = momentum * hidden.mean(0), momentum * (hidden.var(0) - 1)
    assert found["buffer_added_norms"][:2] == pytest.approx([mean.norm().item(), variance.norm().item()], rel=1e-12)
    # A counter, and what the second one has registered as None.
    assert found["buffer_added_norms"][2:] == [0.0] * 4
    assert len(found["buffer_added_sketches"]) == 8 * 6 and found["buffer_added_inexact"] < 1e-14
    assert all(one is other or torch.equal(one, other) for one, other in zip(buffers_of(model), loops, strict=True))


def test_nothing_is_said_of_buffers_that_were_others_before():
    model, inputs = linear(), data()[0]
    step = step_of(model, inputs, output=model(inputs))
    assert added_to_buffers(step, [torch.zeros(3)]) == {}


class ZeroBranch(nn.Module):
    """A branch that begins with zeros, of two functions that are the same where they begin; it counts its calls."""

    def __init__(self, bend):
        super().__init__()
        self.layer, self.bend, self.calls = linear(), bend, 0
        self.inner = nn.Linear(4, 3)
        self.last = nn.Parameter(torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        return self.layer(inputs) + self.last * self.bend(self.inner(inputs)) * self.calls


@pytest.mark.parametrize(
    ("bend", "same"), [(lambda x: x / 2 + x / 2, True), (lambda x: x.sum() / x.detach().sum() * x.detach(), False)]
)
def test_a_branch_of_zeros_shows_where_a_small_step_leads_to(bend, same):
    found, inputs = [], data()[0]
    for each in (lambda x: x * 1.0, bend):
        model = ZeroBranch(each)
        step = step_of(model, inputs, output=model(inputs))
        kept, found_first = [each.clone() for each in step.model.parameters()], step.values["param_grad"]
        found.append((found_first, elsewhere(step)))
        assert all(map(torch.equal, kept, step.model.parameters()))
        assert model.calls == 1
    (first, one), (second, other) = found
    for here, there in zip(first, second, strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=1e-14)
    distance = np.linalg.norm(np.subtract(one["elsewhere_sketches"], other["elsewhere_sketches"]))
    assert distance / np.linalg.norm(one["elsewhere_norms"]) == pytest.approx(0, abs=1e-12) if same else distance > 1e-5


def test_nothing_is_said_of_a_gradient_that_a_small_step_takes_to_nothing():
    """What is left of it is rounding, by which no two right models agree."""
    model = nn.Linear(1, 1, bias=False)
    inputs = torch.ones(2, 1)
    for target, known in ((0.99, False), (0.9, True)):
        with torch.no_grad():
            model.weight.fill_(1.0)
        step = step_of(model, inputs, output=model(inputs), target=torch.full((2, 1), target))
        assert step.values["param_grad"][0].item() == pytest.approx(2 * (1 - target), rel=1e-6)
        assert bool(elsewhere(step)) == known


class Particular(nn.Module):
    """Raises with parameters or buffers that it was not made with, as one that needs a positive definite matrix may."""

    def __init__(self):
        super().__init__()
        self.layer = linear()
        self.register_buffer("scale", torch.ones(1))
        self.start = self.layer.weight[0, 0].item()

    def forward(self, inputs):
        if abs(self.layer.weight[0, 0].item() - self.start) > 1e-9 or self.scale.item() != 1:
            raise ArithmeticError("not with these")
        return self.layer(inputs) * self.scale


def test_a_model_that_cannot_be_called_elsewhere_says_nothing_of_there(tmp_path, capsys):
    inputs, target = data()
    model = Particular()
    step = step_of(model, inputs, output=model(inputs))
    assert elsewhere(step) == {} and added_to_buffers(step, [torch.zeros(1)]) == {}
    # The steps of a recording are measured as without.
    optimizer = torch.optim.SGD(model.parameters(), 1e-12)
    with parity.Recorder(tmp_path / "run", model, optimizers=optimizer, criterion=MSE) as recorder:
        optimizer.zero_grad()
        output = model(inputs)
        loss = MSE(output, target)
        recorder.forward(inputs, output=output, target=target, loss=loss)
        loss.backward()
        recorder.backward()
        optimizer.step()
        recorder.step()
    (record,) = read_run(tmp_path / "run").trials
    assert record.shared_error is None and record.elsewhere_norms is None
    assert len(read_run(tmp_path / "run").evidence["step_errors"]) > 0
