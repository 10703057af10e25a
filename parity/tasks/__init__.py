"""What can be trained: the names of `--task`, known to the planning driver without importing torch.

A task is a module of four plain functions; letters: B rows of a batch.

    model() -> nn.Module                                  freshly initialised, on the CPU
    optimizer(parameters, lr) -> torch.optim.Optimizer
    batch(data, start, stop) -> tuple[Tensor, ...]        rows start to stop of the data, fresh tensors on the CPU
    forward(model, batch) -> (output, target)             what the loss gets, on the device of the batch
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, cast

from parity.errors import Trouble

if TYPE_CHECKING:
    import numpy as np
    import torch

TASKS = {"mnist-autoencoder": "parity.tasks.mnist_autoencoder"}


class Task(Protocol):
    """What `load_task` returns; see this module's docstring."""

    def model(self) -> torch.nn.Module: ...
    def optimizer(self, parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer: ...
    def batch(self, data: dict[str, np.ndarray], start: int, stop: int) -> tuple[torch.Tensor, ...]: ...
    def forward(self, model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]: ...


def check_task(name: str) -> None:
    """Raises `Trouble` unless there is a task of that name."""
    if name not in TASKS:
        raise Trouble(f"Unknown task {name!r}. Known tasks: {', '.join(TASKS)}.")


def load_task(name: str) -> Task:
    """Imports the task (and torch)."""
    check_task(name)
    return cast(Task, importlib.import_module(TASKS[name]))
