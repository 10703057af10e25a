"""Small recorded loops with a fault in one place, for tests of what parity says about its cause."""

import torch
import torch.nn.functional as F
from torch import nn

import parity
from parity.judge.judging import judge
from parity.judge.several_runs import join


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 4))


def adamw(model):
    return torch.optim.AdamW(model.parameters(), 1e-3)


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.1)


def logsumexp_loss(output, target):
    """A right cross-entropy that rounds otherwise than the builtin one."""
    return (output.logsumexp(1) - output.gather(1, target[:, None])[:, 0]).mean()


def nothing(step, model):
    pass


def data(steps):
    """Yields batches of 32 points with a class that is linear in them."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(8, 4, generator=generator)
    for _ in range(steps):
        inputs = torch.randn(32, 8, generator=generator)
        yield inputs, (inputs @ weight).argmax(1)


def record(
    out,
    *,
    model=net,
    optimizer=adamw,
    loss=F.cross_entropy,
    criterion=F.cross_entropy,
    before=nothing,
    ready=nothing,
    steps=30,
    micro=32,
    scaler=None,
):
    """Records a training: `before` each step, and `ready` between backward and the optimizer's step, may do harm."""
    made = model()
    stepper = optimizer(made)
    with parity.Recorder(out, made, optimizers=stepper, criterion=criterion, scaler=scaler) as recorder:
        for step, (inputs, target) in enumerate(data(steps)):
            before(step, made)
            stepper.zero_grad()
            for rows, labels in zip(inputs.split(micro), target.split(micro), strict=True):
                output = made(rows)
                value = loss(output, labels)
                factor = len(rows) / len(inputs)
                recorder.forward(rows, output=output, target=labels, loss=value, factor=factor)
                (scaler.scale(value * factor) if scaler else value * factor).backward()
            recorder.backward()
            ready(step, made)
            if scaler:
                scaler.step(stepper)
                scaler.update()
            else:
                stepper.step()
            recorder.step()
    return out


def ask(folder, baseline, candidate):
    """The verdict on two loops, each given as the arguments of `record`."""
    joined = join([record(folder / "a", **baseline), record(folder / "b", **candidate)], across=False)
    (pair,) = judge(joined.run, joined.pairs).pairs
    return pair
