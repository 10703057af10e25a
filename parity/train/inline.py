"""Trials in the calling process, without Ray: what `--inline` and `parity.check` do."""

import importlib
import os
from collections.abc import Generator, Sequence

import numpy as np

from parity.ground.errors import Trouble
from parity.plan.device import environment
from parity.plan.trial import Trial
from parity.store.events import Event
from parity.store.position import NoPast, Past
from parity.train.perform import perform


class Inline:
    """The calling process as an `Executor`: one trial after the other."""

    def accelerators(self) -> list[str]:
        """Kinds of accelerator that torch can use in this process."""
        from parity.train.switches import available_accelerators  # imports torch, which a cluster's driver does without

        return available_accelerators()

    def check(self, trials: Sequence[Trial]) -> None:
        """Sets the environment variables that the trials' devices need, and looks whether this machine has the devices.

        Raises:
            Trouble: The trials need different variables, which one process cannot have; or a device is missing.
            ModuleNotFoundError: Torch is not installed.
        """
        # Here, where nothing is stored yet: without torch, no run directory is to be left behind.
        importlib.import_module("torch")
        # `switches.prepare` sets the threads by value, so they may differ; the instruction set may not.
        isas = {trial.device.isa for trial in trials if trial.device.kind == "cpu"}
        if len(isas) > 1:
            names = ", ".join(sorted({trial.device.name for trial in trials if trial.device.kind == "cpu"}))
            raise Trouble(
                f"--inline trains in this process, which can have only one instruction set; found {names}. "
                "Leave out --inline, or give one isa=."
            )
        # The CPU's environment may hide all GPUs, which another trial of this process needs.
        needs_gpu = any(trial.device.kind != "cpu" for trial in trials)
        for trial in trials:
            for name, value in environment(trial.device).items():
                if name != "CUDA_VISIBLE_DEVICES" or not needs_gpu:
                    os.environ[name] = value
        require_devices(trials)

    def train(
        self, trials: Sequence[Trial], data: dict[str, np.ndarray], past: Past | None = None
    ) -> Generator[list[Event], None, None]:
        """Trains the trials one after the other; as `Executor.train`, one event at a time.

        Raises:
            Trouble: As `Executor.train`; or a trial has made a device unusable for those after it.
        """
        # These import torch, which a cluster's driver does without.
        from parity.observe.settings import settings_restored
        from parity.train import switches
        from parity.train.surroundings import CallersPlace, kept_alive

        past = past or NoPast()
        last: dict[str, Trial] = {}
        for trial in trials:
            before = last.get(trial.device.kind)
            last[trial.device.kind] = trial
            if before and (reason := switches.unusable(trial.device)):
                raise Trouble(
                    f"{before.name} has made its device unusable for this process: {reason}. {trial.name} needs a "
                    "new process: parity.run without --inline starts one for each trial, and --resume continues a run."
                )
            shared = past.shared(trial.shared_from) if trial.shared_from else None
            # What the user's code switches in this process is gone before the next trial, as it is with a worker.
            with settings_restored(), kept_alive(), CallersPlace() as place:
                events = perform(trial, data, shared, past.position(trial.name))
                # Not a for loop: a trial that has to begin again gets another iterator.
                while event := next(events, None):
                    with place.callers():
                        yield [event]
                    # Storing the event may have shown that rows after a saved state came out differently.
                    if past.void(trial.name):
                        events = perform(trial, data, shared, past.position(trial.name))


def require_devices(trials: Sequence[Trial]) -> None:
    """Raises `Trouble` unless this machine has the device of each trial."""
    from parity.train.switches import require  # imports torch

    for device in dict.fromkeys(trial.device for trial in trials):
        require(device)
