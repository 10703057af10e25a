"""What a model gives and a loss takes: a tensor, or a tree of tensors, nested as needed.

A tree is made of tuples, lists, mappings and dataclasses (such as the outputs of transformers), and of whatever is
registered with torch's pytree.

The *parts* of a tree are its floating-point tensors, in the order of the tree: a loss has a gradient for each of them.
Other tensors (labels, masks) and leaves that are not tensors belong to the tree, and have no gradient.

Source:
    torch.utils._pytree, which torch.func, torch.export and transformers' ModelOutput use.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch.utils import _pytree as pytree

# A torch.Tensor, or a tree of them.
Outputs: TypeAlias = Any


def is_tree(outputs: Outputs) -> bool:
    """Whether the outputs are a tree rather than one tensor."""
    return not isinstance(outputs, torch.Tensor)


def tensors(outputs: Outputs) -> list[torch.Tensor]:
    """All tensors, in the order of the tree."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [leaf for _, leaf in _flattened(outputs)[0] if isinstance(leaf, torch.Tensor)]


def parts(outputs: Outputs) -> list[torch.Tensor]:
    """The floating-point tensors, in the order of the tree."""
    return [tensor for tensor in tensors(outputs) if tensor.is_floating_point()]


def part_names(outputs: Outputs) -> list[str | None]:
    """The name of each part: None for one tensor, else its path in the tree.

    >>> part_names({"reconstruction": torch.zeros(2), "heads": (torch.zeros(1), torch.zeros(1))})
    ['reconstruction', 'heads.0', 'heads.1']
    """
    if isinstance(outputs, torch.Tensor):
        return [None]
    # In the same order as `parts`: both walk the same leaves.
    return [".".join(path) for path, leaf in _flattened(outputs)[0] if _is_part(leaf)]


def map_tensors(function: Callable[[torch.Tensor], torch.Tensor], outputs: Outputs) -> Outputs:
    """The same tree with the function applied to each tensor; leaves that are not tensors stay as they are."""
    if isinstance(outputs, torch.Tensor):
        return function(outputs)
    leaves, rebuild = _flattened(outputs)
    return rebuild(function(leaf) if isinstance(leaf, torch.Tensor) else leaf for _, leaf in leaves)


def with_parts(outputs: Outputs, replacements: Sequence[torch.Tensor]) -> Outputs:
    """The same tree with its parts replaced, in order.

    Raises:
        ValueError: The tree has another number of parts.
    """
    named, rebuild = _flattened(outputs)
    leaves = [leaf for _, leaf in named]
    places = [index for index, leaf in enumerate(leaves) if _is_part(leaf)]
    # strict, so that another number of tensors raises.
    for index, replacement in zip(places, replacements, strict=True):
        leaves[index] = replacement
    return rebuild(iter(leaves))


def rows_of(outputs: Outputs) -> int:
    """Number of rows of the first tensor; 1 if it has no dimension."""
    first = tensors(outputs)[0]
    return len(first) if first.dim() else 1


def elements_of(outputs: Outputs) -> int:
    """Number of elements of all parts."""
    return sum(part.numel() for part in parts(outputs))


def separated(outputs: Outputs) -> Outputs:
    """Returns the outputs as a loss receives them, so that it has one gradient for each part.

    The parts of a tree may depend on each other: a reconstruction is computed from its code. Each part of a tree is
    therefore cut off the graph of the others, and the gradients that the loss has for the parts are sent back through
    the model together. One tensor stays as it is.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs
    # New leaves of the graph: the loss's gradient ends at each of them.
    return with_parts(outputs, [part.detach().requires_grad_() for part in parts(outputs)])


def learning_parts(target: Outputs) -> list[torch.Tensor]:
    """The parts of a target that require a gradient, which the model has computed."""
    return [part for part in parts(target) if part.requires_grad]


def cut_off(target: Outputs) -> Outputs:
    """The target as a loss receives it: parts that require a gradient are new leaves, at which its gradient ends."""
    if not learning_parts(target):
        return target
    return with_parts(
        target, [part.detach().requires_grad_() if part.requires_grad else part for part in parts(target)]
    )


def describe(outputs: Outputs) -> str:
    """Types and shapes in words, for messages.

    >>> describe((torch.zeros(2, 3), None))
    '(float32[2, 3], NoneType)'
    """
    if isinstance(outputs, torch.Tensor):
        return f"{str(outputs.dtype).removeprefix('torch.')}{list(outputs.shape)}"
    if isinstance(outputs, Mapping):
        return "{" + ", ".join(f"{key}: {describe(value)}" for key, value in outputs.items()) + "}"
    if isinstance(outputs, tuple | list):
        return "(" + ", ".join(map(describe, outputs)) + ")"
    return type(outputs).__name__


def _flattened(outputs: Outputs) -> tuple[list[tuple[tuple[str, ...], Any]], Callable[[Iterator[Any]], Outputs]]:
    """The leaves of a tree with their paths, and a function that makes the same tree of other leaves, in order."""
    leaves, shape = pytree.tree_flatten_with_path(outputs)
    found: list[tuple[tuple[str, ...], Any]] = []
    makers: list[Callable[[Iterator[Any]], Any]] = []
    for path, leaf in leaves:
        before = tuple(map(_key, path))
        fields = _fields(leaf)
        if fields is None:
            found.append((before, leaf))
            makers.append(next)
        else:
            # A leaf to pytree, which does not know its class.
            inner, rebuild = _flattened(fields)
            found += [(before + names, each) for names, each in inner]
            makers.append(lambda others, leaf=leaf, rebuild=rebuild: _with_fields(leaf, rebuild(others)))  # type: ignore[misc]
    return found, lambda others: pytree.tree_unflatten([make(others) for make in makers], shape)


def _fields(leaf: Any) -> dict[str, Any] | None:
    """What a mapping or a dataclass holds, by name; None for anything else."""
    if isinstance(leaf, Mapping):
        return {str(name): value for name, value in leaf.items()}
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        return {each.name: getattr(leaf, each.name) for each in dataclasses.fields(leaf)}
    return None


def _with_fields(leaf: Any, values: dict[str, Any]) -> Any:
    """A copy of a mapping or a dataclass with other values."""
    made = copy.copy(leaf)
    for name in [*leaf] if isinstance(leaf, Mapping) else values:
        if isinstance(leaf, Mapping):
            made[name] = values[str(name)]
        else:
            # Frozen dataclasses refuse an assignment, not this.
            object.__setattr__(made, name, values[name])
    return made


def _is_part(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()


def _key(entry: Any) -> str:
    """One step of a path: an index of a sequence, a key of a mapping, or the name of an attribute."""
    # pytree has a class of entries for each kind of container, each with one of these attributes.
    for name in ("idx", "key", "name"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    return str(entry)
