"""What runs in a worker process."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import numpy as np

from parity.cluster import last_words
from parity.cluster.nodes import this_node
from parity.plan.trial import Trial
from parity.store.events import Began, Event
from parity.store.position import Position, SharedSteps
from parity.train.perform import perform


class Worker:
    """One trial, advanced call by call."""

    def __init__(self, environment: dict[str, str]) -> None:
        # torch reads OMP_NUM_THREADS and ATEN_CPU_CAPABILITY once, at its import. Ray can be set to preload it.
        # They are not set by a runtime_env, for which Ray would start a new process for each worker (0.6 s or more).
        if "torch" in sys.modules:
            raise RuntimeError("torch is imported before the environment is set")
        os.environ.update(environment)

    def start(
        self, trial: Trial, data: dict[str, np.ndarray], shared: SharedSteps | None, position: Position | None
    ) -> tuple[str, str | None]:
        """Takes a trial, as `perform` does; the arrays of the data lie in Ray's shared memory and are read-only.

        Args:
            trial: What to train.
            data: The task's data; dtype[rows, ...] by name.
            shared: What the trial that it has its shared steps from left, or None.
            position: Where it continues, or None.

        Returns:
            Id of the node that this process runs on, and the file there in which it notes what ends it, or None.
        """
        # A generator: no code of the trial runs before the first `advance`, and by then the process notes what ends it.
        self._events = perform(trial, data, shared, position)
        return this_node(), last_words.note()

    def advance(self) -> Event:
        """Trains up to the next event, and returns it."""
        # Never past its end: after the trial's last event the driver ends this process.
        event = next(self._events)
        return replace(event, facts=event.facts | {"node_id": this_node()}) if isinstance(event, Began) else event
