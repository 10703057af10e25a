"""Losses that end their process, change it, or report on it. All are right otherwise."""

import ctypes
import os
import random
import signal
import time

import numpy as np
import torch
from torch.nn import functional

mse_loss = functional.mse_loss
# Drawn before the training seeds the generators.
DRAWN = random.getrandbits(32), np.random.randint(2**31)


def right(output, target):
    return mse_loss(output, target)


def crashing(output, target):
    os.kill(os.getpid(), signal.SIGSEGV)


def terminated(output, target):
    os.kill(os.getpid(), signal.SIGTERM)


def killed(output, target):
    os.kill(os.getpid(), signal.SIGKILL)


class Stopped(BaseException):
    """What is no `Exception`, as the exceptions of some frameworks."""


def stopping(output, target):
    raise Stopped("the licence of this kernel\nhas expired")


def leaving(output, target):
    os._exit(3)


def leaving_in_c(output, target):
    ctypes.CDLL(None)._exit(4)


def leaving_as_if_all_were_well(output, target):
    os._exit(0)


def hanging(output, target):
    time.sleep(1000)


def polluting(output, target):
    """Changes what all trials of one process would share."""
    functional.mse_loss = None
    torch.Tensor.polluted = True
    os.environ["POLLUTED"] = "1"
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    random.seed(0)
    np.random.seed(0)
    raise ValueError("polluted")


def reporting(output, target):
    """Reports on its process in the message of an error."""
    raise ValueError(
        f"{os.getpid()} {os.getppid()} {DRAWN[0]} {DRAWN[1]} "
        f"{signal.getsignal(signal.SIGTERM) == signal.SIG_DFL} {signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL}"
    )


def unpolluted(output, target):
    """Raises if it meets what `polluting` has changed."""
    found = hasattr(torch.Tensor, "polluted") or "POLLUTED" in os.environ or functional.mse_loss is not mse_loss
    raise ValueError(f"{found} {torch.get_default_dtype()} {torch.are_deterministic_algorithms_enabled()}")


def leaving_a_process_behind(output, target):
    """Forks a process that outlives the trial, in a session of its own, and reports its id."""
    child = os.fork()
    if not child:
        os.setsid()
        time.sleep(1000)
    raise ValueError(str(child))
