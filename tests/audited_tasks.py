"""Small tasks for the audit, and losses for them: right ones, and wrong ones that are easily excused."""

import torch
import torch.nn.functional as F
from torch import nn


class Plain:
    """A regression on 512 rows; mean squared error."""

    def data(self):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(512, 8, generator=generator)
        return {"inputs": inputs, "target": inputs @ torch.randn(8, 4, generator=generator)}

    def model(self):
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

    def optimizer(self, parameters, lr):
        return torch.optim.Adam(parameters, lr)

    def batch(self, data, start, stop):
        return torch.tensor(data["inputs"][start:stop]), torch.tensor(data["target"][start:stop])

    def forward(self, model, batch):
        return model(batch[0]), batch[1]

    def loss(self, output, target):
        return F.mse_loss(output, target)


class Bfloat16(Plain):
    """The same in bfloat16."""

    def model(self):
        return super().model().bfloat16()

    def batch(self, data, start, stop):
        return tuple(tensor.bfloat16() for tensor in super().batch(data, start, stop))


class Mixed(Bfloat16):
    """A bfloat16 output, and a loss that is computed in float32."""

    def loss(self, output, target):
        return (
            F.mse_loss(output.float(), target.float())
            if output.dtype == torch.bfloat16
            else super().loss(output, target)
        )


class Scalar(Plain):
    """An output of no dimension."""

    def forward(self, model, batch):
        return model(batch[0]).mean(), batch[1].mean()


class Clusters(Plain):
    """Three classes that are soon learned: the gradient is a difference of numbers near 1."""

    def data(self):
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 3, (512,), generator=generator)
        inputs = 3 * F.one_hot(labels, 8).float() + 0.3 * torch.randn(512, 8, generator=generator)
        return {"inputs": inputs, "target": labels}

    def model(self):
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))

    def optimizer(self, parameters, lr):
        return torch.optim.Adam(parameters, 0.02)

    def loss(self, output, target):
        return F.cross_entropy(output, target)


class LogProbabilities(Clusters):
    """A model that ends in log_softmax, whose backward takes away what differs between the two usual losses for it."""

    def model(self):
        return nn.Sequential(*super().model(), nn.LogSoftmax(dim=1))

    def optimizer(self, parameters, lr):
        return torch.optim.SGD(parameters, 0.1)

    def loss(self, output, target):
        return F.nll_loss(output, target)


class Noisy(Plain):
    """A loss that adds noise to its output, and leaves some elements out."""

    def loss(self, output, target):
        return F.mse_loss(F.dropout(output + 0.1 * torch.randn_like(output), 0.2), target)


class Centred(nn.Module):
    """A loss with a running mean of its targets, which it assigns anew at each call."""

    momentum = 0.1

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, output, target):
        self.mean = (1 - self.momentum) * self.mean + self.momentum * target.mean(0).to(self.mean)
        return F.mse_loss(output, target + self.mean)


class CentredByHand(Centred):
    """The same, written out."""

    def forward(self, output, target):
        self.mean = (1 - self.momentum) * self.mean + self.momentum * target.mean(0).to(self.mean)
        return (output - (target + self.mean)).square().mean()


class CentredTooSlowly(CentredByHand):
    """Its mean follows too slowly: a wrong state."""

    momentum = 0.05


def squares(output, target):
    return (output - target).square().mean()


def squares_in_float32(output, target):
    return (output.float() - target.float()).square().mean()


def squares_back_in_bfloat16(output, target):
    return (output.float() - target.float()).square().mean().to(output.dtype)


def five_percent_in_bfloat16(output, target):
    return F.mse_loss(output, target) * (1.05 if output.dtype == torch.bfloat16 else 1.0)


def two_percent_in_bfloat16(output, target):
    return F.mse_loss(output, target) * (1.02 if output.dtype == torch.bfloat16 else 1.0)


def scaled_in_float32(output, target):
    return 1.0001 * squares_in_float32(output, target)


def cross_entropy_by_hand(output, target):
    return (output.logsumexp(dim=1) - output.gather(1, target[:, None])[:, 0]).mean()


def cross_entropy_scaled(output, target):
    return 1.01 * F.cross_entropy(output, target)


def cross_entropy(output, target):
    return F.cross_entropy(output, target)


def softmax_again(output, target):
    return F.nll_loss(output.exp().log_softmax(1), target)


def noisy_by_hand(output, target):
    noisy = F.dropout(output + 0.1 * torch.randn_like(output), 0.2)
    return (noisy - target).square().mean()


def noisy_and_doubled(output, target):
    return 2 * noisy_by_hand(output, target)
