"""Tasks whose step in float64 is hard to repeat: they draw, have buffers, hooks, or an optimizer of their own."""

import torch
from torch import nn


class Drawing:
    """Dropout draws, and a batch norm has buffers; two parameters are not the optimizer's."""

    def data(self):
        generator = torch.Generator().manual_seed(0)
        return {"inputs": torch.randn(64, 8, generator=generator), "target": torch.randn(64, 4, generator=generator)}

    def model(self):
        return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 4))

    def optimizer(self, parameters, lr):
        return torch.optim.SGD([*parameters][:-2], lr)

    def batch(self, data, start, stop):
        return torch.tensor(data["inputs"][start:stop]), torch.tensor(data["target"][start:stop])

    def forward(self, model, batch):
        return model(batch[0]), batch[1]

    def loss(self, output, target):
        return nn.functional.mse_loss(output, target)


class Doubling(torch.optim.SGD):
    """Doubles its gradients in place, past torch's count of changes."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.data.mul_(2)
        return super().step(closure)


class Doubled(Drawing):
    """The same, without draws."""

    def model(self):
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def optimizer(self, parameters, lr):
        return Doubling(parameters, lr)


class Clamped(Doubled):
    """Gradients are clamped by hooks, which are there once the optimizer is made."""

    def optimizer(self, parameters, lr):
        parameters = [*parameters]
        for parameter in parameters:
            parameter.register_hook(lambda grad: grad.clamp(-0.01, 0.01))
        return torch.optim.SGD(parameters, lr)


class Noisy(nn.Module):
    """Draws as the global generators do not show."""

    def __init__(self, forks):
        super().__init__()
        self.forks = forks
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def noise(self, inputs):
        if not self.forks:
            return torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0), dtype=inputs.dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return torch.randn_like(inputs)

    def forward(self, inputs):
        return self.layers(inputs + 0.1 * self.noise(inputs))


class OwnGenerator(Doubled):
    def model(self):
        return Noisy(forks=False)

    def optimizer(self, parameters, lr):
        return torch.optim.SGD(parameters, lr)


class Forked(OwnGenerator):
    def model(self):
        return Noisy(forks=True)
