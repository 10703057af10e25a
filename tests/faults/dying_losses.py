"""Losses that end or stop their process: at a step, once (a file in PLANTED_FOLDER remembers it) or each time."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from parity.train.loop import CHUNK_S


class _AtStep(nn.Module):
    """Right but for what it does at step 20; counts its steps in a buffer, which is saved with the training."""

    once = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if output.requires_grad and len(output) > 8:  # a step, and not a look at the contract
            self.calls += 1
            if self.calls == 15:
                time.sleep(CHUNK_S + 0.1)  # so that these steps are a chunk, behind which the trial is saved
            if self.calls == 20 and self._due():
                self.fault()
        return nn.functional.mse_loss(output, target)

    def _due(self) -> bool:
        if not self.once:
            return True
        try:
            (Path(os.environ["PLANTED_FOLDER"]) / type(self).__name__).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def fault(self) -> None:
        raise NotImplementedError


class KilledOnce(_AtStep):
    def fault(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Crashing(_AtStep):
    once = False

    def fault(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Hanging(_AtStep):
    once = False

    def fault(self) -> None:
        time.sleep(1000)
