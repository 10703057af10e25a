"""A copy of an optimizer for other parameters, of all that it is made of: groups, state, attributes of its own."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# Settings of optimizers that choose an implementation rather than what is computed.
_IMPLEMENTATIONS = {"foreach": False, "fused": False, "capturable": False}
# Where torch keeps the hooks of an optimizer.
_HOOKS = re.compile("_optimizer_.*_hooks")


def copy_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[torch.nn.Parameter, torch.nn.Parameter], *, exact: bool
) -> torch.optim.Optimizer:
    """Returns a copy of the optimizer as it is now, for other parameters, on the CPU.

    Nothing is made anew from the constructor, whose arguments an optimizer need not keep in its groups: what it is made
    of is copied. Its hooks are not, since they belong to the loop; nor a `step` that somebody put in the place of its
    own, which would step the loop's optimizer.

    Args:
        optimizer: The optimizer.
        parameters: For each parameter that it may have, the one to put in its place.
        exact: Whether floating-point tensors of its state and its attributes are widened to float64.

    Raises:
        ValueError: It has a parameter that is not among these.
        Exception: What else a copy of the user's objects raises.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter not in parameters:
                raise ValueError(f"it has a parameter of shape {list(parameter.shape)} that the model has not")
    # `object.__new__`, since the constructor of a subclass may ask for anything.
    copied: torch.optim.Optimizer = object.__new__(type(optimizer))
    # By identity, as `copy.deepcopy` keeps what it has copied: tied objects stay tied.
    memo: dict[int, Any] = {id(each): other for each, other in parameters.items()} | {id(optimizer): copied}
    with _OnHost(exact=exact):
        made = {
            name: OrderedDict()
            if name.startswith("_optimizer_") and name.endswith("_hooks")
            else copy.deepcopy(value, memo)
            for name, value in vars(optimizer).items()
            if name != "step"
        }
    # The base class completes what a copy lacks. Not the subclass's own method, which may expect the dict of a pickle.
    torch.optim.Optimizer.__setstate__(copied, made)
    for group in copied.param_groups:
        group.update(_plain(group))
    return copied


class _OnHost(TorchFunctionMode):
    """Within its `with` block, tensors are copied to the CPU, and widened to float64 if they are to be exact."""

    def __init__(self, *, exact: bool) -> None:
        super().__init__()
        self._exact = exact

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Copies a tensor in a way of its own, and calls any other function."""
        if func is not torch.Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            host = tensor.detach().cpu()
            host = host.double() if self._exact and host.is_floating_point() else host
            # cpu() and double() return the tensor itself where there is nothing to do.
            memo[id(tensor)] = host.clone().requires_grad_(tensor.requires_grad)
        return memo[id(tensor)]


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    """Settings of a group of parameters that a copy on the CPU has in another form.

    Those of `_IMPLEMENTATIONS` that the group has, since not every optimizer has each of them; and a rate that is a
    tensor as a number, since arithmetic on it would be in its own dtype.
    """
    numbers = {
        name: float(value)
        for name, value in group.items()
        if isinstance(value, torch.Tensor) and value.numel() == 1 and value.is_floating_point()
    }
    return numbers | {name: value for name, value in _IMPLEMENTATIONS.items() if name in group}
