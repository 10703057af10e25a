"""What code of a user's may switch in its process: taken, and put back."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def settings_restored() -> Iterator[None]:
    """Gives torch's and NumPy's settings back the values that they had before the block.

    Nothing is put back if the block is in a generator that is closed: Python may close an abandoned one at any time, in
    the middle of something else. The settings are gradient mode, default dtype, default device, number of threads,
    whether only deterministic algorithms are used, whether autograd looks for anomalies, and how NumPy reports errors.
    """
    numpy_errors: Any = np.geterr()
    before = [read() for read, _ in _SETTINGS]
    abandoned = False
    try:
        yield
    except GeneratorExit:
        abandoned = True
        raise
    finally:
        if not abandoned:
            for (read, write), value in zip(_SETTINGS, before, strict=True):
                if read() != value:
                    write(value)
            np.seterr(**numpy_errors)


def _set_default_device(device: torch.device) -> None:
    # None takes the mode away that any other value, also "cpu", puts around each call of torch.
    torch.set_default_device(None if device.type == "cpu" else device)


_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_device, _set_default_device),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
)
