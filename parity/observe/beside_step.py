"""What a loop's model computes in float64 beside its first step: from other parameters, and from the buffers before it.

Letters: P parameter tensors of the model; T buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from parity.observe.norms import l2_norm
from parity.observe.recorded_step import RecordedStep, buffers_of
from parity.observe.sketch import norms_and_sketches
from parity.observe.taken_step import widened

# How far from the parameters `elsewhere` looks, beside their length: far enough for what was zero to count.
_AWAY = 0.01
# Below this part of the gradient where the training begins, that of `elsewhere` is what saturated or cancelled numbers
# leave of it, and its rounding no longer that of float64.
_LEFT = 1e-3
# Roundoff of a buffer in float64 from which what it was before is taken, with a margin.
_ROUNDOFF = 8 * 2.0**-53


def elsewhere(step: RecordedStep) -> dict[str, Any]:
    """The gradient of the parameters where a small step against it leads to.

    Where a training begins, functions may agree that are not the same: of an adapter, or of a branch of a residual
    network whose last layer begins with zeros, nothing shows.

    Args:
        step: The first step, taken as far as the gradients.

    Returns:
        Facts of the trial: "elsewhere_norms", float64[P], and "elsewhere_sketches", float64[8 P], of the gradient of
        each parameter. Nothing where it is not finite or next to nothing, or where the model computes in a narrower
        dtype by itself.

    Raises:
        OracleUnavailable: The model cannot take the step in float64.
    """
    given = step.values["param_grad"]
    parameters = [*step.model.parameters()]
    starts = [each.detach().clone() for each in parameters]
    size, whole = _length([each.numpy() for each in starts]), _length(given)
    if step.narrow or not 0 < whole < np.inf:
        return {}
    try:
        with torch.no_grad():
            for parameter, grad in zip(parameters, given, strict=True):
                if grad is not None:
                    parameter.sub_(torch.from_numpy(grad), alpha=_AWAY * size / whole)
        found = step.take()["param_grad"]
    finally:
        with torch.no_grad():
            for parameter, start in zip(parameters, starts, strict=True):
                parameter.copy_(start)
    # No gradient is as good as one of zeros.
    norms, sketches = norms_and_sketches([np.zeros(0) if each is None else each for each in found])
    # Written with `not`, because every comparison with a NaN is False.
    if not np.isfinite(sketches).all() or not l2_norm(norms) >= _LEFT * whole:
        return {}
    return {"elsewhere_norms": norms.tolist(), "elsewhere_sketches": sketches.reshape(-1).tolist()}


def added_to_buffers(step: RecordedStep, before: Sequence[torch.Tensor | None]) -> dict[str, Any]:
    """What the step adds to the model's buffers, as far as the gradients.

    Args:
        step: The first step.
        before: The buffers of the loop's model as they were before it, on the CPU; as `buffers_of`.

    Returns:
        Facts of the trial: "buffer_added_norms", float64[T], and "buffer_added_sketches", float64[8 T], of each buffer;
        "buffer_added_inexact", the length of what rounding in float64 does to all of them. Nothing where the model has
        other buffers now, or computes in a narrower dtype by itself.

    Raises:
        OracleUnavailable: The model cannot be called in float64.
    """
    if step.narrow or _shapes(buffers_of(step.model)) != _shapes(before):
        return {}
    starts = [None if each is None else widened(each) for each in before]
    # With its backward, in which a model that computes its activations again moves them again.
    step.take(buffers=starts)
    # A module may have put other tensors in the places of its buffers.
    after = [None if each is None else each.detach() for each in buffers_of(step.model)]
    if _shapes(after) != _shapes(starts):
        return {}
    added, ends = [], []
    for one, start in zip(after, starts, strict=True):
        # Nothing of counters, which are no numbers of float64 here.
        if one is not None and start is not None and one.dtype == start.dtype == torch.float64:
            added.append((one - start).numpy())
            ends.append(one.numpy())
        else:
            added.append(np.zeros(0))
    norms, sketches = norms_and_sketches(added)
    return {
        "buffer_added_norms": norms.tolist(),
        "buffer_added_sketches": sketches.reshape(-1).tolist(),
        "buffer_added_inexact": _ROUNDOFF * _length(ends),
    }


def copies_of_buffers(model: torch.nn.Module) -> list[torch.Tensor | None]:
    """Copies of a model's buffers on the CPU."""
    return [None if each is None else each.detach().cpu().clone() for each in buffers_of(model)]


def _length(tensors: Sequence[np.ndarray | None]) -> float:
    """The L2 norm of all tensors together."""
    return l2_norm(np.array([0.0 if each is None else l2_norm(each) for each in tensors]))


def _shapes(tensors: Sequence[torch.Tensor | None]) -> list[torch.Size | None]:
    return [None if each is None else each.shape for each in tensors]
