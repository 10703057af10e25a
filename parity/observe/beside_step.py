"""What a loop's model computes in float64 beside its first step: from other parameters, and from the buffers before it.

Letters: P parameter tensors of the model; T buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.norms import l2_norm
from parity.observe.recorded_step import RecordedStep, buffers_of
from parity.observe.sketch import norms_and_sketches
from parity.observe.taken_step import Values, widened
from parity.observe.untouched import ReachesLoop

# How far `elsewhere` moves the parameters, relative to their norm: far enough that a layer of zeros counts.
_AWAY = 0.01
# A gradient that is smaller than this, relative to the one where the training begins, is what saturation or
# cancellation has left over, and not exact to the rounding of float64 any more.
_LEFT = 1e-3
# Roundoff of a buffer in float64 from which its earlier value is subtracted, with a margin.
_ROUNDOFF = 8 * 2.0**-53


def elsewhere(step: RecordedStep) -> dict[str, Any]:
    """The gradient of the parameters after a small step against it.

    Functions that are not the same may agree where a training begins: an adapter, or a branch of a residual network,
    contributes nothing as long as its last layer is zero.

    Args:
        step: The first step, taken as far as the gradients.

    Returns:
        Facts of the trial: "elsewhere_norms", float64[P], and "elsewhere_sketches", float64[8 P], of the gradient of
        each parameter. Nothing where it is not finite or next to zero, where the model cannot be called with these
        parameters, or where it computes in a narrower dtype by itself.

    Raises:
        ReachesLoop: As `RecordedStep.take`.
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
        taken = _taken_again(step)
    finally:
        with torch.no_grad():
            for parameter, start in zip(parameters, starts, strict=True):
                parameter.copy_(start)
    if taken is None:
        return {}
    # No gradient is as good as one of zeros.
    norms, sketches = norms_and_sketches([np.zeros(0) if each is None else each for each in taken["param_grad"]])
    # Written with `not`, because every comparison with a NaN is False.
    if not np.isfinite(sketches).all() or not l2_norm(norms) >= _LEFT * whole:
        return {}
    return {"elsewhere_norms": norms.tolist(), "elsewhere_sketches": sketches.reshape(-1).tolist()}


def added_to_buffers(step: RecordedStep, before: Sequence[torch.Tensor | None]) -> dict[str, Any]:
    """What the step, taken as far as the gradients, adds to the model's buffers.

    Args:
        step: The first step.
        before: The buffers of the loop's model as they were before it, on the CPU; as `buffers_of`.

    Returns:
        Facts of the trial: "buffer_added_norms", float64[T], and "buffer_added_sketches", float64[8 T], of each buffer;
        "buffer_added_inexact", the norm of what rounding in float64 does to all of them. Nothing where the model has
        other buffers now, cannot be called with the earlier ones, or computes in a narrower dtype by itself.

    Raises:
        ReachesLoop: As `RecordedStep.take`.
    """
    if step.narrow or _shapes(buffers_of(step.model)) != _shapes(before):
        return {}
    starts = [None if each is None else widened(each) for each in before]
    # With its backward, in which a model that recomputes its activations changes its buffers once more.
    if _taken_again(step, buffers=starts) is None:
        return {}
    # A module may have replaced its buffers by other tensors.
    after = [None if each is None else each.detach() for each in buffers_of(step.model)]
    if _shapes(after) != _shapes(starts):
        return {}
    added, ends = [], []
    for one, start in zip(after, starts, strict=True):
        # Nothing of counters, which are integers.
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


def _taken_again(step: RecordedStep, **options: Any) -> Values | None:
    """What `RecordedStep.take` returns, or None where the model cannot take the step: nothing is known of it there."""
    try:
        return step.take(**options)
    except ReachesLoop:
        raise
    except OracleUnavailable:
        return None


def _length(tensors: Sequence[np.ndarray | None]) -> float:
    """The L2 norm of all tensors together."""
    return l2_norm(np.array([0.0 if each is None else l2_norm(each) for each in tensors]))


def _shapes(tensors: Sequence[torch.Tensor | None]) -> list[torch.Size | None]:
    return [None if each is None else each.shape for each in tensors]
