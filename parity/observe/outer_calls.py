"""What the modules return that a training step calls, and which of it the loss is computed from.

Libraries that own the loop (Lightning, transformers, accelerate) show the loss and its batch, but not what the loss was
given. So the model and its children get hooks, and the autograd graph of the loss says which of their tensors come
last on the way to it.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules import module as modules

from parity.observe.called_model import Inputs
from parity.observe.user_loop import is_compiled, unwrapped
from parity.tasks.outputs import Outputs, is_tree, parts

# A node of the graph, and the number of its result.
Result = tuple[Any, int]


@dataclass(frozen=True)
class Call:
    """A call of a module in a step.

    Attributes:
        module: The module.
        args: Its arguments in order.
        kwargs: Its arguments by name.
        output: What it returned.
    """

    module: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


class OuterCalls:
    """Notes the calls of a model, its children and losses from `open` until `close`.

    Args:
        root: What the training step belongs to: a model, or a module that keeps models and losses.
        model: The model that is recorded, which may be the root or one of its children.
    """

    def __init__(self, root: torch.nn.Module, model: torch.nn.Module) -> None:
        self._model = unwrapped(model)
        self._open = False
        self._calls: list[Call] = []
        watched = {root: None, model: None, self._model: None}
        if is_compiled(model):
            # Hooks inside of what is compiled would compile it anew.
            watched = {root: None, model: None}
        else:
            watched |= dict.fromkeys([*root.children(), *self._model.children()])
        watched |= dict.fromkeys(each for each in root.modules() if is_loss(each))
        self._watched, self._compiled = watched, is_compiled(model)
        self._hooks: list[Any] = []

    def open(self) -> None:
        """Notes calls from here on, and forgets those before."""
        self._calls.clear()
        self._open = True
        if self._hooks:
            return
        if self._compiled:
            # A hook of torch's own would compile what is inside anew.
            self._hooks = [each.register_forward_hook(_Hook(self), with_kwargs=True) for each in self._watched]
        else:
            # Torch's own, since modules such as nn.TransformerEncoderLayer compute an evaluation in another way, with
            # other roundings, while they or their children have hooks.
            self._hooks = [modules.register_module_forward_hook(self._note, with_kwargs=True)]

    def close(self) -> None:
        """Notes no more calls, and forgets those before: they keep the memory of the step."""
        self._open = False
        self._calls.clear()
        hooks, self._hooks = self._hooks, []
        for each in hooks:
            each.remove()

    def _note(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if module in self._watched:
            self.note(Call(module, args, kwargs, output))

    def note(self, call: Call) -> None:
        """Notes a call, if it is one of the step."""
        if self._open and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._calls.append(call)

    def loss_call(self) -> Call | None:
        """The call of a loss of torch.nn with output and target; None where there were none or several."""
        found = [each for each in self._calls if is_loss(each.module)]
        return found[0] if len(found) == 1 and len(found[0].args) == 2 and not found[0].kwargs else None

    def output_of(self, loss: torch.Tensor) -> Outputs | None:
        """What the loss is computed from: the tensors that modules returned last on each way to it.

        Args:
            loss: The loss, with its graph.

        Returns:
            One tensor, the tree that one module returned, or a tuple of tensors; None where no module returned any.
        """
        calls = [each for each in self._calls if not is_loss(each.module)]
        # In the order of the calls, without a scalar: that is a loss which the model has computed itself.
        tensors = [part for each in calls for part in parts(each.output) if part.grad_fn is not None and part.dim()]
        # Several results of one operation have one node.
        nodes = {(part.grad_fn, part.output_nr): part for part in tensors}
        reached = nearest(loss, nodes)
        found = [part for node, part in nodes.items() if node in reached]
        if len(found) < 2:
            return found[0] if found else None
        trees = [each.output for each in calls if is_tree(each.output) and _same(parts(each.output), found)]
        return trees[-1] if trees else tuple(found)

    def inputs(self) -> Inputs | None:
        """What the model was called with last; None where it was not called as a whole."""
        call = next((each for each in reversed(self._calls) if unwrapped(each.module) is self._model), None)
        if call is None:
            return None
        if not call.kwargs:
            return call.args[0] if len(call.args) == 1 and isinstance(call.args[0], torch.Tensor) else call.args
        if not call.args:
            return call.kwargs
        try:
            return dict(inspect.signature(self._model.forward).bind(*call.args, **call.kwargs).arguments)
        except TypeError:  # a wrapper that takes anything
            return None


def is_loss(module: torch.nn.Module) -> bool:
    """Whether a module is one of torch's losses."""
    return isinstance(module, torch.nn.modules.loss._Loss)


def only_loss(root: torch.nn.Module) -> torch.nn.Module | None:
    """The loss of torch.nn that a module keeps; None where it keeps none or several."""
    found = [each for each in root.modules() if is_loss(each) and type(each).__module__ == "torch.nn.modules.loss"]
    return found[0] if len(found) == 1 else None


def target_of(batch: Any, inputs: Inputs | None) -> Outputs:
    """The target in a batch: the second of a pair, what is called a label or a target, or else all of the batch."""
    if isinstance(batch, Sequence) and len(batch) == 2:
        return batch[1]
    if isinstance(batch, Mapping):
        named = {name: value for name, value in batch.items() if "label" in str(name) or "target" in str(name)}
        return next(iter(named.values())) if len(named) == 1 else named or dict(batch)
    return inputs if batch is None else batch


def nearest(loss: torch.Tensor, results: Container[Result]) -> set[Result]:
    """Those of the results of operations that are reached from the loss without passing another one of them."""
    found, seen, waiting = set(), set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        for result in node.next_functions if node is not None else ():
            if result in results:
                found.add(result)
            elif result[0] is not None and result[0] not in seen:
                seen.add(result[0])
                waiting.append(result[0])
    return found


def _same(these: Iterable[torch.Tensor], those: Iterable[torch.Tensor]) -> bool:
    return {id(each) for each in these} == {id(each) for each in those}


class _Hook:
    """The hook of a module; a copy of the module, or what is saved of it, has one that does nothing."""

    def __init__(self, calls: OuterCalls) -> None:
        self._calls = calls

    def __call__(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._calls.note(Call(module, args, kwargs, output))

    def __reduce__(self) -> tuple[Any, ...]:
        # Takes any arguments and returns None, and can be loaded where there is no parity.
        return getattr, (contextlib.nullcontext(), "__exit__")
