"""The reference experiment: an autoencoder on MNIST with layers 784-128-64-12-3 and back, trained with Adam.

Images are taken in file order.

Shapes: B rows of a batch.
"""

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from parity.tasks.losses import NumpyMSE, mse_float64

# From the pixels to the code; the decoder has the same widths in reverse.
WIDTHS = (784, 128, 64, 12, 3)
LOSSES = {"builtin": nn.MSELoss, "numpy": lambda: NumpyMSE.apply}
# The audit evaluates these, and need not run autograd in float64.
FLOAT64_FORMS = {"builtin": mse_float64, "numpy": mse_float64}


def model() -> nn.Module:
    """Linear layers with ReLU between them and Sigmoid at the end, initialised by PyTorch; [B, 784] -> [B, 784]."""
    encoder = _layers(WIDTHS)
    decoder = _layers(WIDTHS[::-1])
    # Without the last ReLU of each: the code is not clipped, and the pixels end in a Sigmoid instead.
    return nn.Sequential(nn.Sequential(*encoder[:-1]), nn.Sequential(*decoder[:-1], nn.Sigmoid()))


def optimizer(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam with PyTorch's defaults, except for the learning rate."""
    return torch.optim.Adam(parameters, lr=lr)


def batch(data: Mapping[str, np.ndarray], start: int, stop: int) -> tuple[torch.Tensor, ...]:
    """The images as float32[B, 784] in [0, 1]."""
    return (images(data, start, stop),)


def forward(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The reconstruction, and the input as its target; both float32[B, 784]."""
    (pixels,) = batch
    return model(pixels), pixels


def images(data: Mapping[str, np.ndarray], start: int, stop: int) -> torch.Tensor:
    """A new float32[B, 784] in [0, 1]: the pixels divided by 255, as torchvision's `ToTensor` does."""
    # astype makes a new array, since those of the task are read-only.
    return torch.from_numpy(data["images"][start:stop].astype(np.float32) / np.float32(255))


def _layers(widths: tuple[int, ...]) -> list[nn.Module]:
    """A Linear and a ReLU for each step from one width to the next."""
    return [
        layer for width, next_width in itertools.pairwise(widths) for layer in (nn.Linear(width, next_width), nn.ReLU())
    ]
