"""A parameter or buffer that joins or is replaced is named; what only moves or computes otherwise is not."""

import pytest
import torch
from one_step import take_step
from torch import nn

import parity
from parity.judge import judge
from parity.judge.several_runs import join
from parity.observe.members import Members


def begun():
    model = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.BatchNorm1d(3), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    return model, optimizer, Members(model, [optimizer])


def head(model, _):
    model[3] = nn.Linear(3, 2)


def weight(model, _):
    model[3].weight = nn.Parameter(model[3].weight.detach().clone())


def longer(model, _):
    model.append(nn.Linear(2, 2, bias=False))


def removed(model, _):
    model[3].bias = None


def scale(model, _):
    model[3].register_buffer("scale", torch.ones(2))


def group(_, optimizer):
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(5))]})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (head, "3.weight, 3.bias"),
        (weight, "3.weight"),
        (longer, "4.weight"),
        (removed, "3.bias"),
        (scale, "3.scale"),
        (group, "a parameter of shape [5] of an optimizer"),
    ],
)
def test_what_is_not_observed_is_named(change, named):
    model, optimizer, members = begun()
    assert members.changed() == []
    change(model, optimizer)
    assert ", ".join(members.changed()) == named
    # At each step from there on.
    assert ", ".join(members.changed()) == named


def thaw(model, optimizer):
    optimizer.add_param_group({"params": model[3].parameters()})


def activation(model, _):
    model[1] = nn.ReLU()


def another_mean(model, _):
    model[2].running_mean = torch.ones(3)


def data(model, _):
    model[0].weight.data = torch.ones(3, 4)


def freeze(model, optimizer):
    model[0].requires_grad_(False)
    optimizer.param_groups[0]["params"].pop()


def cache(model, _):
    model[1].register_buffer("table", torch.ones(2), persistent=False)


@pytest.mark.parametrize("change", [thaw, activation, another_mean, data, freeze, cache])
def test_what_is_observed_nevertheless_is_not_named(change):
    model, optimizer, members = begun()
    change(model, optimizer)
    assert members.changed() == []
    # Nor is a later change missed.
    head(model, optimizer)
    assert "3.weight" in members.changed()


def record(path, changed_at):
    torch.manual_seed(0)
    model, optimizer, _ = begun()
    criterion = nn.MSELoss()
    with parity.Recorder(path, model, optimizers=optimizer, criterion=criterion) as recorder:
        for step in range(4):
            if step == changed_at:
                head(model, optimizer)
                optimizer.add_param_group({"params": model[3].parameters()})
            take_step(model, optimizer, criterion, torch.ones(5, 4), torch.zeros(5, 2), recorder)
    return path


def test_of_loops_whose_head_is_replaced_nothing_is_identical(tmp_path):
    runs = [record(tmp_path / name, at) for name, at in (("a", 2), ("b", 2), ("c", None))]
    joined = join([runs[0], *runs[1:]], across=False)
    alike, other = judge(joined.run, joined.pairs).pairs
    assert alike.verdict == "inconclusive"
    assert "3.weight, 3.bias joined the model or its optimizers after the recording" in alike.cause
    assert (other.verdict, other.onset.step) == ("diverged", 2)
    assert "parameters or buffers that have joined: 3.weight, 3.bias and none" in other.cause
