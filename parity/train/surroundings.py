"""What surrounds a training in somebody else's process: neither must change the other."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch


@contextlib.contextmanager
def as_in_a_new_process() -> Iterator[None]:
    """Within the block, torch has the modes that a worker begins with: gradients on, autocast and inference mode off.

    The default dtype stays, since a task of the user's may need it.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(_default_device_cpu())
        yield


@contextlib.contextmanager
def for_model(*, float32: bool) -> Iterator[None]:
    """Within the block, tensors are made on the CPU: every device begins with the same parameters.

    Args:
        float32: Whether they are of that dtype, whatever the file of a loss has made the default one.
    """
    dtype = torch.get_default_dtype()
    try:
        if float32:
            torch.set_default_dtype(torch.float32)
        with _default_device_cpu():
            yield
    finally:
        torch.set_default_dtype(dtype)


def is_view(tensor: torch.Tensor, arrays: Iterable[np.ndarray]) -> bool:
    """Whether writing to a tensor would change one of the arrays, although they are read-only.

    >>> array = np.zeros((4, 2))
    >>> is_view(torch.from_numpy(array[2:]), [array]), is_view(torch.tensor(array[2:]), [array])
    (True, False)
    """
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        return False
    place = tensor.untyped_storage().data_ptr()
    return any(array.ctypes.data <= place < array.ctypes.data + array.nbytes for array in arrays)


class CallersPlace:
    """The working directory and the standard streams of a process, which user code may replace.

    User code keeps its own within the `with` block. Within `callers`, and after the block, they are those of before it.
    """

    def __enter__(self) -> CallersPlace:
        self._callers = _take()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Python may close an abandoned generator at any time; it is within `callers` then.
        if kind is not GeneratorExit:
            _put(self._callers)

    @contextlib.contextmanager
    def callers(self) -> Iterator[None]:
        """Within the block, relative paths and what is printed lead where they led before the user's code ran."""
        users = _take()
        _put(self._callers)
        # Not after an error: then no user code runs any more.
        yield
        _put(users)


@contextlib.contextmanager
def kept_alive() -> Iterator[None]:
    """Within the block, `os._exit` raises `SystemExit`, since the user's code would end a process that is not its own.

    There would be no report, and the exit status might be 0. In another thread, such as one that watches the time, and
    in a forked process, `os._exit` works as ever.
    """
    genuine, thread, process = os._exit, threading.get_ident(), os.getpid()

    def refuse(status: int) -> NoReturn:
        if threading.get_ident() != thread or os.getpid() != process:
            genuine(status)
        raise SystemExit(f"os._exit({status})")

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = genuine


def _default_device_cpu() -> contextlib.AbstractContextManager[Any]:
    # Only where it is needed: the mode is around each call of torch.
    return torch.device("cpu") if torch.get_default_device().type != "cpu" else contextlib.nullcontext()


def _take() -> tuple[str | None, Any, Any]:
    try:
        folder = str(Path.cwd())
    except OSError:  # it was removed
        folder = None
    return folder, sys.stdout, sys.stderr


def _put(place: tuple[str | None, Any, Any]) -> None:
    folder, sys.stdout, sys.stderr = place
    if folder is not None:
        with contextlib.suppress(OSError):  # it was removed meanwhile
            os.chdir(folder)
