"""Output and target may both come from the model (a contrastive loss): the gradient of the target trains as well."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import parity

ROWS = 16
SIZES = {"image": 10, "text": 12}


def contrast(one, other):
    """Each row of one is to be most alike to its own row of the other, and the reverse."""
    likeness = one @ other.T / 0.2
    own = torch.arange(len(one))
    return (F.cross_entropy(likeness, own) + F.cross_entropy(likeness.T, own)) / 2


class Towers:
    """Images and texts that are made from the same numbers, each with a tower of its own."""

    def data(self):
        generator = torch.Generator().manual_seed(0)
        common = torch.randn(8 * ROWS, 6, generator=generator)
        return {name: common @ torch.randn(6, size, generator=generator) for name, size in SIZES.items()}

    def model(self):
        return nn.ModuleDict({name: nn.Linear(size, 8) for name, size in SIZES.items()})

    def optimizer(self, parameters, lr):
        return torch.optim.SGD(parameters, 0.1)

    def batch(self, data, start, stop):
        return tuple(torch.tensor(data[name][start:stop]) for name in SIZES)

    def forward(self, model, batch):
        return tuple(F.normalize(model[name](rows), dim=1) for name, rows in zip(SIZES, batch, strict=True))

    def loss(self, output, target):
        return contrast(output, target)


class Stacked(Towers):
    """Both in one output."""

    def forward(self, model, batch):
        return torch.stack(super().forward(model, batch), 1), torch.arange(len(batch[0]))

    def loss(self, output, target):
        return contrast(output[:, 0], output[:, 1])


class Negated(torch.autograd.Function):
    """The same values, and the gradient with the other sign."""

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, grad_output):
        return -grad_output


def by_logsumexp(output, target):
    likeness = output @ target.T / 0.2
    return (likeness.logsumexp(1).mean() + likeness.logsumexp(0).mean()) / 2 - likeness.diagonal().mean()


def detached(output, target):
    return contrast(output, target.detach())


def detached_in_large_batches(output, target):
    return contrast(output, target.detach() if len(output) > 8 else target)


def negated_in_large_batches(output, target):
    return contrast(output, Negated.apply(target) if len(output) > 8 else target)


def one_direction(output, target):
    return F.cross_entropy(output @ target.T / 0.2, torch.arange(len(output)))


def stacked_by_logsumexp(output, target):
    return by_logsumexp(output[:, 0], output[:, 1])


def stacked_and_detached(output, target):
    return detached(output[:, 0], output[:, 1])


def check(candidate, task=Towers):
    return parity.check(candidate, task=task, steps=5, batch_size=ROWS)


@pytest.mark.parametrize(("candidate", "task"), [(by_logsumexp, Towers), (stacked_by_logsumexp, Stacked)])
def test_a_right_loss_passes_and_both_towers_learn_as_in_a_loop_by_hand(candidate, task):
    result = check(candidate, task)
    assert result.verdict == "rounding" and result.worst.decision.audited == 5, result.line
    towers = Towers()
    data = {name: values.numpy() for name, values in towers.data().items()}
    torch.manual_seed(0)
    model = towers.model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for start in range(0, 5 * ROWS, ROWS):
        optimizer.zero_grad()
        loss = contrast(*towers.forward(model, towers.batch(data, start, start + ROWS)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for _, trace in result.traces.groupby("loss_name"):
        assert list(trace.loss) == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("candidate", [detached, detached_in_large_batches, negated_in_large_batches])
def test_a_wrong_gradient_of_the_target_is_caught_there(candidate):
    result = check(candidate)
    assert (result.verdict, result.onset.step, result.onset.quantity) == ("diverged", 0, "target_grad"), result.line


@pytest.mark.parametrize(("candidate", "task"), [(one_direction, Towers), (stacked_and_detached, Stacked)])
def test_a_wrong_gradient_of_the_output_is_caught_there(candidate, task):
    result = check(candidate, task)
    assert (result.verdict, result.onset.step, result.onset.quantity) == ("diverged", 0, "output_grad"), result.line
