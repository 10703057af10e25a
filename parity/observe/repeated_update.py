"""The step of a loop's optimizers, taken again by copies of them: whether the copies do what the loop's own do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from parity.ground.errors import OracleUnavailable
from parity.ground.quoting import explain_error
from parity.observe.generators import generators_restored
from parity.observe.norms import l2_norm
from parity.observe.optimizer_copy import copy_optimizer
from parity.observe.taken_step import on_host, unit_roundoff, widened

NO_OPTIMIZER = "the optimizer cannot be copied in float64"
# The most that a copied optimizer's step may be off by from the loop's own, in u of the parameter and of its update.
# Both are computed from the same bits in the same dtype: on a CPU they are equal to the bit, and another implementation
# (fused, or of a GPU) rounds a few times otherwise.
_COPY_PARAM_U, _COPY_UPDATE_U = 4.0, 64.0


class RepeatedUpdate:
    """The step that the loop's optimizers are about to take, as copies take it, in the loop's own dtypes."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], model: torch.nn.Module) -> None:
        """Takes the step.

        Args:
            optimizers: The loop's optimizers, before their steps.
            model: The loop's model, with the gradients that they are about to be given.
        """
        mine = list(model.parameters())
        self._before = [on_host(widened(each.detach().cpu().clone())) for each in mine]
        grads = [None if each.grad is None else each.grad.detach().cpu() for each in mine]
        self._after = stepped(optimizers, mine, [each.detach().cpu() for each in mine], grads)

    def unlike(self, model: torch.nn.Module) -> str | None:
        """Why the copied optimizers' steps are not those that the loop has taken since then, or None if they are.

        A copy that does not repeat the loop's step in the loop's own dtype says nothing about it in float64 either.
        """
        for (name, parameter), again, before in zip(model.named_parameters(), self._after, self._before, strict=True):
            now = on_host(parameter)
            assert now is not None and again is not None and before is not None
            # NaN and inf are equal to themselves here.
            if np.array_equal(now, again, equal_nan=True):
                continue
            now = now.astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                distance, moved, size = l2_norm(now - again), l2_norm(now - before), l2_norm(before)
            line = unit_roundoff(parameter.dtype) * (_COPY_UPDATE_U * moved + _COPY_PARAM_U * size)
            if not distance <= line:
                return (
                    f"a copy of the optimizer, given the same gradient, does not take the loop's step: {name} is "
                    f"{distance:.3g} from the loop's, which moved it by {moved:.3g} (rounding explains {line:.3g}). "
                    "Something outside of the optimizer decides its step or changes the parameters after it: a global, "
                    "a closure, a hook, or the loop before it calls step() of the Recorder"
                )
        return None


def stepped(
    optimizers: Sequence[torch.optim.Optimizer],
    mine: Sequence[torch.nn.Parameter],
    starts: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor | None],
    *,
    exact: bool = False,
) -> list[np.ndarray | None]:
    """The parameters after a step of copied optimizers.

    Args:
        optimizers: The loop's optimizers.
        mine: The parameters of the loop's model.
        starts: What each of them is before the step, on the CPU.
        grads: The gradient of each.
        exact: Whether starts and gradients are in float64.
    """
    # Copies: an optimizer changes parameters in place, and may change the gradient that it is given.
    made = [
        torch.nn.Parameter(start.clone(), requires_grad=each.requires_grad)
        for each, start in zip(mine, starts, strict=True)
    ]
    for parameter, grad in zip(made, grads, strict=True):
        parameter.grad = None if grad is None else grad.clone()
    # One that draws draws here what it will draw in the loop, which must not notice.
    with generators_restored():
        for optimizer in optimizers:
            copy_optimizer(optimizer, dict(zip(mine, made, strict=True)), exact=exact).step()
    return [on_host(parameter) for parameter in made]


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns whatever the user's code raises in the block into `OracleUnavailable`, with the reason."""
    try:
        yield
    # It gives its reason already.
    except OracleUnavailable:
        raise
    except Exception as error:
        raise OracleUnavailable(f"{what}: {explain_error(error)}") from error
