"""A trial repeated up to the step at which it differed, for the one tensor that shows which elements and bits do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from parity.plan.trial import Trial
from parity.store.trace import TENSOR_QUANTITIES
from parity.tasks.outputs import parts
from parity.train.step import begin, make_batch, take_step


def capture(trial: Trial, data: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Trains up to the trial's `capture`, unrecorded, and returns that tensor on the host.

    Args:
        trial: Its capture is a step, a quantity of `trace.QUANTITIES`, and the name of a parameter or None.
        data: The task's data.

    Returns:
        dtype[...] of the tensor (bfloat16, which NumPy does not have, as float32; for the input, of the batch's first
        tensor); None for a parameter without a gradient, and for quantities of many small things (state, buffers).

    Raises:
        TrialFailed: As `step.take_step`.
        Trouble: As `step.begin`.
    """
    assert trial.capture is not None
    last, quantity, name = trial.capture
    training = begin(trial)
    for step in range(last):
        take_step(training, data, step)
    # The step itself need not be taken for what is known before it.
    if quantity == "input":
        return _on_host(make_batch(training, data, last)[0])
    values = take_step(training, data, last)
    if quantity == "loss":
        return _on_host(values.loss)
    if quantity in ("output", "output_grad"):
        return _on_host(_in_one(parts(values.output) if quantity == "output" else values.output_grad))
    if quantity not in TENSOR_QUANTITIES:
        return None
    parameter = dict(training.model.named_parameters())[name or ""]
    # After the step, the gradient is still there: it is zeroed at the beginning of the next one.
    return _on_host(parameter.grad if quantity == "param_grad" else parameter)


def _in_one(found: Sequence[torch.Tensor]) -> torch.Tensor:
    """One tensor as it is; the parts of a tree one after the other, flat."""
    return found[0] if len(found) == 1 else torch.cat([part.detach().reshape(-1) for part in found])


def _on_host(tensor: torch.Tensor | None) -> np.ndarray | None:
    if tensor is None:
        return None
    tensor = tensor.detach().cpu()
    # A copy: the array of a tensor on the CPU would share its memory.
    return np.array((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())
