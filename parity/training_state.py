"""Where a training stands between two steps: parameters, buffers, optimizer state and random generators."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def take_state(next_step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of all that the next steps depend on."""
    return {
        "step": next_step,
        "model": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "generators": take_generators(),
    }


def restore_state(state: dict[str, Any], model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts a model, its optimizer and this process's generators where they stood; on any device."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    restore_generators(state["generators"])


def parameter_norms(model: torch.nn.Module) -> list[float]:
    """L2 norm of each parameter tensor, summed in float64 on the CPU, in the model's order."""
    return [float(parameter.detach().cpu().double().norm()) for parameter in model.parameters()]


def optimizer_settings(optimizers: Sequence[torch.optim.Optimizer]) -> str | None:
    """Classes and settings in words, as in "Adam(lr=0.001, ...)"; None where there is no optimizer."""
    told = []
    for optimizer in optimizers:
        groups = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        each = [", ".join(f"{name}={_setting(value)}" for name, value in sorted(group.items())) for group in groups]
        told.append(f"{type(optimizer).__name__}({'; '.join(dict.fromkeys(each))})")
    return ", ".join(told) or None


def _setting(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def take_generators() -> dict[str, Any]:
    """The states of the global generators."""
    return {
        "python": random.getstate(),
        "numpy": _plain(np.random.get_state()),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def restore_generators(states: dict[str, Any]) -> None:
    """Puts the global generators where they stood; those of accelerators only where this process has as many."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    if states["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def _plain(state: Any) -> tuple[Any, ...]:
    """NumPy's state without an array, so that it can be stored."""
    name, keys, *rest = state
    return (name, keys.tolist(), *rest)


def on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """The state with its tensors on the CPU, so that it can go to a process without the device."""
    return {name: _moved(value) for name, value in state.items()}


def _moved(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {name: _moved(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(item) for item in value)
    return value
