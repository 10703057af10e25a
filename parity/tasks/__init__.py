"""The protocol of a task: what is trained, in which order, and with which loss.

A task is a class or any other object (`file.py:attr`, `module:attr`) with these six functions:

    data() -> dict[str, array or Tensor]                  all with the same number of rows, in the order of training
    model() -> nn.Module                                  freshly initialised, on the CPU
    optimizer(parameters, lr) -> torch.optim.Optimizer    over the parameters of the model
    batch(data, start, stop) -> tuple[Tensor, ...]        rows start to stop (exclusive), as new tensors on the CPU
    forward(model, batch) -> (output, target)             what the loss is given, on the device of the batch
    loss(output, target) -> scalar Tensor                 the baseline, which `--loss builtin` names

`forward` returns a pair. The output is a tensor, or a tree (tuple, list or dict, nested as needed) of tensors, such as
`(reconstruction, code)` or `{"logits": ..., "features": ...}`; the target likewise. The loss is called with both. The
floating-point tensors of the output are its parts (`outputs.parts`). At least one of them must depend on the model's
parameters. The loss has a gradient for each part, the audit checks each of them, and they are sent back through the
model together.

`data` is called once, in the process that plans the run. The other functions are called in the process that trains, and
get the data as read-only NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

# Only for types: whoever reads the protocol does without torch.
if TYPE_CHECKING:
    import torch

    from parity.tasks.outputs import Outputs

    Loss = Callable[[Outputs, Outputs], torch.Tensor]


@dataclass(frozen=True)
class Task:
    """A loaded task.

    Attributes:
        model: As in the protocol; so are `optimizer`, `batch` and `forward`.
        losses: For each name of a loss, a function that makes the loss.
        float64_forms: For each loss whose float64 form is written out, a function of output and target as arrays that
            returns the loss and its gradient. Other losses are evaluated with autograd on float64 tensors.
    """

    model: Callable[[], torch.nn.Module]
    optimizer: Callable[[Iterable[torch.nn.Parameter], float], torch.optim.Optimizer]
    batch: Callable[[Mapping[str, np.ndarray], int, int], tuple[torch.Tensor, ...]]
    forward: Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], tuple[Outputs, Outputs]]
    losses: Mapping[str, Callable[[], Loss]]
    float64_forms: Mapping[str, Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]]
