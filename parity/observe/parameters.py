"""The parameters of a model as they are observed: their gradients, what a step adds to them, and what they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from parity.observe.columns import Columns
from parity.observe.digest import combine
from parity.observe.fingerprint import Visit, fingerprint


class ObservedParameters:
    """The parameters of a model, in its order, and a copy of them as the last step left them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = list(model.parameters())
        self._visit = Visit()
        # What is left of all parameters after their whole blocks, and the pieces of these.
        self._before: list[np.ndarray] = []

    def begin(self) -> None:
        """Copies the parameters as the first observed step finds them; does nothing later."""
        if not self._before:
            self._visit.begin(self._parameters)
            self._before = [value.copy() for value in self._visit.values()]

    def initial(self) -> dict[str, Any]:
        """What the parameters are before the first step, for trials.parquet."""
        found = fingerprint(self._parameters)
        return {"initial_digests": found.digests.tolist(), "initial_sketches": found.sketches.reshape(-1).tolist()}

    def grads(self) -> list[torch.Tensor | None]:
        """The gradient of each parameter; None where it has none."""
        return [parameter.grad for parameter in self._parameters]

    def add_update(self, columns: Columns) -> None:
        """Adds the digests of the parameters to the columns, and the norms and sketches of what the step added."""
        self._visit.begin(self._parameters)
        norms, sketches = self._visit.cut.norms_and_sketches(self._updates())
        digests = self._visit.digests()
        columns.add(
            {
                "param_digest": combine(digests),
                "param_digests": digests,
                "update_norms": norms,
                "update_sketches": sketches.reshape(-1),
            }
        )

    def _updates(self) -> Iterator[np.ndarray]:
        """Yields what the step has added to each value of the visit, and keeps the value for the next step."""
        for now, before in zip(self._visit.values(), self._before, strict=True):
            yield np.subtract(now, before, out=before)
            np.copyto(before, now)

    def facts(self) -> dict[str, Any]:
        """What the parameters are, for trials.parquet."""
        return {
            "sharded": any(hasattr(parameter, "to_local") for parameter in self._parameters),
            "param_shapes": ["x".join(map(str, parameter.shape)) for parameter in self._parameters],
            "param_dtypes": [str(parameter.dtype).removeprefix("torch.") for parameter in self._parameters],
        }
