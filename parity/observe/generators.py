"""Random generators: the global ones of Python, NumPy, torch and its accelerators, taken and put back."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


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
