"""The oracle draws what the loss drew: the same numbers from the same state of the global generators."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.ground.errors import OracleUnavailable
from parity.observe.audit import Oracle, audited
from parity.observe.generators import GENERATORS

UNSEEN = (
    "the baseline draws random numbers, and where its loss began to draw is not known: the loss is seen only after it "
    "was called"
)
OTHERS = "the baseline draws random numbers, and the loss did not draw as many from the same generators"


class Draws:
    """Which numbers a trial's loss drew, so that the oracle can draw them again.

    Call `before` before the loss, and the oracle within `repeated`.
    """

    def __init__(self) -> None:
        # All at first, and from then on those that have been used: reading NumPy's and Python's takes 0.3 ms.
        self._names = tuple(GENERATORS)
        self._start: dict[str, Any] | None = None

    def before(self) -> None:
        """Takes the states of the generators: the loss is about to be called."""
        self._start = self._take()

    @contextlib.contextmanager
    def repeated(self, oracle: Oracle, dtype: torch.dtype) -> Iterator[None]:
        """Within the block, the oracle draws what the loss drew; afterwards the generators are as they were.

        Args:
            oracle: It is called once within the block.
            dtype: In which the loss drew: the same generator gives other numbers in float64.

        Raises:
            OracleUnavailable: The oracle drew, and the loss did not draw the same, or is not known to have.
        """
        start, self._start = self._start, None
        after = self._take()
        drew = start is not None and not _same(start, after)
        if start is not None and drew:
            _restore(start)
        began = after if start is None else start
        ended = [began]
        try:
            with (
                audited(oracle, lambda: ended.append(self._take())),
                NarrowDraws(dtype) if drew else contextlib.nullcontext(),
            ):
                yield
        finally:
            if drew:
                _restore(after)
        if not _same(began, ended[-1]):
            if start is None:
                raise OracleUnavailable(UNSEEN)
            if not _same(ended[-1], after):
                raise OracleUnavailable(OTHERS)
        used = [name for name in self._names if not all(_equal(each[name], after[name]) for each in (began, ended[-1]))]
        # torch's own is read in microseconds, and watched for a loss that begins to draw later.
        self._names = tuple(dict.fromkeys(["torch", *used]))

    def _take(self) -> dict[str, Any]:
        return {name: GENERATORS[name].take() for name in self._names}


class NarrowDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within its `with` block, random operations in float64 draw in another dtype, and widen what they drew."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Draws in the narrow dtype; calls any other operation as it is."""
        options = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **options)
        wide = options.get("dtype") == torch.float64 or any(map(_is_wide, args))
        if not wide:
            return func(*args, **options)
        narrow = [each.to(self._dtype) if _is_wide(each) else each for each in args]
        options = {name: self._dtype if value is torch.float64 else value for name, value in options.items()}
        drawn = func(*narrow, **options)
        if func._schema.is_mutable:  # uniform_() and the like write to their first argument
            return args[0].copy_(drawn)
        return torch.utils._pytree.tree_map(_widened, drawn)


def _is_wide(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float64


def _widened(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _restore(states: Mapping[str, Any]) -> None:
    for name, state in states.items():
        GENERATORS[name].restore(state)


def _same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return all(_equal(state, right[name]) for name, state in left.items())


def _equal(left: Any, right: Any) -> bool:
    """Whether two states of a generator are equal: a tensor, a list of tensors (one for each GPU), or plain values."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)
