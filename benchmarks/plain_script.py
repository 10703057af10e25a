"""The reference experiment as people write it: one loss after the other, printing every 20th step.

This is the script that `parity` is measured against (see speed.py); it shares no code with the package.

    python benchmarks/plain_script.py --data ROOT      ROOT: a torchvision root that holds MNIST
"""

import argparse
import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

EPOCHS = 2
BATCH_SIZE = 256


class NumpyMSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output, target)
        difference = output.detach().cpu().numpy() - target.detach().cpu().numpy()
        return torch.tensor(np.mean(difference**2), dtype=output.dtype, device=output.device)

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * 2 * (output - target) / output.numel(), None


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(784, 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 12),
            nn.ReLU(),
            nn.Linear(12, 3),
        )
        self.decoder = nn.Sequential(
            nn.Linear(3, 12),
            nn.ReLU(),
            nn.Linear(12, 64),
            nn.ReLU(),
            nn.Linear(64, 128),
            nn.ReLU(),
            nn.Linear(128, 784),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.decoder(self.encoder(x))


def train(name, criterion, root):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    data = datasets.MNIST(root, train=True, transform=transforms.ToTensor())
    loader = DataLoader(data, batch_size=BATCH_SIZE, shuffle=False)
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(EPOCHS):
        for step, (images, _) in enumerate(loader, start=1):
            images = images.view(images.size(0), -1)
            output = model(images)
            loss = criterion(output, images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 20 == 1 or step == len(loader):
                print(f"{name} epoch {epoch + 1} step {step} loss {loss.item():.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    root = parser.parse_args().data
    train("builtin", nn.MSELoss(), root)
    train("numpy", NumpyMSE.apply, root)
