"""The phase that the trials of a run have reached, derived from their events."""

from collections.abc import Iterable, Sequence

from parity.ground import phases
from parity.plan.trial import Trial
from parity.store.events import Advanced, Began, Event


class Stages:
    """Enters the phases "workers", "contract" and "training" as the trials come to them.

    Args:
        trials: The trials of the plan.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._contracts = {trial.name for trial in trials if trial.contract}
        # When each trial whose contract is being checked began.
        self._checking: dict[str, float] = {}
        self._stage: phases.Phase = "workers"

    def take(self, events: Iterable[Event]) -> None:
        """Takes events in the order in which they came."""
        for event in events:
            now_s = phases.elapsed_s()
            match event:
                case Began():
                    if event.trial in self._contracts:
                        self._checking[event.trial] = now_s
                    self._reach("contract")
                case Advanced():
                    if event.trial in self._checking:
                        phases.note("contract", self._checking.pop(event.trial), now_s)
                    self._reach("training")

    def _reach(self, stage: phases.Phase) -> None:
        """Enters a phase unless the trials have come to a later one."""
        order = ("workers", "contract", "training")
        if order.index(stage) > order.index(self._stage):
            self._stage = stage
            phases.enter(stage)
