"""Where trials run: the calling process, or the workers of a Ray cluster."""

from collections.abc import Generator, Sequence
from typing import Protocol

import numpy as np

from parity.plan.trial import Trial
from parity.store.events import Event
from parity.store.position import Past


# A protocol rather than a base class: `Cluster` and `Inline` share no code, and the driver need import neither.
class Executor(Protocol):
    """Trains trials. `inline.Inline` does so in the calling process, `cluster.workers.Cluster` on Ray."""

    def accelerators(self) -> list[str]:
        """Kinds of accelerator that trials can run on: "cuda" or "mps"; empty where there is none."""

    def check(self, trials: Sequence[Trial]) -> None:
        """Makes sure that the trials can run here, before anything is stored.

        Raises:
            Trouble: One of them cannot.
        """

    def train(
        self, trials: Sequence[Trial], data: dict[str, np.ndarray], past: Past | None = None
    ) -> Generator[list[Event], None, None]:
        """Trains the trials to their ends.

        Args:
            trials: Those that have not ended.
            data: The task's data; dtype[rows, ...] by name.
            past: What these trials, and those that they take shared steps from, reported before.

        Yields:
            Events of some trials, those of each trial in order. They must be stored before the next ones are asked for.

        Raises:
            Trouble: A trial could not be started as it was asked for, or the cluster fails. The other trials are ended.
        """
