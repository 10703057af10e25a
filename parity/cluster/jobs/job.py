"""A job as the cluster reports it, and the trouble of a cluster that may answer when it is asked again."""

import re
from dataclasses import dataclass

from parity.ground.errors import Trouble

# Statuses of a job that has ended.
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
# Exit statuses of the shell for a command that it cannot run or find.
NOT_RUN = (126, 127)
# `parity.run` prints it once a run is stored and judged.
_STORED = re.compile(r"^Stored in \S", re.MULTILINE)


class Unanswered(Trouble):
    """The cluster refused a request, or the connection failed; the same request may succeed later."""


class Unreached(Unanswered):
    """The connection failed: it is not known whether the request has reached the cluster."""


@dataclass(frozen=True)
class Job:
    """A job, as the cluster reports it.

    Attributes:
        status: PENDING, RUNNING or one of `ENDED`.
        message: The cluster's explanation of the status.
        exit_status: Exit status of the command, or None if it has not ended by itself.
        metadata: The metadata that it was submitted with.
        ended_s: When it ended, in seconds since 1970 by the clock of the head node; None if it has not.
    """

    status: str
    message: str
    exit_status: int | None
    metadata: dict[str, str]
    ended_s: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status in ENDED

    def has_result(self, log: str) -> bool:
        """Whether it ended with a result of parity: with verdicts, rather than with trouble or by a signal.

        Args:
            log: What the job printed.
        """
        # Python itself exits with 1 if it does not find a module, and parity with 2 if there is nothing to judge.
        return self.exit_status in (0, 3) or (self.exit_status in (1, 2) and _STORED.search(log) is not None)


def exit_status(job: Job | None, log: str, *, out: str, advice: str = "") -> int:
    """The exit status of parity.run in the job.

    Args:
        job: The job, or None if the cluster does not know it any more.
        log: What the job printed.
        out: Where the run was to be stored.
        advice: How to continue the run, for the message.

    Raises:
        Trouble: The job did not run to its end.
    """
    if job is None:
        raise Trouble(f"The cluster does not know the job any more. Look for the run at {out}.")
    if job.exit_status is not None and (job.exit_status == 2 or job.has_result(log)):
        return job.exit_status
    if job.exit_status in NOT_RUN:
        advice = "The cluster has no such interpreter. Choose one that it has with --python."
    # All of it: the reason is in the last lines.
    reason = job.message.strip() or "Ray gave no reason"
    raise Trouble(
        "\n".join([f"The job is {job.status} without a result from parity: {reason}", *filter(None, [advice])])
    )
