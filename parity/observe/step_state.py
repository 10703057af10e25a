"""What a step starts from beside its parameters: settings and state of the optimizers, modes of the model, generators.

Also the buffers that a step leaves, and the tensors of other models that are to agree, such as an average of weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from parity.observe.deferred import Later
from parity.observe.digest import combine
from parity.observe.fingerprint import Fingerprint, fingerprint
from parity.observe.generators import digest_generators
from parity.observe.optimizer_state import ObservedOptimizer
from parity.observe.word_fingerprint import DeferredFingerprint, WordFingerprints
from parity.plan.trial import DigestKind


class StepState:
    """Observes the state of a training at each step.

    The calls for a step are `begin`, `modes`, `before_update` for each optimizer, `take` and `buffers`, in this order.

    Args:
        model: The model.
        optimizers: Its optimizers.
        also: Other models whose parameters and buffers are compared as buffers are, by name.
        kind: How tensors are digested.

    Attributes:
        joined: The names of parameters and buffers that have joined the model, or were replaced.
        buffer_names: The names of the buffers, and of the tensors of the other models.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        also: Mapping[str, torch.nn.Module] | None = None,
        *,
        kind: DigestKind = "xxh3",
    ) -> None:
        self._model = model
        self._kind = kind
        self._words = WordFingerprints()
        # The model keeps its parameters, so that no other object gets the identity of one of them.
        numbers = {id(parameter): number for number, parameter in enumerate(model.parameters())}
        self._optimizers = [ObservedOptimizer(each, numbers, kind) for each in optimizers]
        self._parameters = list(model.named_parameters())
        self._modules = [(name, module) for name, module in model.named_modules() if _minds_mode(module)]
        self._buffers = dict(_buffers("", model, parameters=False))
        for name, other in (also or {}).items():
            self._buffers |= dict(_buffers(f"{name}.", other, parameters=True))
        self.buffer_names = [*self._buffers]
        self.joined: list[str] = []
        self._generators: list[int] = []
        self._modes: dict[str, Any] = {}
        self._seen: dict[int, dict[str, Any]] = {}
        self._text: tuple[Any, str] = (None, "")

    def begin(self) -> None:
        """Looks at the generators, before anything of the step draws from them."""
        self._generators = digest_generators()

    def modes(self) -> None:
        """Looks at the modes of the model, which its forward pass has just had."""
        evaluating = [name for name, module in self._modules if not module.training]
        self._modes = {
            # Most models are in one mode as a whole.
            "evaluating": "all" if evaluating and len(evaluating) == len(self._modules) else evaluating,
            "frozen": [name for name, parameter in self._parameters if not parameter.requires_grad],
        }

    def before_update(self, optimizer: torch.optim.Optimizer) -> None:
        """Looks at the settings and the state of an optimizer, which is about to step."""
        number = next(number for number, each in enumerate(self._optimizers) if each.optimizer is optimizer)
        self._seen[number] = self._optimizers[number].look()

    def take(self, *, scale: float = 1.0, factors: Sequence[float] = (), rows: Sequence[int] = ()) -> dict[str, Any]:
        """What was seen of the step, in the columns of `trace.SCHEMA`; forgets it.

        Args:
            scale: What the gradients were multiplied by against underflow.
            factors: What the losses of the step's batches were multiplied by.
            rows: Numbers of rows of the step's batches.
        """
        seen, self._seen = self._seen, {}
        described = [
            {"class": seen[number]["class"], "groups": seen[number]["groups"]} if number in seen else None
            for number in range(len(self._optimizers))
        ]
        nothing: dict[str, Any] = {"counts": [-1, -1, -1], "digests": []}
        states = [seen.get(number, nothing) for number in range(len(self._optimizers))]
        settings = {"optimizers": described, "scale": scale, "factors": [*factors], **self._modes}
        if self.joined:
            settings["joined"] = self.joined
        if len(rows) > 1:
            # The rows of a single batch are in a column of their own, and would make another text of a partial one.
            settings["rows"] = [*rows]
        numbers: dict[str, Any]
        if any(isinstance(each[name], Later) for each in states for name in ("counts", "digests")):
            names = "state_counts", "state_digest"
            numbers = {name: Later(lambda name=name: _numbers(states)[name]) for name in names}  # type: ignore[misc]
        else:
            numbers = _numbers(states)
        return {"settings": self._as_text(settings), **numbers, "generator_digests": self._generators}

    def buffers(self) -> Fingerprint | DeferredFingerprint:
        """The fingerprint of the buffers, as they are now."""
        tensors = [get() for get in self._buffers.values()]
        return fingerprint(tensors) if self._kind == "xxh3" else self._words.take(tensors)

    def initial_buffers(self) -> list[int]:
        """The digests of the buffers before the first step, for trials.parquet; uint64[T]."""
        # As those of later steps, which are what another recording may continue.
        return fingerprint([get() for get in self._buffers.values()], self._kind).digests.tolist()  # type: ignore[no-any-return]

    def _as_text(self, settings: dict[str, Any]) -> str:
        """The settings as JSON, made anew only where they have changed."""
        if self._text[0] != settings:
            self._text = (settings, json.dumps(settings, default=str))
        return self._text[1]


def _numbers(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of the optimizers, and one digest of their states."""
    found = [
        {name: value.get() if isinstance(value, Later) else value for name, value in each.items()} for each in states
    ]
    counts = [count for each in found for count in each["counts"]]
    digests = [number for each in found for number in each["digests"]]
    numbers = np.array([*digests, *(count % 2**64 for count in counts)], np.uint64)
    return {"state_counts": counts, "state_digest": combine(numbers)}


# torch's own modules that compute something else in evaluation; RNNs and attention have a dropout inside.
_MODAL = (
    *(torch.nn.modules.batchnorm._NormBase, torch.nn.modules.dropout._DropoutNd, torch.nn.RReLU),
    *(torch.nn.RNNBase, torch.nn.MultiheadAttention),
)


def _minds_mode(module: torch.nn.Module) -> bool:
    """Whether a module may compute something else in evaluation: one of somebody's own may, most of torch's do not."""
    return isinstance(module, _MODAL) or not type(module).__module__.startswith("torch.nn.modules.")


def _buffers(
    prefix: str, model: torch.nn.Module, *, parameters: bool
) -> Iterator[tuple[str, Callable[[], torch.Tensor | None]]]:
    """Yields the name of each buffer, and of each parameter if these are wanted, and how to get it."""
    # Looked up in their modules at each step, since a module may put another tensor in place of its buffer; found once,
    # since walking through a large model takes longer than a digest.
    for where, module in model.named_modules():
        path = f"{prefix}{where}." if where else prefix
        for table in (module._parameters, module._buffers) if parameters else (module._buffers,):
            for name in table:
                yield f"{path}{name}", lambda table=table, name=name: table.get(name)  # type: ignore[misc]
