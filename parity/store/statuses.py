"""Words that are stored: the status of a trial, what kind of failure ended it, and the state of a run.

They are part of the format of a run directory. A new word needs its readers in `judge` and `render`.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from parity.ground.errors import FailureOfTrial

# How a trial that has ended has ended: a recording may end before its loop.
EndStatus: TypeAlias = Literal["complete", "failed", "interrupted"]
# The status of a trial in trials.parquet: "planned" before its first step, "interrupted" if it began and did not end.
TrialStatus: TypeAlias = Literal["planned"] | EndStatus
# What ended a trial that failed: its own code, the loss of its process ("died", "hung"; "memory" if its node ran out of
# memory), or "node" if no node could run it.
Failure: TypeAlias = FailureOfTrial | Literal["died", "hung", "memory", "node"]
# The state of a run in run.json.
RunState: TypeAlias = Literal["running", "complete"]


def run_state(info: Mapping[str, Any]) -> RunState | None:
    """The state in the content of run.json; None if it has none."""
    state: RunState | None = info.get("state")
    return state
