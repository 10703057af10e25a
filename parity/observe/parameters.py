"""The parameters of a model as they are observed: their gradients, what a step adds to them, and what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parity.observe.columns import Columns
from parity.observe.digest import combine, digest_of_array
from parity.observe.fingerprint import fingerprint
from parity.observe.host import StandingArrays, array_of, on_host
from parity.observe.sketch import norms_and_sketches, summable


class ObservedParameters:
    """The parameters of a model, in its order, and a copy of them as the last step left them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = list(model.parameters())
        self._arrays = StandingArrays()
        self._before: list[np.ndarray] = []

    def begin(self) -> None:
        """Copies the parameters as the first observed step finds them; does nothing later."""
        if not self._before:
            # The update of each step is computed in these copies.
            self._before = [np.array(summable(array_of(on_host(parameter)))) for parameter in self._parameters]

    def initial(self) -> dict[str, Any]:
        """What the parameters are before the first step, for trials.parquet."""
        found = fingerprint(self._parameters)
        return {"initial_digests": found.digests.tolist(), "initial_sketches": found.sketches.reshape(-1).tolist()}

    def grads(self) -> list[torch.Tensor | None]:
        """The gradient of each parameter; None where it has none."""
        return [parameter.grad for parameter in self._parameters]

    def add_update(self, columns: Columns) -> None:
        """Adds the digests of the parameters to the columns, and the norms and sketches of what the step added."""
        arrays = [self._arrays.get(place, parameter) for place, parameter in enumerate(self._parameters)]
        digests = np.array(list(map(digest_of_array, arrays, self._parameters)), np.uint64)
        after = [
            array if array.dtype.char in "fd" else summable(array_of(on_host(parameter)))
            for array, parameter in zip(arrays, self._parameters, strict=True)
        ]
        with np.errstate(invalid="ignore", over="ignore"):  # an infinite parameter has no update
            for before, now in zip(self._before, after, strict=True):
                np.subtract(now, before, out=before)
        norms, sketches = norms_and_sketches(self._before)
        for before, now in zip(self._before, after, strict=True):
            np.copyto(before, now)
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
            "param_shapes": ["x".join(map(str, parameter.shape)) for parameter in self._parameters],
            "param_dtypes": [str(parameter.dtype).removeprefix("torch.") for parameter in self._parameters],
        }
