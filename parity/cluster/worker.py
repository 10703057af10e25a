"""What runs in a worker process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from parity.cluster import last_words
from parity.cluster.nodes import this_node
from parity.plan.trial import Trial
from parity.store.events import Began, Event
from parity.store.position import Position, SharedSteps
from parity.train.seat import ProcessEnded, Seat
from parity.train.warm import Warm


class Worker:
    """A seat on Ray: trains one trial after the other, each in a process of its own, advanced call by call.

    Ray's own process, which has threads and must not fork, does not import torch.
    """

    def __init__(self, environment: dict[str, str], warm: Sequence[Warm] = ()) -> None:
        # torch reads OMP_NUM_THREADS and ATEN_CPU_CAPABILITY once, at its import in the seat's process.
        # They are not set by a runtime_env, for which Ray would start a new process for each worker (0.6 s or more).
        os.environ.update(environment)
        self._warm = warm
        self._seat: Seat | None = None
        self._log: str | None = None

    def start(
        self, trial: Trial, data: dict[str, np.ndarray], shared: SharedSteps | None, position: Position | None
    ) -> tuple[str, str | None]:
        """Takes a trial, as `perform` does.

        Args:
            trial: What to train.
            data: The task's data; dtype[rows, ...] by name. The same for all trials of a worker.
            shared: What the trial that it has its shared steps from left, or None.
            position: Where it continues, or None.

        Returns:
            Id of the node that this process runs on, and the file there in which it notes what ends it, or None.
        """
        if self._seat is None:
            self._log = last_words.note()
            self._seat = Seat(data, warm=self._warm)
        with _ended_alike():
            self._seat.start(trial, shared, position)
        return this_node(), self._log

    def advance(self) -> Event:
        """Trains up to the next event, and returns it."""
        # Never past its end: after the trial's last event comes the next trial, or the end of this process.
        assert self._seat is not None
        with _ended_alike():
            event = self._seat.advance()
        return replace(event, facts=event.facts | {"node_id": this_node()}) if isinstance(event, Began) else event


@contextlib.contextmanager
def _ended_alike() -> Iterator[None]:
    """Ends this process as the trial's process has ended, so that the driver has one kind of lost worker to judge."""
    try:
        yield
    except ProcessEnded as ended:
        last_words.end(ended.how)
