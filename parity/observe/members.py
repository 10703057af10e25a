"""Whether the parameters and buffers of a model and its optimizers are still those that a recording began with.

A head that is replaced, or a group of parameters that is added, trains tensors that nobody looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from parity.observe.standing import same


class Members:
    """The parameters and buffers of a model, and the parameters of its optimizers, as they are now.

    Args:
        model: The model.
        optimizers: Its optimizers. A parameter of theirs that is none of the model's is not looked for again.
    """

    def __init__(self, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._model, self._optimizers = model, optimizers
        self._parameters, self._buffers = dict(model.named_parameters()), _buffer_names(model)
        # Kept, so that no other object gets the identity of one of them.
        self._known = [*self._parameters.values(), *self._groups()]
        self._changed: list[str] = []
        self._walk()

    def changed(self) -> list[str]:
        """The names of the parameters and buffers that are not those of the beginning.

        Asked at each step, so it compares the objects that it met the last time (0.5 ms for 1,000 modules), and walks
        through the model only where one is another.
        """
        if same(self._look(), self._met) and [*chain.from_iterable(self._names)] == self._met_names:
            return self._changed
        parameters, known = dict(self._model.named_parameters()), {id(each) for each in self._known}
        found = [name for name, each in parameters.items() if self._parameters.get(name) is not each]
        found += [name for name in self._parameters if name not in parameters]
        found += sorted(_buffer_names(self._model) - self._buffers)
        mine = {id(each) for each in parameters.values()}
        found += [
            f"a parameter of shape {list(each.shape)} of an optimizer"
            for each in self._groups()
            if id(each) not in known | mine
        ]
        self._changed = found
        self._walk()
        return found

    def _groups(self) -> list[torch.nn.Parameter]:
        return [each for optimizer in self._optimizers for group in optimizer.param_groups for each in group["params"]]

    def _walk(self) -> None:
        """Finds the tables in which the modules keep what they consist of."""
        modules = list(self._model.modules())
        # Those of a compiled module are no dicts, and cannot change.
        self._tables: list[dict[str, Any]] = [
            table for each in modules for table in (each._parameters, each._modules) if isinstance(table, dict)
        ]
        # By name: a module may put another tensor in the place of its buffer, and that is looked up at each step.
        self._names = [each._buffers for each in modules if isinstance(each._buffers, dict)]
        self._met, self._met_names = self._look(), [*chain.from_iterable(self._names)]

    def _look(self) -> list[Any]:
        return [*chain.from_iterable(map(dict.values, self._tables)), *self._groups()]


def _buffer_names(model: torch.nn.Module) -> set[str]:
    """Names of the buffers that are part of the model's state, unlike tables that are made at the first call."""
    return {
        f"{where}.{name}" if where else name
        for where, module in model.named_modules()
        for name in module._buffers
        if name not in getattr(module, "_non_persistent_buffers_set", ())
    }
