"""A cluster's Jobs API: submits, follows and stops jobs, and fetches runs. Knows nothing of options or packing.

`connect_jobs` imports Ray, after it has set the environment that Ray reads at its import.
"""

import asyncio
import contextlib
import os
import secrets
import shlex
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import tenacity

from parity.cluster import authentication
from parity.cluster.jobs import pack_run
from parity.cluster.jobs.client import make_client
from parity.cluster.jobs.dashboard_url import knock, warn_of_plain_http
from parity.cluster.jobs.following import PAUSE_S, RECONNECT_S, Follower
from parity.cluster.jobs.head import Node, described_heads, listed_logs
from parity.cluster.jobs.job import Job, Unanswered, Unreached
from parity.ground.errors import Trouble

# Time between two questions for a job's status. Chosen: half of the second that Ray itself takes to notice a change
# (JOB_MONITOR_LOOP_PERIOD_S of ray, dashboard/modules/job/job_manager.py).
POLL_S = 0.5
# Time between the end of a job and its deletion: Ray's own watch, which looks every second, takes up to two looks to
# see the end (0.98 to 2.00 s in 24 jobs, half of them on busy cores), and for a job that is deleted by then it writes
# a new record, of a failure. Chosen: a look more.
SETTLE_S = 3.0
# How long a cluster that has just started may take until its agents run jobs; one on this machine needs a few seconds.
AGENT_WAIT_S = 30.0


def connect_jobs(address: str) -> "Cluster":
    """Connects to the Jobs API at an address, with the user's token.

    Args:
        address: http://HOST:PORT or https://HOST:PORT of the cluster's dashboard.

    Raises:
        Trouble: The address is not such a URL, nothing answers there, what answers is not a Ray cluster, or it refuses
            the token.
    """
    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # not a number, or too large
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port:
        raise Trouble(f"--address {address} is not a URL of a Ray dashboard. Give http://HOST:8265, or https://HOST.")
    knock(address, parts.hostname, port)
    authentication.present_token(os.environ)
    warn_of_plain_http(address)
    # Ray would use these addresses in place of the one that was given, and leave out files that were listed.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    os.environ["RAY_RUNTIME_ENV_IGNORE_GITIGNORE"] = "1"
    cluster = Cluster(address)
    with cluster.reporting_trouble():
        try:
            cluster.client = make_client(address)
        except (LookupError, TypeError, ValueError) as error:  # Ray takes any answer to be its version, unchecked
            raise Trouble(f"What answers at {address} is not a Ray dashboard. Give http://HOST:8265.") from error
        cluster.client.list_jobs()  # the version, which the constructor asks for, is sent without a token
    return cluster


class Cluster:
    """A cluster's Jobs API; each method raises `Trouble` for what the cluster refuses or the connection fails at."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client: Any = None

    @contextlib.contextmanager
    def reporting_trouble(self) -> Iterator[None]:
        """Turns the errors of Ray and of the connection into `Trouble`; any other is a bug of ours, and passes."""
        import aiohttp
        from ray.exceptions import RayError

        try:
            yield
        # Ray's client raises RuntimeError for what the cluster refuses. The errors of requests are OSErrors.
        # asyncio's TimeoutError is one of them only since Python 3.11.
        except (RuntimeError, OSError, asyncio.TimeoutError, aiohttp.ClientError, RayError) as error:
            if authentication.refused(error):
                raise Trouble(authentication.refusal(self.address, os.environ)) from error
            # A traceback, which ends with the reason, stays as it is.
            text = str(error).strip() if "Traceback (" in str(error) else " ".join(str(error).split())
            raise (Unanswered if isinstance(error, RuntimeError) else Unreached)(
                f"The Ray cluster at {self.address} answered with {type(error).__name__}: {text}"
            ) from error

    def head(self) -> Node | None:
        """The node on which jobs run, or None if the cluster does not describe it."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda heads: heads == []),  # not registered yet
            stop=tenacity.stop_after_delay(AGENT_WAIT_S),
            wait=tenacity.wait_fixed(POLL_S),
            retry_error_callback=lambda _: None,
        )
        with self.reporting_trouble():
            heads = retrying(self._heads)
        return heads[0] if heads else None

    def _heads(self) -> list[Node] | None:
        """The head node, if it is registered; None if the answer is not that of a dashboard that we know."""
        # nocache: otherwise the dashboard would repeat its answer of a moment ago.
        answer = self.client._do_request("GET", "/nodes?view=summary&nocache=1")
        return described_heads(answer.text)

    def job(self, job_id: str) -> Job | None:
        """The job with that id, or None if there is none."""
        with self.reporting_trouble():
            try:
                info = self.client.get_job_info(job_id)
            except RuntimeError as error:
                if "does not exist" in str(error) or "404" in str(error):
                    return None
                raise
        status = str(getattr(info.status, "value", info.status))
        ended_s = info.end_time / 1000 if info.end_time else None
        return Job(status, info.message or "", info.driver_exit_code, dict(info.metadata or {}), ended_s)

    def submit(
        self, job_id: str, entrypoint: str, *, runtime_env: dict[str, Any], metadata: dict[str, str] | None = None
    ) -> None:
        """Uploads the working directory and submits the job.

        Args:
            job_id: Id of the new job.
            entrypoint: The command that it runs, for a shell.
            runtime_env: Its runtime environment, with a local folder as working directory.
            metadata: What to keep with the job.

        Raises:
            Trouble: Ray does not accept the runtime environment, or the cluster does not accept the job.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_agents_are_starting),
            stop=tenacity.stop_after_delay(AGENT_WAIT_S),
            wait=tenacity.wait_fixed(POLL_S),
            reraise=True,
        )
        with self.reporting_trouble():
            _check_runtime_env(runtime_env)
            for attempt in retrying:
                with attempt:
                    # A copy, since Ray replaces the folder in it by what it has uploaded.
                    self.client.submit_job(
                        submission_id=job_id,
                        entrypoint=entrypoint,
                        metadata=dict(metadata or {}),
                        runtime_env=dict(runtime_env),
                    )

    def stop(self, job_id: str) -> Job | None:
        """Asks the job to end, and waits until it has ended."""
        with self.reporting_trouble():
            self.client.stop_job(job_id)
        return self.wait(job_id)

    def wait(self, job_id: str) -> Job | None:
        """Waits until the job has ended; a connection that breaks meanwhile is taken up again."""
        while (job := _persistent(Unanswered)(self.job, job_id)) and not job.ended:
            time.sleep(POLL_S)
        return job

    def has_log(self, job_id: str) -> bool:
        """Whether the head node has the log of a job of that id, which may have been deleted."""
        head, name = self.head(), f"job-driver-{job_id}.log"
        if head is None:
            return False
        with self.reporting_trouble():
            answer = self.client._do_request("GET", f"/api/v0/logs?node_id={head.node_id}&glob={name}")
        return name in listed_logs(answer.text)

    def log(self, job_id: str) -> str:
        """Everything that the job has printed; a connection that breaks meanwhile is taken up again."""
        return _persistent(Unreached)(self._log, job_id)

    def _log(self, job_id: str) -> str:
        with self.reporting_trouble():
            return str(self.client.get_job_logs(job_id))

    def follow(self, job_id: str) -> Job | None:
        """Prints the job's log as it grows, and its status to stderr as it changes, until it has ended.

        Raises:
            ConnectionLost: The connection broke, and could not be taken up again.
        """
        follower = Follower(job_id, ask=lambda: self.job(job_id), tail=lambda: self._tail(job_id), poll_s=POLL_S)
        return asyncio.run(follower.follow())

    async def _tail(self, job_id: str) -> AsyncIterator[str]:
        with self.reporting_trouble():
            async for text in self.client.tail_job_logs(job_id):
                yield text

    def fetch(
        self, job_id: str, made: Job | None, run: str, out: Path, *, runtime_env: dict[str, Any], python: str
    ) -> None:
        """Copies a run directory from the cluster to this machine, by a second job that prints it and is deleted then.

        The log of that job stays on the head node. If this is interrupted, the job ends by itself and stays listed.

        Args:
            job_id: Id of the job that made the run.
            made: That job, which has ended: a run that was begun later is refused. None if any run will do.
            run: The run's directory or one of its files, as the head node of the cluster sees it.
            out: A new directory on this machine.
            runtime_env: Runtime environment of the job that made the run.
            python: The interpreter on the cluster.

        Raises:
            Trouble: The run did not arrive, or not in one piece.
        """
        limit_s = str(made.ended_s or "") if made else ""
        command = f"{python} jobs/pack_run.py {shlex.quote(run)} {limit_s}".rstrip()
        try:
            pack_run.extract(pack_run.decode(self._printed(job_id, command, runtime_env)), out)
        except (ValueError, OSError, Unanswered) as error:
            raise Trouble(
                f"The run could not be fetched ({error}). It is at {run} on the cluster's storage. The same command, "
                "or one with another --fetch, tries again; a job that has a result is not run twice."
            ) from error

    def _printed(self, job_id: str, command: str, runtime_env: dict[str, Any]) -> str:
        """What a job prints that runs a command for the sake of another one, and is deleted then."""
        # Of its own name: Ray appends what a second job of the same name prints to the log of the first.
        fetching = f"{job_id}-fetch-{secrets.token_hex(4)}"
        _persistent(Unreached)(self._submit_once, fetching, command, runtime_env=runtime_env)
        job = self.wait(fetching)
        ended = time.monotonic()
        try:
            text = self.log(fetching)
            if job is None or job.exit_status != 0:
                # pack_run prints what went wrong, in a line that begins so.
                reason = next((line[8:] for line in text.splitlines() if line.startswith("parity: ")), None)
                raise Trouble(f"The run could not be fetched: {reason or (job and job.message) or 'its job is gone'}.")
            return text
        finally:
            time.sleep(max(0.0, ended + SETTLE_S - time.monotonic()))
            self._delete(fetching)

    def _submit_once(self, job_id: str, entrypoint: str, *, runtime_env: dict[str, Any]) -> None:
        """Submits a job of a new id. If the cluster knows it after an error, only the answer was lost."""
        try:
            self.submit(job_id, entrypoint, runtime_env=runtime_env)
        except Unanswered:
            if self.job(job_id) is None:
                raise

    def _delete(self, job_id: str) -> None:
        """Deletes a job that has ended; says so if that fails, since what the job was for is done."""
        try:
            with self.reporting_trouble():
                self.client.delete_job(job_id)
        except Trouble as trouble:
            print(f"parity: job {job_id} has done its work but was not deleted. {trouble}", file=sys.stderr)


def _persistent(errors: type[Unanswered]) -> tenacity.Retrying:
    """Calls again what fails with one of these errors, for `RECONNECT_S`."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(errors),
        stop=tenacity.stop_after_delay(RECONNECT_S),
        wait=tenacity.wait_fixed(PAUSE_S),
        reraise=True,
    )


def _agents_are_starting(error: BaseException) -> bool:
    """Whether a cluster refused a job only because its agents, which run jobs, have not started yet."""
    return isinstance(error, RuntimeError) and "No available agent" in str(error)


def _check_runtime_env(runtime_env: dict[str, Any]) -> None:
    """Raises `Trouble` for a runtime environment, the user's for the most part, that Ray does not accept."""
    from ray.runtime_env import RuntimeEnv

    try:
        RuntimeEnv(**runtime_env)
    except (TypeError, ValueError) as error:
        raise Trouble(f"Ray does not accept the runtime environment: {' '.join(str(error).split())}") from error
