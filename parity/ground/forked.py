"""Copies of a process that trains: what a loss or task makes by `os.fork()`, and lets go on as if it were the first."""

import contextlib
import os

# Id of the process that trains; None before it does.
_training: int | None = None


def claim() -> None:
    """Makes this process the one that trains, as it begins with a trial."""
    global _training
    _training = os.getpid()


def end_copy() -> None:
    """Ends this process if it is a copy of the one that trains; to be called whenever somebody's code comes back.

    A copy would train on, and store the same run once more beside the first.
    """
    if _training is None or os.getpid() == _training:
        return
    line = (
        b"parity: a process that the loss or task forked came back from it, and was ended. Let it end by os._exit().\n"
    )
    with contextlib.suppress(OSError):
        os.write(2, line)
    os._exit(1)
