"""A user's task: one that follows the protocol trains, dropout and batch norm included; others are refused and why."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity.ground.errors import Trouble
from parity.plan.task_spec import parse_task
from parity.plan.user_code import CodeSpec
from parity.tasks.loading import load_data, load_task_data


class Task:
    """A classifier with dropout and batch norm, whose batches are three tensors."""

    def data(self):
        generator = torch.Generator().manual_seed(0)
        points = torch.randn(72, 4, generator=generator)
        return {"points": points, "mask": points > -1, "labels": (points[:, 0] > 0).long()}

    def model(self):
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))

    def optimizer(self, parameters, lr):
        return torch.optim.SGD(parameters, lr)

    def batch(self, data, start, stop):
        return tuple(torch.tensor(data[name][start:stop]) for name in ("points", "mask", "labels"))

    def forward(self, model, batch):
        points, mask, labels = batch
        return model(points * mask), labels

    def loss(self, output, target):
        return nn.functional.cross_entropy(output, target)


def by_hand(output, target):
    return (output.logsumexp(dim=1) - output.gather(1, target[:, None])[:, 0]).mean()


def check(task, **options):
    return parity.check(by_hand, task=task, batch_size=16, steps=6, **options)


def test_random_draws_and_buffers_are_part_of_the_state():
    assert parity.check(task=Task, batch_size=16, steps=6, replicas=2).verdict == "identical"
    result = check(Task, device=["cpu", "cpu:threads=2", "cpu:plant=bfloat16"])
    found = {(pair.pair.axis, pair.pair.candidate.device, pair.pair.candidate.loss_name): pair for pair in result.pairs}
    assert found["loss", "cpu", "by_hand"].verdict in ("rounding", "identical", "report-only")
    assert found["device", "cpu:threads=2", "builtin"].verdict in ("rounding", "identical")
    rounded = found["device", "cpu:plant=bfloat16", "builtin"]
    assert (rounded.verdict, rounded.onset.quantity) == ("diverged", "output")


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("model", lambda self: 3, "model() returned int, a torch.nn.Module is needed"),
        ("model", lambda self: nn.ReLU(), "has no parameters to train"),
        ("optimizer", lambda self, parameters, lr: None, "a torch.optim.Optimizer is needed"),
        ("batch", lambda self, data, start, stop: [1], "batch() returned list, a tuple of tensors is needed"),
        ("forward", lambda self, model, batch: model(batch[0]), "a pair (output, target) is needed"),
        ("forward", lambda self, model, batch: ([], batch[2]), "as output, a tensor or a tree of tensors is needed"),
        ("forward", lambda self, model, batch: (model(batch[0]).long(), batch[2]), "a floating dtype is needed"),
        ("forward", lambda self, model, batch: (batch[0], batch[2]), "does not depend on the model's parameters"),
        ("loss", lambda self, output, target: output.sum(dim=1), "returned shape [16], a scalar is needed"),
    ],
)
def test_a_function_that_breaks_the_protocol_is_refused_with_what_is_needed(name, function, message):
    task = type("Broken", (Task,), {name: function})
    result = check(task)
    assert message in result.line and not result.passed
    assert result.judgement.exit_status == 2  # the baseline cannot train


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2], "data() returned list"),
        ({}, "data() returned an empty dict"),
        ({"x": np.zeros(3), "y": np.zeros(4)}, "x: 3 rows, y: 4 rows"),
        ({"x": np.zeros(())}, "x: no rows"),
    ],
)
def test_data_that_breaks_the_protocol_is_refused_with_what_is_needed(data, message):
    task = type("Broken", (Task,), {"data": lambda self: data})
    with pytest.raises(Trouble) as caught:
        load_data(CodeSpec(name="Broken", attr="Broken", given=task))
    assert message in str(caught.value) and "a dict of arrays or tensors is needed" in str(caught.value)


def test_missing_functions_of_a_task_are_named():
    with pytest.raises(Trouble, match=r"has no batch\(\), forward\(\)"):
        check(type("Broken", (Task,), {"batch": None, "forward": None}))


def test_a_place_for_mnist_is_refused_with_a_task_that_has_its_own_data():
    with pytest.raises(Trouble) as caught:
        load_task_data(CodeSpec(name="Task", attr="Task", given=Task), Path("mnist"))
    assert str(caught.value) == (
        "--data mnist says where to read MNIST from, and the task Task has its own data. Leave out --data."
    )


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(Trouble, match="mnist-autoencoder, mnist-classifier"):
        parse_task("cifar")


def test_data_cannot_be_written_to():
    (points, *_) = load_data(CodeSpec(name="Task", attr="Task", given=Task)).values()
    with pytest.raises(ValueError, match="read-only"):
        points[0] = 0
