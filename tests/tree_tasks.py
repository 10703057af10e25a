"""Tasks whose model returns several tensors, and losses over all of them: right ones, and wrong second terms."""

import torch
from torch import nn

WEIGHT = 0.1


class Autoencoder(nn.Module):
    """A reconstruction, and the code that it is computed from."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 8))

    def forward(self, inputs):
        code = self.encoder(inputs)
        return self.decoder(code), code


class Pair:
    """(reconstruction, code), as a tuple."""

    def data(self):
        return {"inputs": torch.randn(192, 8, generator=torch.Generator().manual_seed(0))}

    def model(self):
        return Autoencoder()

    def optimizer(self, parameters, lr):
        return torch.optim.Adam(parameters, lr)

    def batch(self, data, start, stop):
        return (torch.tensor(data["inputs"][start:stop]),)

    def forward(self, model, batch):
        (inputs,) = batch
        return model(inputs), inputs

    def loss(self, output, target):
        reconstruction, code = output
        return nn.functional.mse_loss(reconstruction, target) + WEIGHT * code.square().mean()


class Named(Pair):
    """The same as a dict, with a target that is a dict as well."""

    def forward(self, model, batch):
        (inputs,) = batch
        reconstruction, code = model(inputs)
        return {"reconstruction": reconstruction, "code": code}, {"inputs": inputs, "rows": torch.tensor(len(inputs))}

    def loss(self, output, target):
        return super().loss((output["reconstruction"], output["code"]), target["inputs"])


def by_hand(output, target):
    reconstruction, code = output
    return (reconstruction - target).square().mean() + WEIGHT * (code * code).sum() / code.numel()


def named_by_hand(output, target):
    return by_hand((output["reconstruction"], output["code"]), target["inputs"])


class _Square(torch.autograd.Function):
    """The mean square, with a gradient twice too large."""

    @staticmethod
    def forward(ctx, code):
        ctx.save_for_backward(code)
        return code.square().mean()

    @staticmethod
    def backward(ctx, grad_output):
        (code,) = ctx.saved_tensors
        return grad_output * 4 * code / code.numel()


def doubled_code(output, target):
    reconstruction, code = output
    return nn.functional.mse_loss(reconstruction, target) + WEIGHT * _Square.apply(code)


def named_doubled_code(output, target):
    return doubled_code((output["reconstruction"], output["code"]), target["inputs"])


def without_code(output, target):
    return nn.functional.mse_loss(output[0], target)
