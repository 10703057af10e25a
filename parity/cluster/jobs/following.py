"""Follows a job: prints its log and its status, and takes a connection that breaks up again."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable

from parity.cluster.jobs.job import Job, Unanswered
from parity.ground.errors import Trouble

# How long a broken connection is taken up again. Chosen: outlasts a tunnel that is restarted or a change of networks.
RECONNECT_S = 60.0
# Pause between two attempts.
PAUSE_S = 1.0
# How long a log that has ended and its job may disagree; Ray itself takes a second to notice that a job has ended.
LAG_S = 5.0


class ConnectionLost(Trouble):
    """The connection broke, and could not be taken up again; the job goes on."""


class Follower:
    """Follows one job.

    Args:
        job_id: Its id.
        ask: Asks the cluster for it; may block, and returns None if the cluster does not know it.
        tail: Yields its log from the beginning, as it grows.
        poll_s: Time between two questions for its status.
    """

    def __init__(
        self, job_id: str, *, ask: Callable[[], Job | None], tail: Callable[[], AsyncIterator[str]], poll_s: float
    ) -> None:
        self.job_id = job_id
        self._ask, self._tail, self._poll_s = ask, tail, poll_s
        self._status = ""  # as printed last
        self._printed = 0  # characters of the log that have been printed
        self._received = 0  # characters of the log that have arrived, over all connections
        self._answered_s = 0.0  # when the cluster last answered

    async def follow(self) -> Job | None:
        """Prints until the job has ended; returns it, or None if the cluster does not know it any more.

        Raises:
            ConnectionLost: The connection broke, and could not be taken up again for `RECONNECT_S`.
            Trouble: The cluster refuses the token.
        """
        broken_s = None
        while True:
            printed = self._printed
            self._answered_s = begun_s = time.monotonic()
            try:
                return await self._until_ended()
            except Unanswered as trouble:
                now_s = time.monotonic()
                # A connection that held for a while worked, even if the job printed nothing. What had been printed
                # before proves nothing: a connection that breaks behind it each time does not.
                if broken_s is None or self._printed > printed or self._answered_s - begun_s > LAG_S:
                    broken_s = now_s
                    self._say(f"the connection to the log of {self.job_id} broke, and is taken up again ({trouble})")
                elif now_s - broken_s > RECONNECT_S:
                    raise ConnectionLost(
                        f"The connection to the log of {self.job_id} broke, and could not be taken up again for "
                        f"{RECONNECT_S:g} s: {trouble}"
                    ) from trouble
            await asyncio.sleep(PAUSE_S)

    async def _until_ended(self) -> Job | None:
        """One connection.

        Raises:
            Unanswered: It broke.
        """
        if await self._current() is None:  # else its missing log would look like a broken connection
            return None
        statuses = asyncio.create_task(self._print_statuses())
        log = asyncio.create_task(self._print_log(statuses))
        try:
            await asyncio.wait({statuses, log}, return_when=asyncio.FIRST_COMPLETED)
            if not log.done():
                statuses.result()  # raises if they broke off
                await self._rest_of(log)
            await log
            return await statuses
        finally:
            for task in (statuses, log):
                task.cancel()
            await asyncio.gather(statuses, log, return_exceptions=True)

    async def _rest_of(self, log: "asyncio.Task[None]") -> None:
        """Waits for the end of the log of a job that has ended.

        Raises:
            Unanswered: Nothing more of it arrives, as on a connection that broke without a sign.
        """
        while not log.done():
            before = self._received
            await asyncio.wait({log}, timeout=LAG_S)
            if not log.done() and self._received == before:
                raise Unanswered("the end of the log does not arrive")

    async def _print_log(self, statuses: "asyncio.Task[Job | None]") -> None:
        """Prints what has not been printed yet, until both the log and the job have ended."""
        while True:
            position = 0
            async for text in self._tail():
                self._received += len(text)
                print(text[max(0, self._printed - position) :], end="", flush=True)
                position += len(text)
                self._printed = max(self._printed, position)
            # The log ends a little before the job does. If the job goes on, the log was cut off without an error.
            await asyncio.wait({statuses}, timeout=LAG_S)
            if statuses.done():
                return

    async def _print_statuses(self) -> Job | None:
        """Prints the status as it changes, until the job has ended; returns the job."""
        while (job := await self._current()) and not job.ended:
            await asyncio.sleep(self._poll_s)
        return job

    async def _current(self) -> Job | None:
        """The job as it is now; prints its status if that has changed."""
        job = await asyncio.to_thread(self._ask)  # it blocks, and the log is printed meanwhile
        self._answered_s = time.monotonic()
        if job and job.status != self._status:
            self._say(f"job {self.job_id} is {job.status}")
            self._status = job.status
        return job

    @staticmethod
    def _say(text: str) -> None:
        print(f"parity: {text}", file=sys.stderr, flush=True)
