"""Two ranks of one program, which import torch and parity once: what takes most of a short program's time."""

import os
import signal
from contextlib import contextmanager

import numpy as np
import torch._dynamo  # noqa: F401  # every optimizer that is made imports it

import parity.recorder  # noqa: F401


@contextmanager
def two_ranks():
    """Becomes two processes, and yields 0 in the one and 1 in the other, which ends with the block.

    Raises:
        RuntimeError: In rank 0, at the end: rank 1 has failed.
    """
    other = os.fork()
    if not other:
        np.random.seed()  # as in a process that was started; Python's generator does so by itself
        yield 1
        return
    try:
        yield 0
    except BaseException:
        os.kill(other, signal.SIGKILL)  # it may wait for this one
        raise
    finally:
        _, status = os.waitpid(other, 0)
    if status:
        raise RuntimeError(f"Rank 1 has failed: {os.waitstatus_to_exitcode(status)}.")
