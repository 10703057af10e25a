"""What the optimizers of a loop make of gradients that are the same in every recording.

The update of a step shows whether two optimizers compute the same only where it was taken in float64 from equal
gradients. Of gradients that were clipped, scaled or added up on the way that is not known, and of an element whose
gradient is nothing but rounding Adam makes any update. So the optimizers are copied once, before their first step, and
given gradients of our own, in float64: optimizers that are the same function then add the same to equal parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.generators import generators_restored
from parity.observe.narrow_rounding import NarrowRounding
from parity.observe.norms import l2_norm
from parity.observe.optimizer_copy import copy_optimizer
from parity.observe.recorded_step import MOST_ELEMENTS, SEEDS
from parity.observe.repeated_update import NO_OPTIMIZER, RepeatedUpdate, explained
from parity.observe.same_draws import SameDraws
from parity.observe.sketch import norms_and_sketches
from parity.observe.taken_step import check_real, widened
from parity.observe.untouched import left_alone

# Steps of the copies: in the first one Adam shows no beta, and SGD no momentum.
_STEPS = 3
# Numbers of a gradient until they repeat, and their size, which is that of a usual gradient.
_PERIOD, _SIZE = 8192, 1e-2


class OptimizerProbe:
    """Asks the optimizers of a loop once, and sees whether the copies that were asked do what they do.

    The calls for a step are `before_update` and `after_update`.

    Attributes:
        facts: What `probe` returns, or "optimizer_error", why there is nothing; empty until the first step has ended.
    """

    def __init__(self, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._model, self._optimizers = model, optimizers
        self._asked = False
        self._repeated: RepeatedUpdate | None = None
        self._found: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}

    def before_update(self) -> None:
        """Asks them, where that has not been done: they are about to take their first step."""
        if self._asked:
            return
        self._asked = True
        try:
            self._found = probe(self._model, self._optimizers)
            with explained(NO_OPTIMIZER), left_alone(self._model, self._optimizers):
                self._repeated = RepeatedUpdate(self._optimizers, self._model)
        except OracleUnavailable as error:
            self.facts = {"optimizer_error": str(error)}

    def after_update(self) -> None:
        """Believes what was found if the copies would have taken the step that the loop has taken."""
        repeated, self._repeated = self._repeated, None
        if repeated:
            unlike = repeated.unlike(self._model)
            self.facts = {"optimizer_error": unlike} if unlike else self._found


def probe(model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """What the optimizers, which are about to take their first step, make of `_STEPS` gradients of our own.

    Args:
        model: The loop's model; a parameter without a gradient gets none here either.
        optimizers: The loop's optimizers.

    Returns:
        Facts of the trial: "optimizer_norms", float64[T], and "optimizer_sketches", float64[8 T], of what the steps
        together have added to each parameter; "optimizer_inexact", the length of what the rounding in dtypes narrower
        than float64 that an optimizer converts to by itself does to all of it.

    Raises:
        OracleUnavailable: They cannot be copied.
    """
    mine = list(model.parameters())
    if sum(parameter.numel() for parameter in mine) > MOST_ELEMENTS or any(hasattr(each, "to_local") for each in mine):
        raise OracleUnavailable(f"{NO_OPTIMIZER}: the model is too large, or this process has a part of it")
    check_real(mine)
    noted = NarrowRounding()
    with explained(NO_OPTIMIZER), left_alone(model, optimizers):
        added = _added(optimizers, mine, noted)
        moved = [_added(optimizers, mine, NarrowRounding(seed)) for seed in SEEDS] if noted.seen else []
    norms, sketches = norms_and_sketches(added)
    distances = [
        l2_norm(np.array([l2_norm(one - other) for one, other in zip(each, added, strict=True)])) for each in moved
    ]
    return {
        "optimizer_norms": norms.tolist(),
        "optimizer_sketches": sketches.reshape(-1).tolist(),
        "optimizer_inexact": max(distances, default=0.0),
    }


def _added(
    optimizers: Sequence[torch.optim.Optimizer], mine: Sequence[torch.nn.Parameter], within: NarrowRounding
) -> list[np.ndarray]:
    """What the steps add to each parameter, in float64."""
    starts = [widened(parameter.detach().cpu()) for parameter in mine]
    made = [
        torch.nn.Parameter(start.clone(), requires_grad=each.requires_grad)
        for each, start in zip(mine, starts, strict=True)
    ]
    with generators_restored():
        copies = [copy_optimizer(each, dict(zip(mine, made, strict=True)), exact=True) for each in optimizers]
        with SameDraws(mine[0].dtype), within:
            for step in range(_STEPS):
                for number, (parameter, original) in enumerate(zip(made, mine, strict=True)):
                    parameter.grad = None if original.grad is None else _gradient(number, step, parameter)
                for copied in copies:
                    copied.step()
    return [(parameter.detach() - start).numpy() for parameter, start in zip(made, starts, strict=True)]


def _gradient(number: int, step: int, parameter: torch.Tensor) -> torch.Tensor:
    """The gradient for a parameter of this number, in one of the steps; float64, of its shape."""
    # PCG64's bits are fixed in NumPy, the streams of normal numbers are not: uniform ones made of the bits.
    words = np.random.PCG64([number, step]).random_raw(_PERIOD)
    values = _SIZE * ((words >> 11) * 2.0**-52 - 1)
    return torch.from_numpy(np.resize(values, parameter.numel())).reshape(parameter.shape)
