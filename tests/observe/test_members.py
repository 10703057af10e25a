"""A parameter or buffer that joins or is replaced is named; what only moves or computes otherwise is not."""

import pytest
import torch
from torch import nn

import parity
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
    assert members.changed() is None
    change(model, optimizer)
    assert members.changed() == (
        f"other parameters or buffers than those that the recording began with: {named}. What has joined or was "
        "replaced is not observed. Begin another Recorder with first_step= when the model has changed"
    )


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
    assert members.changed() is None
    # Nor is a later change missed.
    head(model, optimizer)
    assert "3.weight" in members.changed()


def test_a_recording_ends_before_the_step_whose_model_has_another_head(tmp_path):
    model, optimizer, _ = begun()
    criterion = nn.MSELoss()
    with (
        pytest.warns(RuntimeWarning, match="the recording ended before step 2: .*: 3.weight, 3.bias"),
        parity.Recorder(tmp_path / "run", model, optimizers=optimizer, criterion=criterion) as recorder,
    ):
        for step in range(4):
            if step == 2:
                head(model, optimizer)
                optimizer.add_param_group({"params": model[3].parameters()})
            optimizer.zero_grad()
            inputs, target = torch.ones(5, 4), torch.zeros(5, 2)
            output = model(inputs)
            loss = criterion(output, target)
            recorder.forward(inputs, output=output, target=target, loss=loss)
            loss.backward()
            recorder.backward()
            optimizer.step()
            recorder.step()
