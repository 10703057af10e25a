"""The parameters of a model as they are observed: their gradients, what a step adds to them, and what they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from parity.observe.columns import Columns
from parity.observe.fingerprint import Fingerprint, Visit, fingerprint
from parity.observe.word_fingerprint import WordFingerprints
from parity.plan.trial import DigestKind


class ObservedParameters:
    """The parameters of a model, in its order, and a copy of them as the last step left them.

    Args:
        model: The model.
        kind: How they are digested.
    """

    def __init__(self, model: torch.nn.Module, kind: DigestKind = "xxh3") -> None:
        self._parameters = list(model.parameters())
        self._kind = kind
        self._visit = Visit(kind)
        # What is left of all parameters after their whole blocks, and the pieces of these.
        self._before: list[np.ndarray] | None = None
        self._words = WordFingerprints()
        # Those whose device digests them, by their numbers.
        self._before_there: dict[int, torch.Tensor] = {}

    def begin(self) -> None:
        """Copies the parameters as the first observed step finds them; does nothing later."""
        if self._before is not None:
            return
        here: Sequence[int] = range(len(self._parameters))
        if self._kind == "words":
            here, there = self._words.split(self._parameters)
            for each, mine in there:
                copies = [tensor.detach().contiguous().clone() for tensor in mine]
                self._before_there |= dict(zip(each.places, copies, strict=True))
        self._visit.begin([self._parameters[number] for number in here])
        self._before = [value.copy() for value in self._visit.values()]

    def initial(self) -> dict[str, Any]:
        """What the parameters are before the first step, for trials.parquet."""
        # As those of later steps, which are what another recording may continue.
        found = fingerprint(self._parameters, self._kind)
        return {"initial_digests": found.digests.tolist(), "initial_sketches": found.sketches.reshape(-1).tolist()}

    def grads(self) -> list[torch.Tensor | None]:
        """The gradient of each parameter; None where it has none."""
        return [parameter.grad for parameter in self._parameters]

    def add_update(self, columns: Columns) -> None:
        """Adds the digests of the parameters to the columns, and the norms and sketches of what the step added."""
        if self._kind == "xxh3":
            columns.add_update(self._update_here(self._parameters))
        else:
            columns.add_update(self._words.update(self._parameters, self._before_there, self._update_here))

    def _update_here(self, tensors: Sequence[torch.Tensor]) -> Fingerprint:
        """The digests of these parameters, and the norms and sketches of what the step has added to them."""
        self._visit.begin(tensors)
        norms, sketches = self._visit.cut.norms_and_sketches(self._updates())
        return Fingerprint(self._visit.digests(), norms, sketches)

    def _updates(self) -> Iterator[np.ndarray]:
        """Yields what the step has added to each value of the visit, and keeps the value for the next step."""
        assert self._before is not None, "begin comes before the first update"
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


def lazy_parameter(model: torch.nn.Module) -> str | None:
    """The name of a parameter or buffer that gets its shape when the model is first called; None if there is none."""
    named = (*model.named_parameters(), *model.named_buffers())
    return next((name for name, tensor in named if torch.nn.parameter.is_lazy(tensor)), None)
