"""States of a training as bytes, from which another process can continue; read back without running code in them."""

from __future__ import annotations

import io
from pickle import UnpicklingError
from typing import Any

import torch

from parity.train.state import on_cpu


class StateNotPortable(Exception):  # noqa: N818 - names what it reports
    """The state holds something that cannot be read back without running code."""


def pack(state: Any) -> bytes:
    """The state as bytes, its tensors moved to the CPU.

    Args:
        state: Tensors, numbers, strings, None, and dicts, lists and tuples of them.

    Raises:
        StateNotPortable: It holds something else.
    """
    sink = io.BytesIO()
    torch.save(on_cpu({"state": state}), sink)
    packed = sink.getvalue()
    # Read back at once: a state that cannot be read is refused here rather than when the trial has to continue.
    unpack(packed)
    return packed


def unpack(packed: bytes) -> Any:
    """The state that was packed, on the CPU.

    Raises:
        StateNotPortable: It holds something that `pack` would refuse.
    """
    try:
        # weights_only refuses everything that unpickling would have to run.
        return torch.load(io.BytesIO(packed), weights_only=True, map_location="cpu")["state"]
    except (UnpicklingError, RuntimeError, KeyError, EOFError) as error:
        # The first line names what was refused; an empty message is that of a file that ends too early.
        raise StateNotPortable((str(error).splitlines() or ["it is cut short"])[0]) from error
