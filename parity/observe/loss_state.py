"""What a loss keeps between its calls: taken, and put back after extra calls; what it may switch is in `settings`.

Oracle and contract call losses that belong to a training. `state_restored` makes these calls leave nothing behind: it
walks from a loss to whatever its code can reach and change, and puts it all back. What it walks through, and where it
stops:

- functions: their attributes, default arguments, closures, and the globals that their code names;
- objects of the user's classes, and these classes: their attributes; modules, their buffers, parameters and mode too;
- containers, tensors (with `.grad`), arrays, and generators of torch, NumPy and Python.

Not restored, since it cannot be or since it would cost too much: files and other processes; iterators and Python
generators that have moved on; the inside of libraries (`LIBRARIES` and the standard library); NumPy arrays and
containers larger than `LARGEST`, which are data rather than state. A tensor larger than that is not copied either, and
if it was written to, `TooLarge` says so.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

# Top-level packages whose objects keep no state of a user's loss; not a list of all, only of those that are met often.
LIBRARIES = frozenset({"torch", "numpy", "scipy", "pandas", "pyarrow", "triton", "ray", "parity", "numba", "jax"})
# Elements of an array or entries of a container, and objects in one walk. Chosen: 4 MB of float32, copied in 1 ms.
LARGEST = 2**20
MOST_OBJECTS = 10_000
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, types.ModuleType)
_DICTS = (dict, OrderedDict, defaultdict)
_MISSING = object()


class TooLarge(Exception):  # noqa: N818 - names what it reports
    """The loss wrote to a tensor that is too large to be copied before each call; the message names its size."""


@contextlib.contextmanager
def state_restored(*losses: object) -> Iterator[None]:
    """Gives what the losses keep between calls back the values that it had before the block; see the module.

    Raises:
        TooLarge: A loss wrote to a tensor that is too large to have been copied.
    """
    walk = _Walk()
    for loss in losses:
        walk.visit(loss)
    try:
        yield
    finally:
        walk.restore()


class _Walk:
    """A walk through what a loss can reach; it keeps a way back for each thing that can change."""

    def __init__(self) -> None:
        self._back = contextlib.ExitStack()
        # The objects themselves: an id is that of one object only as long as the object is alive.
        self._seen: dict[int, object] = {}

    def restore(self) -> None:
        """Puts back what has changed, the last first; all of it, even if one thing raises."""
        self._back.close()

    def visit(self, value: Any) -> None:
        """Keeps what can change of a value, and goes on to what it refers to."""
        if isinstance(value, _PLAIN) or id(value) in self._seen or len(self._seen) >= MOST_OBJECTS:
            return
        self._seen[id(value)] = value
        match value:
            case torch.Tensor():
                self._tensor(value)
            case np.ndarray():
                if value.size <= LARGEST and value.flags.writeable and not value.dtype.hasobject:
                    self._keep(value.copy(), lambda kept: np.copyto(value, kept))
            case torch.Generator():
                self._keep(value.get_state(), value.set_state)
            case np.random.Generator():
                self._keep(value.bit_generator.state, lambda kept: setattr(value.bit_generator, "state", kept))
            case np.random.RandomState():
                self._keep(value.get_state(), value.set_state)
            case random.Random():
                self._keep(value.getstate(), value.setstate)
            case list() | tuple() | deque() | set() | frozenset() | bytearray():
                self._sequence(value)
            case dict():
                self._dict(value)
            case types.FunctionType():
                self._function(value)
            case types.MethodType():
                self.visit(value.__func__)
                self.visit(value.__self__)
            case types.BuiltinMethodType():  # the `apply` of an autograd.Function, for one
                self.visit(value.__self__)
            case functools.partial():
                self.visit((value.func, value.args, value.keywords))
            case type():
                self._class(value)
            case _:
                self._object(value)

    def _keep(self, kept: Any, back: Callable[[Any], object]) -> None:
        self._back.callback(back, kept)

    def _tensor(self, value: torch.Tensor) -> None:
        # Of a lazy module that was not called yet: it has no elements.
        if torch.nn.parameter.is_lazy(value):
            return
        if value.is_leaf:  # of another tensor, torch warns
            grad = value.grad
            self._back.callback(lambda: None if value.grad is grad else setattr(value, "grad", grad))
            self.visit(grad)
        if value.layout is not torch.strided or value.is_meta or value.is_inference():
            return
        if value.numel() > LARGEST:
            self._keep(value._version, functools.partial(_require_version, value))
        # An expanded tensor shares its elements, which copy_ refuses to write.
        elif all(stride or size == 1 for size, stride in zip(value.shape, value.stride(), strict=True)):
            # The training may have saved the tensor for its backward, which refuses one that was written to since.
            # Torch has no public way to say that the old numbers are back.
            self._back.enter_context(torch.autograd._unsafe_preserve_version_counter(value))  # type: ignore[attr-defined]
            self._keep(value.detach().clone(), lambda kept: value.data.copy_(kept))

    def _sequence(self, value: Any) -> None:
        if len(value) > LARGEST:
            return
        kept = list(value)
        if isinstance(value, list | deque | set | bytearray):
            self._back.callback(lambda: _refill(value, kept))
        for each in () if isinstance(value, bytearray) else kept:
            self.visit(each)

    def _dict(self, value: dict[Any, Any]) -> None:
        if type(value) not in _DICTS or len(value) > LARGEST:
            return
        kept = dict(value)

        def back() -> None:
            # Only what has changed: a dict that somebody iterates over, or a large one, stays as it is.
            if not _same_entries(value, kept):
                value.clear()
                value.update(kept)

        self._back.callback(back)
        for each in kept.values():
            self.visit(each)

    def _function(self, value: types.FunctionType) -> None:
        defaults = value.__defaults__
        self._back.callback(lambda: setattr(value, "__defaults__", defaults))
        self.visit((defaults, value.__kwdefaults__, value.__dict__))
        for cell in value.__closure__ or ():
            self._cell(cell)
        if not _in_library(value.__globals__.get("__name__")):
            self._names(value.__globals__, _names_in(value.__code__))

    def _cell(self, cell: types.CellType) -> None:
        try:
            content = cell.cell_contents
        except ValueError:  # not filled yet
            return
        self._back.callback(lambda: setattr(cell, "cell_contents", content))
        self.visit(content)

    def _names(self, namespace: dict[str, Any], names: frozenset[str]) -> None:
        """Keeps these globals; of the user's modules among them, the attributes with these names too."""
        for name in names:
            content = namespace.get(name, _MISSING)
            self._back.callback(functools.partial(_rebind, namespace, name, content))
            if isinstance(content, types.ModuleType):
                if id(content) not in self._seen and not _in_library(content.__name__):
                    self._seen[id(content)] = content
                    self._names(vars(content), names)
            elif content is not _MISSING:
                self.visit(content)

    def _class(self, value: type) -> None:
        if _in_library(value.__module__):
            return
        kept = {name: each for name, each in vars(value).items() if not (name.startswith("__") and name.endswith("__"))}
        self._back.callback(lambda: _restore_class(value, kept))
        for each in vars(value).values():
            match each:
                case staticmethod() | classmethod():
                    self.visit(each.__func__)
                case property():
                    self.visit((each.fget, each.fset))
                case _:
                    self.visit(each)
        for base in value.__bases__:
            self.visit(base)

    def _object(self, value: Any) -> None:
        kind = type(value)
        # Modules of torch itself as well: batch norm keeps its statistics in buffers.
        if _in_library(kind.__module__) and not isinstance(value, torch.nn.Module | types.SimpleNamespace):
            # What wraps a function keeps it as `__wrapped__`, or under a name of its own.
            if callable(value) and hasattr(value, "__dict__"):
                self.visit(value.__dict__)
            return
        self.visit(kind)
        if hasattr(value, "__dict__"):
            self.visit(value.__dict__)
        for slot in (name for base in kind.__mro__ for name in _slots(base)):
            if (content := getattr(value, slot, _MISSING)) is not _MISSING:
                self._back.callback(functools.partial(_reset, value, slot, content))
                self.visit(content)


def _require_version(value: torch.Tensor, version: int) -> None:
    if value._version != version:
        raise TooLarge(f"it wrote to a tensor of shape {list(value.shape)}, too large to be put back after each call")


def _refill(value: Any, kept: list[Any]) -> None:
    """Puts these elements back into a list, deque, set or bytearray that has others now."""
    now = list(value)
    if len(now) != len(kept) or any(left is not right for left, right in zip(now, kept, strict=True)):
        value.clear()
        (value.update if isinstance(value, set) else value.extend)(kept)


def _same_entries(value: dict[Any, Any], kept: dict[Any, Any]) -> bool:
    return len(value) == len(kept) and all(
        left is right and value[left] is kept[right] for left, right in zip(value, kept, strict=True)
    )


def _rebind(namespace: dict[str, Any], name: str, content: Any) -> None:
    """Gives a global back its value, or takes it away if it had none."""
    if content is _MISSING:
        namespace.pop(name, None)
    elif namespace.get(name, _MISSING) is not content:
        namespace[name] = content


def _restore_class(value: type, kept: dict[str, Any]) -> None:
    now = {name for name in vars(value) if not (name.startswith("__") and name.endswith("__"))}
    for name in now - kept.keys():
        delattr(value, name)
    for name, each in kept.items():
        if vars(value).get(name, _MISSING) is not each:
            setattr(value, name, each)


def _reset(value: object, slot: str, content: Any) -> None:
    """Gives a slot back its content, also of a frozen dataclass, whose own way to set it refuses."""
    if getattr(value, slot, _MISSING) is not content:
        object.__setattr__(value, slot, content)


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


@functools.cache
def _names_in(code: types.CodeType) -> frozenset[str]:
    """Names of globals and attributes in a function's code and in the functions that it defines."""
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return frozenset(code.co_names).union(*map(_names_in, inner))


def _in_library(module: object) -> bool:
    top = str(module).partition(".")[0]
    return top in LIBRARIES or top in sys.stdlib_module_names
