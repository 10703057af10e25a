"""Calls of a loss that may be anybody's: guarded, checked, and on tensors made for the one call."""

from __future__ import annotations

import contextlib
import math
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from parity.observe.audit import Oracle
from parity.tasks.losses import Loss

Finding = tuple[str, str]  # status, reason
Layout = Callable[[torch.Tensor], torch.Tensor]
PASSED: Finding = ("passed", "")
GRAVITY = ("failed", "limited", "passed", "not applicable")  # where an item has several findings, the first is its own
REASON_LENGTH = 300
# Reads and writes the state of each generator that a loss might share with the training.
GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "torch's": (torch.get_rng_state, torch.set_rng_state),
    "NumPy's": (np.random.get_state, np.random.set_state),
    "Python's": (random.getstate, random.setstate),
    "CUDA's": (  # where nothing has used CUDA yet there is no state, and asking would create a context
        lambda: torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state_all,
    ),
}


class Broken(Exception):  # noqa: N818 - names what it reports: the loss did not do what was asked
    """The loss gave no scalar or no gradient; the message says what it gave."""


class Raised(Broken):
    """The loss or its backward raised; the message says what."""


@dataclass(frozen=True)
class Case:
    """What an item looks at.

    Attributes:
        loss: What is judged: the candidate, or the baseline itself.
        baseline: What it is held to.
        oracle: The baseline in float64.
        output: dtype[R, ...].
        target: What belongs to it.
        own_grad_u: The baseline's own gradient error on this output, in u.
        own_loss_u: The baseline's own loss error on this output, in u.
        target_learns: Whether the target requires a gradient in this training.
        deadline_s: On the monotonic clock; a slow loss is looked at less closely.
    """

    loss: Loss
    baseline: Loss
    oracle: Oracle
    output: torch.Tensor
    target: torch.Tensor
    own_grad_u: float = 1.0
    own_loss_u: float = 1.0
    target_learns: bool = False
    deadline_s: float = math.inf


@dataclass(frozen=True)
class Check:
    """An entry of the registry.

    Attributes:
        function: The item.
        needs: Items before it that must have passed.
        unless_limited: The item before it that must not be limited.
        when_raised: The status of a loss that raises.
        when_broken: The status of a loss that gives no scalar or no gradient.
    """

    function: Callable[[Case], Finding]
    needs: tuple[str, ...] = ()
    unless_limited: str = ""
    when_raised: str = "failed"
    when_broken: str = "failed"


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Silences warnings, and turns whatever the loss raises, `sys.exit` included, into `Raised`.

    A loss that switches gradients off and leaves them so would otherwise be taken for a baseline that has none.
    """
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            yield
    except (Exception, SystemExit) as error:
        text = " ".join(f"raised {type(error).__name__}: {error}".split())
        raise Raised(text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…") from error


def lay_out(values: torch.Tensor, layout: Layout = torch.clone) -> torch.Tensor:
    """A tensor of equal values for the loss to use up; no leaf, as in training, so that it may be written to."""
    return layout(values.detach().requires_grad_())


def call(loss: Loss, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    with guarded():
        value = loss(output, target)
    if not isinstance(value, torch.Tensor):
        raise Broken(f"returned {type(value).__name__}, a tensor is needed")
    if value.shape != ():
        raise Broken(f"returned shape {list(value.shape)}, a scalar is needed")
    if value.is_complex():
        raise Broken(f"returned {value.dtype}, a real number is needed")
    return value


def backward(value: torch.Tensor, output: torch.Tensor, *, grad_output: float = 1.0) -> torch.Tensor:
    if not value.requires_grad:
        raise Broken("the loss has no gradient; a detour through NumPy needs a torch.autograd.Function")
    with guarded():
        (grad,) = torch.autograd.grad(value, output, torch.full_like(value, grad_output), allow_unused=True)
    if grad is None:
        raise Broken("the loss has no gradient for its output, which it must depend on")
    return grad.to_dense() if grad.is_sparse else grad


def evaluate(
    loss: Loss,
    output: torch.Tensor,
    target: torch.Tensor,
    *,
    grad_output: float = 1.0,
    layout: Layout = torch.clone,
    target_layout: Layout = torch.clone,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, dtype[], and gradient for the output, dtype[R, ...], of tensors made for this one call."""
    given = lay_out(output, layout)
    value = call(loss, given, target_layout(target))
    return value.detach(), backward(value, given, grad_output=grad_output)


def floating(target: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The target in a dtype; labels stay as they are."""
    return target.to(dtype) if target.is_floating_point() else target


def another(output: torch.Tensor) -> torch.Tensor:
    """Another output of the same shape."""
    return output.flip(0) * 0.5
