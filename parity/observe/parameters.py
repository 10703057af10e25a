"""The parameters of a model as they are observed: their gradients, what a step adds to them, and what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parity.observe.columns import Columns
from parity.observe.digest import combine
from parity.observe.fingerprint import Digests, fingerprint
from parity.observe.host import StandingArrays, array_of, on_host
from parity.observe.signs import BLOCK, SUMMABLE, VISIT, summable
from parity.observe.sketch import sketch_flat


class ObservedParameters:
    """The parameters of a model, in its order, and a copy of them as the last step left them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = list(model.parameters())
        self._arrays = StandingArrays()
        # The whole blocks of each parameter, and what is left of all of them.
        self._before: list[np.ndarray] = []
        self._rests_before = np.zeros(0)
        self._scratch = {char: np.empty(VISIT, char) for char in SUMMABLE}

    def begin(self) -> None:
        """Copies the parameters as the first observed step finds them; does nothing later."""
        if self._before:
            return
        flats = [summable(array_of(on_host(parameter))).reshape(-1) for parameter in self._parameters]
        wholes = [flat.size // BLOCK * BLOCK for flat in flats]
        self._before = [flat[:whole].copy() for flat, whole in zip(flats, wholes, strict=True)]
        rests = [flat[whole:] for flat, whole in zip(flats, wholes, strict=True)]
        # A model may have no parameters, where the loss has some.
        self._rests_before = np.concatenate(rests) if rests else np.zeros(0)

    def initial(self) -> dict[str, Any]:
        """What the parameters are before the first step, for trials.parquet."""
        found = fingerprint(self._parameters)
        return {"initial_digests": found.digests.tolist(), "initial_sketches": found.sketches.reshape(-1).tolist()}

    def grads(self) -> list[torch.Tensor | None]:
        """The gradient of each parameter; None where it has none."""
        return [parameter.grad for parameter in self._parameters]

    def add_update(self, columns: Columns) -> None:
        """Adds the digests of the parameters to the columns, and the norms and sketches of what the step added."""
        seen = Digests(self._parameters, self._arrays.get_all(self._parameters))

        def blocks(number: int, begin: int, now: np.ndarray) -> np.ndarray:
            seen.look(number, begin, now)
            before = self._before[number][begin : begin + now.size]
            update = self._scratch[now.dtype.char][: now.size]
            np.subtract(now, before, out=update)
            np.copyto(before, now)
            return update

        def rests(now: np.ndarray) -> np.ndarray:
            before, self._rests_before = self._rests_before, now
            np.subtract(now, before, out=before)
            return before

        with np.errstate(invalid="ignore", over="ignore"):  # an infinite parameter has no update
            norms, sketches = sketch_flat(seen.flats, blocks, rests)
        digests = seen.take()
        columns.add(
            {
                "param_digest": combine(digests),
                "param_digests": digests,
                "update_norms": norms,
                "update_sketches": sketches.reshape(-1),
            }
        )

    def facts(self) -> dict[str, Any]:
        """What the parameters are, for trials.parquet."""
        return {
            "sharded": any(hasattr(parameter, "to_local") for parameter in self._parameters),
            "param_shapes": ["x".join(map(str, parameter.shape)) for parameter in self._parameters],
            "param_dtypes": [str(parameter.dtype).removeprefix("torch.") for parameter in self._parameters],
        }
