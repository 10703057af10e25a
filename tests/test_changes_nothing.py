"""Law 3: the checker changes nothing. Imports draw nothing; losses, generators and state are those of a bare loop."""

import random
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from one_step import take_step
from torch import nn

import parity

from conftest import ROOT, command

DRAWS = """
import importlib, random, sys
random.seed(1)
before = random.getstate()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(random.getstate() == before)
"""
PUBLIC = ["parity", "parity.run", "parity.api", "parity.recorder", "parity.pytest_plugin", "parity.render.progress"]


def drawn_by(*modules):
    """Whether importing the modules in a new process leaves Python's generator as it was."""
    out = subprocess.run(
        [sys.executable, "-c", DRAWS, *modules], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return not out.startswith("True")


def test_an_import_draws_nothing():
    assert not drawn_by(*PUBLIC)


def test_this_check_can_fail():
    assert drawn_by("rich.style")


FIRST = """
import random, sys
import torch
import parity
random.seed(1)
before = random.getstate()
model, mse = torch.nn.Linear(2, 1), torch.nn.MSELoss()
with parity.Recorder(sys.argv[1], model, criterion=mse) as recorder:
    output = model(torch.ones(3, 2))
    loss = mse(output, torch.zeros(3, 1))
    recorder.forward(torch.ones(3, 2), output=output, target=torch.zeros(3, 1), loss=loss)
    loss.backward()
    recorder.backward()
    recorder.step()
print(random.getstate() == before)
"""


def test_the_first_recorder_of_a_process_draws_nothing(tmp_path):
    """Whatever it imports only when it is made, or when it ends."""
    assert command("-c", FIRST, tmp_path / "run").stdout == "True\n"


# Criteria, each made anew: with randomness of the global generators, and with state of each kind


def dropout():
    return lambda output, target: F.mse_loss(F.dropout(output, 0.5), target)


def sampled_in_numpy():
    def criterion(output, target):
        rows = torch.from_numpy(np.random.permutation(len(output))[: len(output) // 2])
        return F.mse_loss(output[rows], target[rows]) * (1 + random.random())

    return criterion


def counting():
    calls = 0

    def criterion(output, target):
        nonlocal calls
        calls += 1
        return F.mse_loss(output, target) / calls

    return criterion


class Moving:
    """Divides by a moving average of its losses, which is a tensor written in place."""

    def __init__(self):
        self.average = torch.ones(())

    def __call__(self, output, target):
        loss = F.mse_loss(output, target)
        with torch.no_grad():
            self.average.mul_(0.9).add_(0.1 * loss)
        return loss / self.average


class Module(nn.Module):
    """Dropout and batch norm, which has buffers."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(2), nn.Dropout(0.3)

    def forward(self, output, target):
        return F.mse_loss(self.dropout(output) + self.norm(output).square(), target) + self.norm.running_mean.sum()


class Own:
    """Draws from a generator of its own."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(3)

    def __call__(self, output, target):
        return ((output - target) ** 2 * (torch.rand(output.shape, generator=self.generator) < 0.5)).mean()


def switching():
    def criterion(output, target):
        torch.set_default_dtype(torch.float32 if output.dtype == torch.float32 else torch.float64)
        return F.mse_loss(output, target)

    return criterion


CRITERIA = {
    "dropout": dropout,
    "sampled": sampled_in_numpy,
    "counting": counting,
    "moving average": Moving,
    "module": Module,
    "own generator": Own,
    "default dtype": switching,
}


def seed():
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)


def state():
    """Everything that a later draw would depend on."""
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
    )


def train(make, folder=None, **options):
    """Losses of a short loop, with and without a Recorder, and what it leaves in the process."""
    seed()
    criterion = make()
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    recorder = folder and parity.Recorder(folder, model, optimizers=optimizer, criterion=criterion, **options)
    with recorder or nullcontext():
        for _ in range(5):
            inputs = torch.randn(6, 4)
            target = inputs[:, :2] * random.random()
            losses.append(take_step(model, optimizer, criterion, inputs, target, recorder).item())
    return losses, [parameter.tolist() for parameter in model.parameters()], state()


@pytest.mark.parametrize("audit_every", [0, 1, 4])
@pytest.mark.parametrize("kind", CRITERIA)
def test_a_recorded_loop_has_the_bits_of_a_bare_one(kind, audit_every, tmp_path):
    recorded = train(CRITERIA[kind], tmp_path / "run", audit_every=audit_every)
    assert recorded == train(CRITERIA[kind])


@settings(max_examples=4, deadline=None)
@given(kind=st.sampled_from(sorted(CRITERIA)), every=st.integers(0, 6), seed=st.integers(0, 99))
def test_the_audit_changes_no_bit_of_a_checked_training(kind, every, seed):
    def digests(audit_every):
        result = parity.check(
            CRITERIA[kind](),
            baseline=CRITERIA[kind](),
            task=Small,
            steps=5,
            batch_size=8,
            seed=seed,
            audit_every=audit_every,
        )
        names = ["trial", "step", "loss", "loss_digest", "output_grad_digest", "param_digest"]
        return result.traces[[name for name in names if name in result.traces]].to_dict("list")

    before = state()
    assert digests(every) == digests(0)
    assert state() == before


class Small:
    """Two outputs of four inputs."""

    def data(self):
        generator = np.random.default_rng(0)
        return {"x": generator.standard_normal((40, 4)).astype(np.float32)}

    def model(self):
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))

    def optimizer(self, parameters, lr):
        return torch.optim.SGD(parameters, lr)

    def batch(self, data, start, stop):
        return (torch.tensor(data["x"][start:stop]),)

    def forward(self, model, batch):
        return model(batch[0]), batch[0][:, :2]

    def loss(self, output, target):
        return F.mse_loss(output, target)


def test_a_contract_leaves_the_state_of_a_loss_as_it_was():
    losses = Moving(), Moving()
    parity.check(losses[0], baseline=losses[1], task=Small, steps=1, batch_size=8, audit_every=0)
    after_one_step = losses[0].average.item()
    assert after_one_step == losses[1].average.item()


class Reader(nn.Module):
    """Words and their places, which a step in float64 adds in float64 even where it meets float32 words."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(5, 4), nn.Embedding(2, 4), nn.Linear(8, 1)

    def forward(self, tokens):
        return self.head((self.words(tokens) + self.places(torch.arange(2))).flatten(1))


def closed_over():
    """A model one of whose methods is a closure that holds its layer: a copy of the model calls the layer itself."""
    torch.manual_seed(0)
    model = Reader()
    words, usual = model.words, model.words.forward
    # LoRA's implementations replace methods like this (kohya-ss/sd-scripts #989).
    words.forward = lambda tokens: usual(tokens) + 0 * words.weight[0]
    return model


def train_closed_over(recorder_of):
    model = closed_over()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    generator = torch.Generator().manual_seed(0)
    with recorder_of(model, optimizer) as recorder:
        for _ in range(3):
            tokens = torch.randint(5, (6, 2), generator=generator)
            target = torch.randn(6, 1, generator=generator)
            optimizer.zero_grad()
            output = model(tokens)
            loss = F.mse_loss(output, target)
            if recorder:
                recorder.forward(tokens, output=output, target=target, loss=loss)
            loss.backward()
            if recorder:
                recorder.backward()
            optimizer.step()
            if recorder:
                recorder.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_a_float64_step_adds_to_no_gradient_of_a_layer_that_a_closure_holds(tmp_path):
    bare = train_closed_over(lambda *_: nullcontext())
    recorded = train_closed_over(
        lambda model, optimizer: parity.Recorder(tmp_path / "loop", model, optimizers=optimizer, criterion=nn.MSELoss())
    )
    for plain, other in zip(bare, recorded, strict=True):
        assert torch.equal(plain, other)
