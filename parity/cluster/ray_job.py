"""A rule for runs inside a Ray job: the working directory is a copy on one node and vanishes with it."""

import os
from pathlib import PurePosixPath

from parity.ground.errors import Trouble

# Set by Ray's job supervisor for the command that it runs, and nowhere else.
MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def inside_job() -> bool:
    """Whether this process is the driver of a Ray job."""
    return MARK in os.environ


def check_out(out: str | None, option: str = "--out") -> None:
    """Checks that a run inside a job is stored where it outlives the job.

    Args:
        out: Value of the option, or None.
        option: The option, for messages.

    Raises:
        Trouble: The value is missing, or relative.
    """
    # A path of the cluster, and not of the machine that a job is submitted from.
    if out and ("://" in out or PurePosixPath(out).is_absolute()):
        return
    found = f"{option} {out} is relative" if out else f"{option} is missing"
    raise Trouble(
        f"{found}, and the working directory of a Ray job is a temporary copy on one node, which is removed. "
        f"Give {option} an absolute path on storage that outlives the cluster, or a URI."
    )
