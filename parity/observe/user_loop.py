"""The parts of a user's training loop: model and optimizers inside their wrappers, device, inputs, outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch.nn.parallel import DistributedDataParallel

from parity.ground.errors import Trouble
from parity.observe import tf32
from parity.observe.graph import nodes_before
from parity.plan.device import Device
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs, part_names, parts


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model itself, whose parameters have the same names whether it is compiled, distributed or neither."""
    # torch.compile keeps the model as `_orig_mod`. Wrappers are nested in either order, hence the recursion.
    inner = model.module if isinstance(model, DistributedDataParallel) else getattr(model, "_orig_mod", None)
    return unwrapped(inner) if isinstance(inner, torch.nn.Module) else model


def is_compiled(model: torch.nn.Module) -> bool:
    """Whether some of the model is compiled, which a hook or a look at its modules could have compiled anew."""
    # torch.compile keeps what it compiles as `_orig_mod`, and `model.compile()` under the second name.
    return isinstance(model, torch.jit.ScriptModule) or any(
        "_orig_mod" in name or getattr(module, "_compiled_call_impl", None) is not None
        for name, module in model.named_modules()
    )


def inner_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer itself, which a library may have wrapped."""
    # Libraries that wrap an optimizer keep it under this name.
    inner = getattr(optimizer, "optimizer", None)
    return inner_optimizer(inner) if isinstance(inner, torch.optim.Optimizer) else optimizer


def optimizers_of(given: object) -> list[torch.optim.Optimizer]:
    """The optimizers that a loop gives: one, or several in a sequence, without their wrappers.

    Raises:
        Trouble: One is not an optimizer of torch.
    """
    # A wrapper that is no Optimizer may have whatever attributes; what is iterable is taken for a sequence.
    found = []
    for each in given if isinstance(given, Iterable) else [given]:
        if not isinstance(each, torch.optim.Optimizer):
            inside = [name for name, value in _attributes(each).items() if isinstance(value, torch.optim.Optimizer)]
            instead = f", here the one that it keeps as .{inside[0]}" if inside else ""
            raise Trouble(
                f"parity.Recorder: optimizers= was given an object of class {type(each).__name__}, which is not a "
                f"torch.optim.Optimizer. Give the optimizer itself, or a list of optimizers{instead}; what a wrapper "
                "does to the parameters after the optimizer's step is recorded with the step."
            )
        found.append(inner_optimizer(each))
    return found


def _attributes(thing: object) -> dict[str, object]:
    return vars(thing) if hasattr(thing, "__dict__") else {}


def device_of(model: torch.nn.Module) -> Device:
    """The device that the model is on, with the settings that change its bits.

    Raises:
        Trouble: The model has no parameters.
    """
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise Trouble("parity.Recorder: the model has no parameters to trace.")
    kind = parameter.device.type
    if kind == "cpu":
        return Device(kind, threads=torch.get_num_threads())
    # Only CUDA has TF32, so its switch does not belong to the name of another device.
    return Device(kind, tf32=kind == "cuda" and "matmul" in tf32.allowed())


def ordinal_of(model: torch.nn.Module) -> int:
    """Number of the model's GPU among those that this process sees; 0 on a CPU."""
    return next(model.parameters()).device.index or 0


def only_lr(optimizers: Sequence[torch.optim.Optimizer]) -> float | None:
    """The learning rate of all groups of parameters at this moment; None where they have different ones or none."""
    # float() also takes the tensor that a rate may be.
    rates = {float(group["lr"]) for optimizer in optimizers for group in optimizer.param_groups if "lr" in group}
    return rates.pop() if len(rates) == 1 else None


def name_of(criterion: Loss) -> str:
    """The name of a criterion: a function's own name, or the name of an object's class."""
    return getattr(criterion, "__name__", type(criterion).__name__)


def tensors_of(inputs: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The tensors of a batch, in its order; values that are not tensors are left out."""
    if isinstance(inputs, torch.Tensor):
        return [inputs]
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    return [value for value in values if isinstance(value, torch.Tensor)]


def dependence(output: Outputs) -> str | None:
    """Why the gradient of the loss alone cannot be observed for some part of an output tree, or None.

    Where one part is computed from another (a reconstruction from its code), the gradient that arrives at the code is
    the sum of the loss's own gradient for it and of what comes back through the reconstruction.
    """
    # A part without a grad_fn is a leaf of the graph, so nothing in it is computed from another part.
    named = {part.grad_fn: name for name, part in zip(part_names(output), parts(output), strict=True) if part.grad_fn}
    # One node cannot depend on another: the graph, which may be large, need not be searched.
    if len(named) < 2:
        return None
    for later, name in named.items():
        found = next((each for each in nodes_before([later]) if each in named), None)
        if found is not None:
            return (
                f"the output's part {name} is computed from its part {named[found]}, so the gradient of the loss for "
                f"{named[found]} cannot be told apart from that of the path through {name}"
            )
    return None
