"""The protocol of a task: what is trained, in which order, with which loss.

A task is a class or any object (`file.py:attr`, `module:attr`) with six plain functions; letters: B rows of a batch.

    data() -> dict[str, array or Tensor]                  all with the same number of rows, in the order of training
    model() -> nn.Module                                  freshly initialised, on the CPU
    optimizer(parameters, lr) -> torch.optim.Optimizer
    batch(data, start, stop) -> tuple[Tensor, ...]        rows start to stop of the data, fresh tensors on the CPU
    forward(model, batch) -> (output, target)             what the loss gets, on the device of the batch
    loss(output, target) -> scalar Tensor                 the baseline, `--loss builtin`

`data` is called once, in the driver; the others in the process that trains, with read-only NumPy arrays as data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from parity.tasks.outputs import Outputs

    Loss = Callable[[Outputs, Outputs], torch.Tensor]


@dataclass(frozen=True)
class Task:
    """A loaded task; see this module's docstring for the functions.

    Attributes:
        losses: By name, what makes the loss.
        float64_forms: Losses whose float64 form is written out: (output, target) as arrays -> loss, gradient.
    """

    model: Callable[[], torch.nn.Module]
    optimizer: Callable[[Iterable[torch.nn.Parameter], float], torch.optim.Optimizer]
    batch: Callable[[Mapping[str, np.ndarray], int, int], tuple[torch.Tensor, ...]]
    forward: Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], tuple[Outputs, Outputs]]
    losses: Mapping[str, Callable[[], Loss]]
    float64_forms: Mapping[str, Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]]
