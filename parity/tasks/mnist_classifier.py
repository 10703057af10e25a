"""A small classifier of MNIST's digits: layers 784-64-10 with ReLU, and cross-entropy on integer labels.

Images are taken in file order.

Shapes: B rows of a batch.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from parity.tasks.losses import NumpyCrossEntropy
from parity.tasks.mnist_autoencoder import images

LOSSES = {"builtin": nn.CrossEntropyLoss, "numpy": lambda: NumpyCrossEntropy.apply}
FLOAT64_FORMS: dict[str, None] = {}  # autograd in float64 is quick enough for B x 10 logits


def model() -> nn.Module:
    """A multilayer perceptron, initialised by PyTorch; [B, 784] -> logits [B, 10]."""
    return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def optimizer(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam with PyTorch's defaults, except for the learning rate."""
    return torch.optim.Adam(parameters, lr=lr)


def batch(data: Mapping[str, np.ndarray], start: int, stop: int) -> tuple[torch.Tensor, ...]:
    """The images as float32[B, 784] in [0, 1], and the labels as int64[B]."""
    # Cross-entropy takes its labels as int64.
    return images(data, start, stop), torch.from_numpy(data["labels"][start:stop].astype(np.int64))


def forward(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits, float32[B, 10], and the labels, int64[B]."""
    pixels, labels = batch
    return model(pixels), labels
