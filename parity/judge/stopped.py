"""Runs in which the limit on the time of a step (`--step-timeout`) ended every trial."""

from collections.abc import Sequence

from parity.store.trials import TrialRecord


def all_stopped(trials: Sequence[TrialRecord], run: str | None) -> bool:
    """Whether the limit ended every trial of a run, which is the fault of no loss and of no device.

    Args:
        trials: Trials of one run, or of several.
        run: The run, as `TrialRecord.run`.
    """
    stopped = 0
    for record in trials:
        if record.run == run:
            # Nearly always the first one decides.
            if record.failure != "hung":
                return False
            stopped += 1
    # A trial alone has nothing to be compared with.
    return stopped > 1
