"""The L2 norm of an array, the same on any number of threads that NumPy may use."""

from __future__ import annotations

import math

import numpy as np
import torch


def l2_norm(array: np.ndarray) -> float:
    """L2 norm of dtype[...] in float64, summed by torch, whose threads are pinned.

    `numpy.linalg.norm` sums on as many threads as the machine has cores: its last bits depend on them, and beside a
    busy neighbour it waits for them.
    """
    flat = torch.from_numpy(np.require(array, np.float64, ["C", "W"])).reshape(-1)
    return math.sqrt(float(torch.dot(flat, flat)))
