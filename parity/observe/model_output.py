"""The output of a loop's model as it was when the model returned it, for loops whose loss works in place on it.

A loss such as `((output.sigmoid_() - target) ** 2).mean()` is right, and when it has returned, the output is no longer
what the loss was given. So the model gets a hook: it notes the version of each tensor that comes out, and keeps a copy
in the first step, and in later ones if the first showed that the loss writes to its output.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from parity.tasks.outputs import Outputs, is_tree, map_tensors, parts, with_parts

# Outputs of a step that are remembered. Chosen: more than a step of any loop calls its model before a loss.
MOST = 16


@dataclass
class Returned:
    """A tensor that the model returned.

    Attributes:
        tensor: A weak reference to it: what is kept here must not keep the step's memory.
        version: How often it had been written to.
        copy: The numbers that it had, outside of the graph; None where none are kept.
        arrived: What is to be called with the gradient for it as it was; None where nobody has asked.
    """

    tensor: weakref.ref[torch.Tensor]
    version: int
    copy: torch.Tensor | None = None
    arrived: Callable[[torch.Tensor | None], None] | None = None


class ModelOutputs:
    """Remembers what a model returned, from its hook to the end of the step."""

    def __init__(self) -> None:
        self._returned: deque[Returned] = deque(maxlen=MOST)
        self._copies = True
        self._changed = False

    def keep(self, output: Outputs) -> None:
        """Notes the tensors of an output that the model returns."""
        for tensor in parts(output):
            if tensor.requires_grad:
                returned = Returned(weakref.ref(tensor), tensor._version)
                self._returned.append(returned)
                if self._copies:
                    returned.copy = tensor.detach().clone()
                    # Of a tensor that is changed in place later, a hook gets the gradient for what it was before.
                    tensor.register_hook(functools.partial(_pass_on, returned))  # type: ignore[no-untyped-call]

    def changed(self, given: Sequence[torch.Tensor]) -> dict[int, Returned]:
        """By their numbers, the parts that were written to since the model returned them, as they were before.

        Args:
            given: The parts of the output that the loss was given.

        Raises:
            ValueError: A part was written to in a later step than the first, so that no copy of it was kept.
        """
        found = {}
        for number, part in enumerate(given):
            returned = next((each for each in self._returned if each.tensor() is part), None)
            if returned and returned.version != part._version:
                if returned.copy is None:
                    raise ValueError(
                        "the loss has changed its output in place, which it did not do in the first step. Give it a "
                        "copy, output.clone()."
                    )
                self._changed = True
                found[number] = returned
        return found

    def end_step(self) -> None:
        """Forgets the step, and keeps copies from now on only if a loss has written to an output."""
        self._returned.clear()
        self._copies = self._changed


def as_returned(output: Outputs, changed: Mapping[int, Returned]) -> Outputs:
    """The output outside of its graph, with the parts that were written to as the model returned them."""
    detached = map_tensors(torch.Tensor.detach, output)
    if not changed:
        return detached
    before = [
        part if (returned := changed.get(number)) is None or returned.copy is None else returned.copy
        for number, part in enumerate(parts(detached))
    ]
    return with_parts(detached, before) if is_tree(output) else before[0]


def hook(model: torch.nn.Module, keep: Callable[[Outputs], None]) -> Callable[[], None]:
    """Has the model call `keep` with each output that has a graph; what is returned takes the hook away."""
    return model.register_forward_hook(_Hook(keep)).remove


def _pass_on(returned: Returned, grad: torch.Tensor | None) -> None:
    if returned.arrived:
        returned.arrived(grad)


class _Hook:
    """The hook of a model; a copy of the model, or what is saved of it, has one that does nothing."""

    def __init__(self, keep: Callable[[Outputs], None]) -> None:
        self._keep = keep

    def __call__(self, *arguments: Any) -> None:
        _, _, output = arguments  # module and inputs come first
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._keep(output)

    def __reduce__(self) -> tuple[Any, ...]:
        # Takes three arguments and returns None, and can be loaded where there is no parity.
        return getattr, (contextlib.nullcontext(), "__exit__")
