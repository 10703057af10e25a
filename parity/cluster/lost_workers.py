"""The retry policy: what becomes of a trial whose worker is lost.

A decision and nothing else. The executor describes what Ray reports as a `LostWorker`, and `Attempts.after` answers
with `Restarted` or `Ended`; neither needs Ray or a cluster. Two counts decide:

- deaths: A worker that dies, hangs or runs out of memory once its trial has begun may have been ended by the trial's
  own code. The trial gets another worker until it has lost `ATTEMPTS`. Then it fails, and its loss is blamed.
- moves: What the platform does (a node leaves, a call is lost, a process does not start) is never blamed on the loss.
  The trial is restarted until this has happened `MOVES` times without a saved state in between. Then it fails with
  the failure "node", which makes its pairs inconclusive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from parity.cluster.last_words import NOTHING_NOTED
from parity.store.events import Ended, Restarted
from parity.store.statuses import Failure

# One more than one: the system may have killed the first worker (for memory, say) through no fault of the trial.
ATTEMPTS = 2
# Chosen, not measured: enough for a node to come back, too few for a trial that no node can run to take long.
MOVES = 5
# Phrases in Ray's message of an `ActorDiedError`. The first is there if the process ended; a message without it is
# about a node or a call of `ray.kill`. The exit types that Ray itself decided on begin with the second.
# Source: ray, src/ray/gcs (the text) and src/ray/protobuf/common.proto (WorkerExitType), seen in 2.60.
_PROCESS_DIED = "worker process has died"
_PLANNED_EXIT = "INTENDED_"

Kind = Literal["died", "hung", "memory", "unavailable", "import", "ended"]


@dataclass(frozen=True)
class LostWorker:
    """A worker that is lost.

    Attributes:
        kind: "died" if its process ended unexpectedly, "hung" if it stayed silent for too long, "memory" if Ray ended
            it because its node ran out of memory, "unavailable" if it cannot be reached, "import" if its node lacks a
            module, "ended" for everything else: a planned end, the end of its node, a lost call.
        text: Ray's message; for "hung", what to report.
        node: Name of the node that it ran on, or was to run on.
        began: Whether it reported that the trial began. Before that no code of the trial has run.
        noted: What its process noted as it ended, as `last_words.look_up` returns it; `NOTHING_NOTED` if it noted
            nothing, None if that could not be looked up.
        node_left: Whether the node has left the cluster.
        replaceable: Whether a node is left that the trial may run on: of the class that it began on, or any if it has
            not begun.
    """

    kind: Kind
    text: str
    node: str
    began: bool = True
    noted: str | None = None
    node_left: bool = False
    replaceable: bool = True


@dataclass
class Attempts:
    """Counts the workers that a trial has lost, and decides whether it gets another one.

    Attributes:
        deaths: Workers that the trial's own code may have ended.
        moves: Workers that the platform took from it since its state was last saved.
    """

    deaths: int = 0
    moves: int = 0

    def saved(self) -> None:
        """Counts the moves from 0 again: the trial makes progress."""
        self.moves = 0

    def after(self, trial: str, lost: LostWorker) -> Restarted | Ended:
        """Counts a lost worker, and decides what becomes of its trial.

        Args:
            trial: Name of the trial.
            lost: The worker.

        Returns:
            `Restarted` if the trial gets another worker, `Ended` if it has failed.
        """
        # Before the trial began, none of its code had run; and a node that leaves takes its workers with it.
        suspect = lost.kind == "died" and lost.began and not lost.node_left
        if suspect or lost.kind == "hung" or (lost.kind == "memory" and lost.began):
            return self._after_death(trial, lost)
        return self._after_move(trial, lost)

    def _after_death(self, trial: str, lost: LostWorker) -> Restarted | Ended:
        self.deaths += 1
        failure: Failure
        if lost.kind == "memory":
            failure, reason = "memory", _out_of_memory(lost)
        elif lost.kind == "hung":
            failure, reason = "hung", lost.text
        else:
            failure, reason = "died", f"its worker process {_ending(lost)}"
        if self.deaths < ATTEMPTS:
            return Restarted(trial, reason)
        error = f"{reason}; an earlier worker of this trial was lost as well"
        return Ended(trial, status="failed", failure=failure, error=error)

    def _after_move(self, trial: str, lost: LostWorker) -> Restarted | Ended:
        self.moves += 1
        if lost.node_left:
            reason = f"node {lost.node} left the cluster"
            # A trial does not change its class of hardware, so it has nowhere to go.
            if not lost.replaceable:
                when = "during the trial" if lost.began else "before the trial began"
                return _failed(trial, f"{reason} {when}, and no other node of its class is left")
        elif lost.kind == "memory":
            reason = _out_of_memory(lost)
        elif lost.kind == "unavailable":
            # Ray repeats itself: "The actor X is unavailable: The actor is temporarily unavailable: RpcError: ...".
            detail = _last_line(lost.text).rpartition("unavailable: ")[2]
            reason = f"the worker on node {lost.node} did not answer ({detail})"
        else:
            detail = f"the process {_ending(lost)}" if lost.kind == "died" else _last_line(lost.text)
            reason = f"node {lost.node} could not run the worker ({detail})"
            if lost.kind == "import":  # another try would fail in the same way
                return _failed(trial, reason)
        if self.moves >= MOVES:
            return _failed(trial, f"{reason}, {MOVES} times in a row")
        return Restarted(trial, reason)


def nowhere_to_run(trial: str) -> Ended:
    """The end of a trial that still waits for a worker when the last node of its class is gone."""
    return _failed(trial, "its node left the cluster before the trial began, and no other node of its class is left")


def classify(error: Exception, exceptions: Any) -> Kind:
    """Classifies what Ray raised in place of a worker's answer.

    Args:
        error: A `RayError`.
        exceptions: The module `ray.exceptions`, which this module does not import.

    Returns:
        The kind, as `LostWorker` explains it; "ended" for what is none of the others.
    """
    text = str(error)
    # Not a kind of `ActorDiedError`, although the worker has died.
    if isinstance(error, exceptions.OutOfMemoryError):
        return "memory"
    if isinstance(error, exceptions.ActorDiedError) and _PROCESS_DIED in text and _PLANNED_EXIT not in text:
        return "died"
    # An actor that fails to start carries the traceback of its node in its message.
    if re.search(r"\b(ModuleNotFound|Import)Error\b", text):
        return "import"
    return "unavailable" if isinstance(error, exceptions.ActorUnavailableError) else "ended"


def _failed(trial: str, reason: str) -> Ended:
    return Ended(trial, status="failed", failure="node", error=reason)


def _out_of_memory(lost: LostWorker) -> str:
    return f"node {lost.node} ran out of memory, and Ray ended the worker to free some"


def _ending(lost: LostWorker) -> str:
    """How a worker process ended, from what Ray reports and from what the process noted."""
    # Where Ray reports an exit code itself, that goes before what the process noted.
    if code := re.search(r"exits with an exit code (\d+)", lost.text):
        return f"ended with exit code {code[1]}"
    if lost.noted is None:
        detail = re.search(r"Worker exit detail: (.+?)(?:\.\s|\n|$)", lost.text)
        found = detail[1] if detail else _last_line(lost.text)
        return f"died, for a reason that could not be looked up ({found})"
    if lost.noted.startswith("SIG"):
        return f"died of {lost.noted}"
    return f"ended {lost.noted}" if lost.noted == NOTHING_NOTED else f"ended with {lost.noted}"


def _last_line(text: str) -> str:
    """The gist of an error message: its last line that names an exception, else its last line."""
    named = [line for line in text.splitlines() if re.match(r"\s*(\w+\.)*\w*(Error|Exception)\b", line)]
    return (named or text.splitlines() or [""])[-1].strip()
