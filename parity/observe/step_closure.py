"""The closure that an optimizer's step may be given, which computes the gradient inside of the step."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def with_closure(args: tuple[Any, ...], kwargs: dict[str, Any], after: Callable[[], None]) -> Arguments | None:
    """The arguments of an optimizer's step, with a closure that calls `after` when it has been called once.

    Args:
        args: The arguments in order, the optimizer first, as a hook of the optimizer gets them.
        kwargs: The arguments by name.
        after: Called after the closure's first evaluation.

    Returns:
        None where the step was given no closure.
    """
    if callable(kwargs.get("closure")):
        return args, kwargs | {"closure": _then(kwargs["closure"], after)}
    if len(args) > 1 and callable(args[1]) and _takes_closure_first(args[0]):
        return (args[0], _then(args[1], after), *args[2:]), kwargs
    return None


def works_without(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer can take its step without a closure, as its copy has to: LBFGS cannot."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is None or closure.default is not inspect.Parameter.empty


def _takes_closure_first(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the first argument of an optimizer's step is a closure, or may be one."""
    _, *parameters = inspect.signature(type(optimizer).step).parameters.values()
    return any(each.name == "closure" or each.kind is each.VAR_POSITIONAL for each in parameters[:1])


def _then(closure: Callable[..., Any], after: Callable[[], None]) -> Callable[..., Any]:
    waiting = [after]

    @functools.wraps(closure, updated=())
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        found = closure(*args, **kwargs)
        # An optimizer such as LBFGS evaluates it again, from parameters that it has moved.
        if waiting:
            waiting.pop()()
        return found

    return evaluate
