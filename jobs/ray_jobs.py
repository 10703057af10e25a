"""A cluster's Jobs API: submitting, following, stopping, and bringing a run back. Knows nothing of options or packing.

Ray is imported by `connect_jobs`, after the environment is set that it reads at its import.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jobs import pack_run
from parity.cluster import authentication
from parity.ground.errors import Trouble

# How long the cluster may take to answer, and how often a job's status is asked for.
KNOCK_S = 10.0
POLL_S = 0.5
# How long Ray goes on watching a job that has ended.
SETTLE_S = 1.5
# How long a cluster that has just started may take to run jobs.
AGENT_WAIT_S = 30.0
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Job:
    """A job as the cluster tells it.

    Attributes:
        status: PENDING, RUNNING or one of `ENDED`.
        message: The cluster's words for it.
        exit_status: Of the command, None if it did not end by itself.
        metadata: As it was submitted with.
    """

    status: str
    message: str
    exit_status: int | None
    metadata: dict[str, str]


def is_loopback(address: str) -> bool:
    """Whether a URL names this machine."""
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def connect_jobs(address: str) -> "Cluster":
    """The Jobs API at an address, the token shown and taken.

    Args:
        address: http://HOST:PORT or https://HOST:PORT of the cluster's dashboard.

    Raises:
        Trouble: It is no such address, nobody is there, it is no Ray cluster, or it refuses the token.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Trouble(f"--address {address} is no URL of a Ray dashboard. Give http://HOST:8265, or https://HOST.")
    _knock(address, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
    authentication.present_token(os.environ)
    warn_of_plain_http(address)
    # Ray would follow these in place of the address that was given, and leave out files that were listed.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    os.environ["RAY_RUNTIME_ENV_IGNORE_GITIGNORE"] = "1"
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    cluster = Cluster(address)
    with cluster.told():
        cluster.client = JobSubmissionClient(address)
        cluster.client.list_jobs()  # the version is told without a token
    return cluster


def warn_of_plain_http(address: str) -> None:
    """Says on stderr that the token travels in clear, where it leaves this machine."""
    parts = urlsplit(address)
    if parts.scheme == "http" and not is_loopback(address):
        print(
            f"parity: to {parts.hostname} the token and the files travel in clear. Over a network that others use, "
            f"open a tunnel (ssh -L 8265:localhost:8265 {parts.hostname}) and give --address http://127.0.0.1:8265.",
            file=sys.stderr,
        )


def _knock(address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise Trouble(
            f"No Ray cluster answers at {address} ({error}). Give the address of its dashboard; "
            "if it listens on its head's loopback only, open a tunnel: ssh -L 8265:localhost:8265 HEAD."
        ) from error


class Cluster:
    """A cluster's Jobs API."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client: Any = None

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Turns the errors of Ray and of the connection into `Trouble`."""
        try:
            yield
        except Trouble:
            raise
        except Exception as error:
            if authentication.refused(error):
                raise Trouble(authentication.refusal(self.address, os.environ)) from error
            told = " ".join(str(error).split())[:500]
            raise Trouble(f"The Ray cluster at {self.address} answered with {type(error).__name__}: {told}") from error

    def job(self, job_id: str) -> Job | None:
        """The job of that id, None if there is none."""
        with self.told():
            try:
                info = self.client.get_job_info(job_id)
            except RuntimeError as error:
                if "does not exist" in str(error) or "404" in str(error):
                    return None
                raise
        status = str(getattr(info.status, "value", info.status))
        return Job(status, info.message or "", info.driver_exit_code, dict(info.metadata or {}))

    def submit(
        self, job_id: str, entrypoint: str, *, runtime_env: dict[str, Any], metadata: dict[str, str] | None = None
    ) -> None:
        """Uploads the working directory and submits the job."""
        asked = {"submission_id": job_id, "entrypoint": entrypoint, "metadata": metadata or {}}
        last = time.monotonic() + AGENT_WAIT_S
        with self.told():
            while True:
                try:
                    # A copy, since Ray puts what it uploaded in the place of the folder.
                    self.client.submit_job(**asked, runtime_env=dict(runtime_env))
                    return
                except RuntimeError as error:  # a cluster answers before its agents do
                    if "No available agent" not in str(error) or time.monotonic() > last:
                        raise
                time.sleep(POLL_S)

    def stop(self, job_id: str) -> Job | None:
        """Asks the job to end, and waits until it has."""
        with self.told():
            self.client.stop_job(job_id)
        return self.wait(job_id)

    def wait(self, job_id: str) -> Job | None:
        """Waits until the job has ended."""
        while (job := self.job(job_id)) and job.status not in ENDED:
            time.sleep(POLL_S)
        return job

    def log(self, job_id: str) -> str:
        """All that the job printed."""
        with self.told():
            return str(self.client.get_job_logs(job_id))

    def follow(self, job_id: str) -> Job | None:
        """Prints the job's log as it grows, and its status to stderr as it changes, until it has ended."""
        with self.told():
            asyncio.run(self._follow(job_id))
        return self.wait(job_id)

    async def _follow(self, job_id: str) -> None:
        statuses = asyncio.create_task(self._tell_statuses(job_id))
        try:
            async for text in self.client.tail_job_logs(job_id):
                print(text, end="", flush=True)
            await statuses
        finally:
            statuses.cancel()

    async def _tell_statuses(self, job_id: str) -> None:
        before = ""
        while before not in ENDED:
            job = await asyncio.to_thread(self.job, job_id)
            if job is None:
                return
            if job.status != before:
                print(f"parity: job {job_id} is {job.status}", file=sys.stderr, flush=True)
                before = job.status
            await asyncio.sleep(POLL_S)

    def fetch(self, job_id: str, run: str, out: Path, *, runtime_env: dict[str, Any], python: str) -> None:
        """Brings a run directory of the cluster here, by a second job that prints it.

        Args:
            job_id: Of the job that made the run.
            run: Its directory, where the head of the cluster has it.
            out: A new directory here.
            runtime_env: Of the job that made the run.
            python: The interpreter there.

        Raises:
            Trouble: It did not come, or not whole.
        """
        fetching = f"{job_id}-fetch"
        if self.job(fetching):  # left by a fetch that was interrupted
            self.wait(fetching)
            self._delete(fetching)
        self.submit(fetching, f"{python} jobs/pack_run.py {shlex.quote(run)}", runtime_env=runtime_env)
        try:
            job = self.wait(fetching)
            text = self.log(fetching)
        finally:
            self._delete(fetching)
        if job is None or job.exit_status != 0:
            told = next((line[8:] for line in text.splitlines() if line.startswith("parity: ")), None)
            raise Trouble(f"The run cannot be fetched: {told or (job and job.message) or 'its job is gone'}.")
        try:
            pack_run.extract(pack_run.decode(text), out)
        except (ValueError, OSError) as error:
            raise Trouble(f"The run cannot be fetched ({error}). It is at {run} on the cluster's storage.") from error

    def _delete(self, job_id: str) -> None:
        """Deletes a job that has ended; once more if Ray's own watch of it has written it anew."""
        for _ in range(3):
            with contextlib.suppress(RuntimeError):  # it has not ended: it was interrupted, and the next fetch does it
                self.client.delete_job(job_id)
            time.sleep(SETTLE_S)
            if self.job(job_id) is None:
                return
