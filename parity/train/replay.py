"""A trial repeated up to the step where it parted, for the one tensor that tells which elements and bits are wrong."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from parity.plan.trial import Trial
from parity.train.step import begin, make_batch, take_step


def capture(trial: Trial, data: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Trains up to the trial's `capture`, unrecorded, and returns that tensor on the host.

    Args:
        trial: Its capture is a step, a quantity of `trace.QUANTITIES`, and the name of a parameter or None.
        data: The task's.

    Returns:
        dtype[...] of the tensor (of bfloat16, which NumPy lacks, as float32), of the input the batch's first; None for
        a parameter without a gradient.

    Raises:
        TrialFailed: As `step.take_step`.
        Trouble: As `step.begin`.
    """
    assert trial.capture is not None
    last, quantity, name = trial.capture
    training = begin(trial)
    for step in range(last):
        take_step(training, data, step)
    if quantity == "input":
        return _on_host(make_batch(training, data, last)[0])
    values = take_step(training, data, last)
    if quantity in ("output", "loss", "output_grad"):
        return _on_host(getattr(values, quantity))
    parameter = dict(training.model.named_parameters())[name or ""]
    return _on_host(parameter.grad if quantity == "param_grad" else parameter)


def _on_host(tensor: torch.Tensor | None) -> np.ndarray | None:
    if tensor is None:
        return None
    tensor = tensor.detach().cpu()
    return np.array((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())
