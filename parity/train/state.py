"""The state of a training between two steps: parameters, buffers, optimizer state and random generators."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from parity.observe.generators import restore_generators, take_generators
from parity.observe.host import on_host


def take_state(next_step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of everything that the next steps depend on.

    Args:
        next_step: Number of the step that would be taken next, from 0.
        model: The model, on any device.
        optimizer: The optimizer of its parameters.

    Returns:
        "step", "model", "optimizer" and "generators"; tensors stay on their devices.
    """
    return {
        "step": next_step,
        # state_dict() refers to the live tensors, which the next step changes.
        "model": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "generators": take_generators(),
    }


def restore_state(state: dict[str, Any], model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Writes a state from `take_state` into a model on any device, its optimizer, and this process's generators."""
    model.load_state_dict(state["model"])
    # A copy: the optimizer keeps tensors that it is given, and would change the stored ones.
    optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    restore_generators(state["generators"])


def parameter_norms(model: torch.nn.Module) -> list[float]:
    """L2 norm of each parameter tensor, summed in float64 on the CPU; in the model's order."""
    hosts = map(on_host, model.parameters())
    return [float((torch.view_as_real(host) if host.is_complex() else host).double().norm()) for host in hosts]


def optimizer_settings(optimizers: Sequence[torch.optim.Optimizer]) -> str | None:
    """Classes and settings in words, as in "Adam(lr=0.001, ...)"; None where there is no optimizer."""
    described = []
    for optimizer in optimizers:
        groups = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        each = [", ".join(f"{name}={_setting(value)}" for name, value in sorted(group.items())) for group in groups]
        # Groups with equal settings are described once.
        described.append(f"{type(optimizer).__name__}({'; '.join(dict.fromkeys(each))})")
    return ", ".join(described) or None


def _setting(value: Any) -> Any:
    # A rate may be a tensor, whose repr names its device.
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """The state with its tensors on the CPU, so that it can be sent to a process without the device."""
    return {name: _moved(value) for name, value in state.items()}


def _moved(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {name: _moved(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        # Lists and tuples keep their types, which `load_state_dict` and the generators expect.
        return type(value)(_moved(item) for item in value)
    return value
