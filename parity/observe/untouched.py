"""A loop's model and optimizers, which a step in float64 must leave as they are: compared after it, and put back.

A copy of a model is no copy of what its methods reach: a `forward` that was replaced by a closure, or a hook that is a
method of the user's own module, calls the user's own layers. What such code changes outside of the model (a counter
that is a global variable or is kept in a list) cannot be seen here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.digest import digest

REACHES = (
    "the model's copy in float64 changed the loop's own model (a method that was replaced by a closure, or a hook that "
    "is bound to it, reaches the original); that was put back, and no step is taken in float64 any more"
)
# Attributes of these types are compared and put back: counters, temperatures, modes.
PLAIN = (bool, int, float, str, type(None))


class ReachesLoop(OracleUnavailable):
    """What was called in float64 changed the loop's own model or optimizer, which has been put back."""


@contextlib.contextmanager
def left_alone(model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer] = ()) -> Iterator[None]:
    """Puts back what the block changes of the model and the optimizers, however it ends.

    Raises:
        ReachesLoop: Something was changed.
    """
    before = _Before(model, optimizers)
    try:
        yield
    except Exception as error:
        if before.put_back():
            raise ReachesLoop(REACHES) from error
        raise
    # Ctrl-C, sys.exit
    except BaseException:
        before.put_back()
        raise
    if before.put_back():
        raise ReachesLoop(REACHES)


class _Before:
    """What a model and its optimizers consist of at a moment."""

    def __init__(self, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        objects: list[Any] = [*model.modules(), *optimizers]
        self._plain = [
            (vars(each), {name: value for name, value in vars(each).items() if type(value) in PLAIN})
            for each in objects
        ]
        # Where the tensors of a module stand, since one may be put in the place of another.
        self._tables: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (table, dict(table)) for module in model.modules() for table in (module._parameters, module._buffers)
        ]
        tensors = [each for _, table in self._tables for each in table.values() if each is not None]
        for optimizer in optimizers:
            for state in optimizer.state.values():
                values = state.values() if isinstance(state, dict) else ()
                tensors += [value for value in values if isinstance(value, torch.Tensor)]
        # On the host, where there is memory for the step in float64 anyway.
        self._tensors = [(each, each.detach().cpu().clone()) for each in tensors]

    def put_back(self) -> bool:
        """Puts back what has changed since; returns whether something had."""
        changed = False
        for table, before in self._tables:
            if [*table] != [*before] or any(table[name] is not each for name, each in before.items()):
                changed = True
                table.clear()
                table.update(before)
        for attributes, plain in self._plain:
            for name, value in plain.items():
                # Not ==, by which a NaN differs from itself.
                if name not in attributes or repr(attributes[name]) != repr(value):
                    changed = True
                    attributes[name] = value
        for tensor, copy in self._tensors:
            if digest(tensor) != digest(copy):
                changed = True
                # Not in the tensor itself, whose version is what autograd of the loop's own step looks at.
                tensor.data.copy_(copy)
        return changed
