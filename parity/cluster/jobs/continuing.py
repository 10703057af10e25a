"""--resume as a job: reads run.json, which says what the run was started with, and thus which files it needs."""

import hashlib
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.cluster.jobs.ray_jobs import Cluster
from parity.ground.errors import Trouble
from parity.plan.options import make_parser
from parity.store.storage import parse_path
from parity.store.stored_run import read_info


def is_readable_here(run: str) -> bool:
    """Whether run.json can be read without the cluster: on an object store, or on storage that is mounted here too."""
    return "://" in run or (Path(run) / "run.json").is_file()


def read_info_here(run: str) -> dict[str, Any]:
    """The content of run.json, read by this process.

    Raises:
        Trouble: It is not a run directory, or cannot be read.
    """
    return read_info(parse_path(run))


def read_info_there(cluster: Cluster, run: str, *, runtime_env: Mapping[str, Any], python: str) -> dict[str, Any]:
    """The content of run.json, which a job on the cluster prints.

    Args:
        cluster: The cluster.
        run: The run directory, as the head node of the cluster sees it.
        runtime_env: The runtime environment of the job.
        python: The interpreter on the cluster.

    Raises:
        Trouble: It is not a run directory, or cannot be read.
    """
    job_id = f"parity-{hashlib.sha256(run.encode()).hexdigest()[:16]}"
    with tempfile.TemporaryDirectory(prefix="parity-run-") as folder:
        sent, fetched = Path(folder, "sent"), Path(folder, "fetched")
        (sent / "jobs").mkdir(parents=True)
        # It is all that the job needs.
        (sent / "jobs" / "pack_run.py").write_bytes(Path(__file__).with_name("pack_run.py").read_bytes())
        environment = {**runtime_env, "working_dir": str(sent)}
        cluster.fetch(job_id, None, f"{run.rstrip('/')}/run.json", fetched, runtime_env=environment, python=python)
        try:
            return read_info(fetched)
        except Trouble as trouble:  # its messages name the directory
            raise Trouble(str(trouble).replace(str(fetched), run)) from trouble


def named_code(info: Mapping[str, Any], run: str) -> list[str]:
    """The losses and the task that a run was started with.

    Args:
        info: The content of its run.json.
        run: The run directory, for messages.

    Raises:
        Trouble: The run was not started by `parity.run`.
    """
    if "arguments" not in info:
        raise Trouble(f"{run} was not made by parity run, so a job cannot continue it.")
    started = make_parser().parse_args(info["arguments"])
    return [*(started.loss or []), started.task]


def command_to_continue(address: str, metadata: Mapping[str, str]) -> str | None:
    """The command that continues the run of a job; None if the job does not say where that is.

    Args:
        address: The cluster's dashboard.
        metadata: The metadata of the job.
    """
    if "out" not in metadata:
        return None
    command = f"parity submit --address {address} --resume {shlex.quote(metadata['out'])}"
    return " ".join(filter(None, [command, metadata.get("options")]))
