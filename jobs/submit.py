"""Runs parity as a Ray job: sends what the run needs, follows it, and brings the run back.

    python jobs/submit.py --address http://127.0.0.1:8265 --out /shared/runs/first [options of both commands]

The id of a job is made of what it is sent, so the same command again meets the same job: it is never run twice.
"""

import argparse
import hashlib
import json
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Of the clone that this file lies in, whether or not parity is installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from jobs.packing import Packing, pack
from jobs.ray_jobs import ENDED, Cluster, Job, connect_jobs, is_loopback
from parity.cluster.ray_job import check_out
from parity.ground.errors import Trouble
from parity.plan.options import EXIT_STATUSES, make_parser
from parity.version import __version__

# Ray kills a job 3 s after it asked it to end; what was trained is still to be judged and stored.
STOP_WAIT_S = 60


@dataclass(frozen=True)
class Submission:
    """A job, as it will be sent.

    Attributes:
        job_id: Of what is sent, or as given.
        entrypoint: The command that it runs.
        packing: The files of its working directory.
        runtime_env: Without the working directory.
        out: Where the run will be stored.
    """

    job_id: str
    entrypoint: str
    packing: Packing
    runtime_env: dict[str, Any]
    out: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options, given = make_submit_parser().parse_known_args(arguments)
    try:
        return _run(options, given)
    except Trouble as trouble:
        print(f"parity: {trouble}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("parity: interrupted; the same command again finds the job, if it was sent", file=sys.stderr)
        return 2
    except Exception:  # noqa: BLE001 - printed in full; Python's own exit status, 1, would say that a pair diverged
        traceback.print_exc()
        print("parity: the error above is a bug of parity; please report it.", file=sys.stderr)
        return 2


def make_submit_parser() -> argparse.ArgumentParser:
    """The command's own options; all others are those of parity.run."""
    parser = argparse.ArgumentParser(
        prog="python jobs/submit.py",
        description="Runs parity as a Ray job. All other options are those of python -m parity.run; --out has to be "
        "an absolute path on the cluster's storage, or a URI.",
        epilog=f"{EXIT_STATUSES}     (also: the job did not run to its end)\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--address", required=True, metavar="URL", help="of the cluster's dashboard, such as http://127.0.0.1:8265")
    add("--id", metavar="ID", help="of the job (default: parity- and a digest of what is sent)")
    add("--runtime-env", type=Path, metavar="FILE", help="a runtime environment of Ray, in YAML")
    add("--include", type=Path, nargs="+", action="extend", default=[], metavar="PATH", help="more files to send")
    add("--python", metavar="COMMAND", help="the interpreter there (default: python; on this machine, this one)")
    add("--fetch", type=Path, metavar="DIR", help="bring the run here when it has ended, to a new directory")
    add("--yes", action="store_true", help="send without asking")
    add("--dry-run", action="store_true", help="show what would be sent, and send nothing")
    add("--status", action="store_true", help="print the job's status, and do nothing else")
    add("--stop", action="store_true", help="stop the job, and do nothing else")
    return parser


def prepare(options: argparse.Namespace, given: Sequence[str]) -> Submission:
    """Checks what was asked for and collects what has to be sent, without any cluster.

    Args:
        options: Of this command.
        given: The options of parity.run, as given.

    Raises:
        Trouble: Something is wrong or may not be sent.
        SystemExit: An option is unknown.
    """
    asked = make_parser().parse_args(given)
    if asked.inline or asked.address:
        name = "--inline" if asked.inline else "--address"
        raise Trouble(
            f"{name} of parity.run has no place in a job, which trains on the cluster it runs on. Leave it out."
        )
    check_out(asked.out)
    if options.fetch and "://" in asked.out:
        raise Trouble(
            f"--fetch brings directories, and --out is {asked.out}. Copy it from there with the storage's tool."
        )
    if options.fetch and options.fetch.exists():
        raise Trouble(f"--fetch {options.fetch} already exists. Choose a new directory.")
    runtime_env = read_runtime_env(options.runtime_env)
    packing, sent = pack(asked, given, options.include)
    python = options.python or (shlex.quote(sys.executable) if is_loopback(options.address) else "python")
    entrypoint = f"{python} -m parity.run {shlex.join(sent)}"
    return Submission(
        options.id or make_id(sent, packing.digest(), runtime_env), entrypoint, packing, runtime_env, asked.out
    )


def make_id(sent: Sequence[str], digest: str, runtime_env: dict[str, Any]) -> str:
    """The id of a job: the same for the same arguments, files and runtime environment."""
    text = json.dumps([list(sent), digest, runtime_env], sort_keys=True)
    return f"parity-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def read_runtime_env(path: Path | None) -> dict[str, Any]:
    """The runtime environment of the job, but for its working directory.

    Raises:
        Trouble: The file cannot be read, or says what is parity's to say.
    """
    content: Any = {}
    if path:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise Trouble(f"--runtime-env {path} cannot be read ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("env_vars", {}), dict):
        raise Trouble(f"--runtime-env {path} is no runtime environment: a mapping is needed, env_vars being one too.")
    if "working_dir" in content:
        raise Trouble(
            f"--runtime-env {path} sets working_dir, which parity makes itself. Send more files with --include."
        )
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
    if os.environ.get("RAY_AUTH_MODE", "token").lower() == "disabled":  # in the job it has to be as explicit as here
        variables["RAY_AUTH_MODE"] = "disabled"
    variables |= {name: str(value) for name, value in content.get("env_vars", {}).items()}
    return {**content, "env_vars": variables}


def _run(options: argparse.Namespace, given: list[str]) -> int:
    if (options.status or options.stop) and options.id:
        return _tell_or_stop(connect_jobs(options.address), options.id, stop=options.stop)
    submission = prepare(options, given)
    if options.dry_run:
        print(f"{submission.packing.listing()}\nWould submit {submission.job_id}: {submission.entrypoint}")
        return 0
    cluster = connect_jobs(options.address)
    if options.status or options.stop:
        return _tell_or_stop(cluster, submission.job_id, stop=options.stop)
    with tempfile.TemporaryDirectory(prefix="parity-job-") as folder:
        submission.packing.write(Path(folder))
        runtime_env = submission.runtime_env | {"working_dir": folder}
        job = cluster.job(submission.job_id)
        if job is None:
            print(submission.packing.listing(), file=sys.stderr)
            if not (options.yes or _agreed(f"Send this to {options.address}?", default=True)):
                print("parity: nothing was sent", file=sys.stderr)
                return 2
            metadata = {"out": submission.out, "parity": __version__}
            cluster.submit(submission.job_id, submission.entrypoint, runtime_env=runtime_env, metadata=metadata)
            print(f"parity: submitted {submission.job_id}: {submission.entrypoint}", file=sys.stderr)
        else:
            print(f"parity: {_already(submission.job_id, job)}", file=sys.stderr)
        if job is None or job.status not in ENDED:
            try:
                job = cluster.follow(submission.job_id)
            except KeyboardInterrupt:
                return _interrupted(cluster, options.address, submission.job_id)
        out = job.metadata.get("out", submission.out) if job else submission.out
        status = exit_status(job, cluster.log(submission.job_id), out=out)
        if options.fetch:
            python = submission.entrypoint.partition(" -m ")[0]
            cluster.fetch(submission.job_id, out, options.fetch, runtime_env=runtime_env, python=python)
            print(f"Fetched to {options.fetch}")
        else:
            print(f"The run is at {out} on the cluster's storage")
        return status


def exit_status(job: Job | None, log: str, *, out: str) -> int:
    """The exit status of parity.run in the job.

    Python itself ends with 1 where it does not find a module, so 1 is believed only of a run that was stored.

    Raises:
        Trouble: It did not run to its end.
    """
    if job is None:
        raise Trouble("The job is gone from the cluster.")
    if job.exit_status in (0, 2, 3) or (job.exit_status == 1 and f"Stored in {out}" in log):
        return job.exit_status
    told = " ".join(job.message.split())[:500]
    raise Trouble(f"The job is {job.status}, without a result of parity: {told or 'it said nothing'}")


def _already(job_id: str, job: Job) -> str:
    told = f"job {job_id} exists already and is {job.status}; it is not run again"
    return told if job.status in ENDED else f"{told}, its log follows"


def _tell_or_stop(cluster: Cluster, job_id: str, *, stop: bool) -> int:
    job = cluster.job(job_id)
    if job is None:
        raise Trouble(f"The cluster at {cluster.address} has no job {job_id}. Check the id, or the arguments.")
    if stop and job.status not in ENDED:
        job = cluster.stop(job_id) or job
    exit_part = "" if job.exit_status is None else f" with exit status {job.exit_status}"
    print(f"{job_id} {job.status}{exit_part}; the run is at {job.metadata.get('out', 'a place of its own')}")
    return 0


def _interrupted(cluster: Cluster, address: str, job_id: str) -> int:
    """After Ctrl-C: asks whether the job is to go on without us."""
    if _agreed("Stop the job?", default=False):
        job = cluster.stop(job_id)
        print(f"parity: job {job_id} is {job.status if job else 'gone'}", file=sys.stderr)
    else:
        command = f"python jobs/submit.py --address {address} --id {job_id}"
        print(
            f"parity: job {job_id} goes on. Follow it with the same command again, ask for it with\n"
            f"  {command} --status\nand stop it with\n  {command} --stop",
            file=sys.stderr,
        )
    return 2


def _agreed(question: str, *, default: bool) -> bool:
    """Asks on the terminal; without one, the default."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return default
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    except KeyboardInterrupt:
        return False


if __name__ == "__main__":
    sys.exit(main())
