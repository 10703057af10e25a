"""Runs parity as a Ray job: sends the files that the run needs, follows the job, and brings the run back.

    python jobs/submit.py --address http://127.0.0.1:8265 --out /shared/runs/first [options of both commands]

The id of a job is a digest of what it is sent, so the same command finds the same job again and never runs it twice.
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

# The parity of the clone that this file is in goes before an installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from jobs.packing import Packing, pack
from jobs.ray_jobs import ENDED, Cluster, Job, connect_jobs, is_loopback
from parity.cluster.ray_job import check_out
from parity.ground.errors import Trouble
from parity.plan.options import EXIT_STATUSES, make_parser
from parity.version import __version__

# Ray kills a job 3 s after asking it to end, unless the job sets another wait: what has been trained must still be
# judged and stored. Chosen with room; the run can be continued from its stored states if it takes longer.
STOP_WAIT_S = 60


@dataclass(frozen=True)
class Submission:
    """A job that is ready to be sent.

    Attributes:
        job_id: The id given with `--id`, or one made from what is sent.
        entrypoint: The command that the job runs.
        packing: The files of its working directory.
        runtime_env: Its runtime environment, without the working directory.
        out: Where the run will be stored.
    """

    job_id: str
    entrypoint: str
    packing: Packing
    runtime_env: dict[str, Any]
    out: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options, given = make_submit_parser().parse_known_args(arguments)  # the others are for parity.run
    try:
        return _run(options, given)
    except Trouble as trouble:
        print(f"parity: {trouble}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("parity: interrupted; the same command finds the job again, if it was sent", file=sys.stderr)
        return 2
    except Exception:  # noqa: BLE001 - printed in full; Python's own exit status, 1, would say that a pair diverged
        traceback.print_exc()
        print("parity: the error above is a bug of parity; please report it.", file=sys.stderr)
        return 2


def make_submit_parser() -> argparse.ArgumentParser:
    """Makes the parser of this command's own options; all other options are those of parity.run."""
    parser = argparse.ArgumentParser(
        prog="python jobs/submit.py",
        description="Runs parity as a Ray job: sends the files that the run needs, follows the job,\n"
        "and ends with its exit status. All other options are those of\n"
        "python -m parity.run; --out must be an absolute path on the cluster's storage,\n"
        "or a URI.",
        epilog=f"{EXIT_STATUSES}\nA job that does not run to its end counts as trouble (2).\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an abbreviation may be an option of parity.run
    )
    add = parser.add_argument
    add("--address", required=True, metavar="URL", help="the cluster's dashboard, such as http://127.0.0.1:8265")
    add("--id", metavar="ID", help="id of the job (default: parity- followed by a digest of what is sent)")
    add(
        "--runtime-env",
        type=Path,
        metavar="FILE",
        help="a YAML file with a Ray runtime environment for the job, without working_dir",
    )
    add(
        "--include",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="other files and folders to send, beside the losses, the task and what they import from their own folder",
    )
    add(
        "--python",
        metavar="COMMAND",
        help="the Python interpreter on the cluster (default: python, or the one running now if the address is this "
        "machine)",
    )
    add("--fetch", type=Path, metavar="DIR", help="copy the run to this new directory here when the job has ended")
    add("--yes", action="store_true", help="send without asking for confirmation")
    add("--dry-run", action="store_true", help="print what would be sent, and send nothing")
    add("--status", action="store_true", help="print the status of the job, and do nothing else")
    add("--stop", action="store_true", help="stop the job, and do nothing else")
    return parser


def prepare(options: argparse.Namespace, given: Sequence[str]) -> Submission:
    """Checks the options and collects the files to send; needs no cluster.

    Args:
        options: The parsed options of this command.
        given: The arguments for parity.run.

    Raises:
        Trouble: An option is wrong, or a file does not exist or may not be sent.
        SystemExit: An option is unknown.
    """
    asked = make_parser().parse_args(given)  # refuses an option of neither command
    if asked.inline or asked.address:
        name = "--inline" if asked.inline else "--address"
        raise Trouble(
            f"{name} of parity.run cannot be used in a job, which trains on the cluster that it runs on. Leave it out."
        )
    check_out(asked.out)  # now, before anything is sent
    if options.fetch and "://" in asked.out:
        raise Trouble(
            f"--fetch can copy a directory only, and --out is {asked.out}. Copy it with the tools of that storage."
        )
    if options.fetch and options.fetch.exists():
        raise Trouble(f"--fetch {options.fetch} already exists. Choose a new directory.")
    runtime_env = read_runtime_env(options.runtime_env)
    packing, sent = pack(asked, given, options.include)
    # A job runs the `python` of the cluster's PATH, which on this machine may be one that lacks Ray.
    python = options.python or (shlex.quote(sys.executable) if is_loopback(options.address) else "python")
    entrypoint = f"{python} -m parity.run {shlex.join(sent)}"
    return Submission(
        options.id or make_id(sent, packing.digest(), runtime_env), entrypoint, packing, runtime_env, asked.out
    )


def make_id(sent: Sequence[str], digest: str, runtime_env: dict[str, Any]) -> str:
    """Makes the id of a job, which is the same for the same arguments, files and runtime environment."""
    text = json.dumps([list(sent), digest, runtime_env], sort_keys=True)  # the order of a mapping does not count
    return f"parity-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def read_runtime_env(path: Path | None) -> dict[str, Any]:
    """Reads the runtime environment of the job, which must not have a working directory.

    Raises:
        Trouble: The file cannot be read, is not a runtime environment, or sets the working directory.
    """
    content: Any = {}
    if path:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise Trouble(f"--runtime-env {path} cannot be read ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("env_vars", {}), dict):
        raise Trouble(f"--runtime-env {path} is not a runtime environment. Give a mapping whose env_vars is one too.")
    if "working_dir" in content:
        raise Trouble(
            f"--runtime-env {path} sets working_dir, which parity sets itself. Send other files with --include."
        )
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
    if os.environ.get("RAY_AUTH_MODE", "token").lower() == "disabled":  # the job does not inherit it
        variables["RAY_AUTH_MODE"] = "disabled"
    variables |= {name: str(value) for name, value in content.get("env_vars", {}).items()}
    return {**content, "env_vars": variables}


def _run(options: argparse.Namespace, given: list[str]) -> int:
    """Does what the options ask for; returns the exit status."""
    if (options.status or options.stop) and options.id:  # the id names the job, so no file has to be packed
        return _show_or_stop(connect_jobs(options.address), options.id, stop=options.stop)
    submission = prepare(options, given)
    if options.dry_run:
        print(f"{submission.packing.listing()}\nWould submit {submission.job_id}: {submission.entrypoint}")
        return 0
    cluster = connect_jobs(options.address)
    if options.status or options.stop:
        return _show_or_stop(cluster, submission.job_id, stop=options.stop)
    with tempfile.TemporaryDirectory(prefix="parity-job-") as folder:
        submission.packing.write(Path(folder))
        runtime_env = submission.runtime_env | {"working_dir": folder}
        job = cluster.job(submission.job_id)
        if job is not None:
            print(f"parity: {_already(submission.job_id, job)}", file=sys.stderr)
        elif not _submit(cluster, submission, runtime_env, options):
            print("parity: nothing was sent", file=sys.stderr)
            return 2
        if job is None or job.status not in ENDED:
            try:
                job = cluster.follow(submission.job_id)  # Ctrl-C ends the following, and not the job
            except KeyboardInterrupt:
                return _interrupted(cluster, options.address, submission.job_id)
        out = job.metadata.get("out", submission.out) if job else submission.out
        status = exit_status(job, cluster.log(submission.job_id), out=out)
        if options.fetch:
            python = submission.entrypoint.partition(" -m ")[0]  # the interpreter that ran the job
            cluster.fetch(submission.job_id, out, options.fetch, runtime_env=runtime_env, python=python)
            print(f"Fetched to {options.fetch}")
        else:
            print(f"The run is at {out} on the cluster's storage")
        return status


def _submit(cluster: Cluster, submission: Submission, runtime_env: dict[str, Any], options: argparse.Namespace) -> bool:
    """Lists the files, asks for confirmation and submits the job; returns whether it was submitted."""
    print(submission.packing.listing(), file=sys.stderr)
    if not (options.yes or _agreed(f"Send this to {options.address}?", default=True)):
        return False
    metadata = {"out": submission.out, "parity": __version__}
    cluster.submit(submission.job_id, submission.entrypoint, runtime_env=runtime_env, metadata=metadata)
    print(f"parity: submitted {submission.job_id}: {submission.entrypoint}", file=sys.stderr)
    return True


def exit_status(job: Job | None, log: str, *, out: str) -> int:
    """The exit status of parity.run in the job.

    Python itself exits with 1 if it does not find a module, so 1 counts only if the log says that the run was stored.

    Args:
        job: The job, or None if the cluster does not know it any more.
        log: What the job printed.
        out: Where the run was to be stored.

    Raises:
        Trouble: The job did not run to its end.
    """
    if job is None:
        raise Trouble(f"The cluster does not know the job any more. Look for the run at {out}.")
    if job.exit_status in (0, 2, 3) or (job.exit_status == 1 and f"Stored in {out}" in log):
        return job.exit_status
    message = " ".join(job.message.split())[:500]
    raise Trouble(f"The job is {job.status} without a result from parity: {message or 'Ray gave no reason'}")


def _already(job_id: str, job: Job) -> str:
    """Says that a job was submitted before."""
    message = f"job {job_id} exists already and is {job.status}; it is not run again"
    return message if job.status in ENDED else f"{message}, and its log follows"


def _show_or_stop(cluster: Cluster, job_id: str, *, stop: bool) -> int:
    """Prints the status of a job, after stopping it if asked; returns the exit status of this command."""
    job = cluster.job(job_id)
    if job is None:
        raise Trouble(f"The cluster at {cluster.address} has no job {job_id}. Check the id, or the arguments.")
    if stop and job.status not in ENDED:
        job = cluster.stop(job_id) or job
    exit_part = "" if job.exit_status is None else f" with exit status {job.exit_status}"
    print(f"{job_id} {job.status}{exit_part}; the run is at {job.metadata.get('out', 'an unknown place')}")
    return 0


def _interrupted(cluster: Cluster, address: str, job_id: str) -> int:
    """After Ctrl-C: asks whether to stop the job, and otherwise says how to follow it; returns the exit status."""
    if _agreed("Stop the job?", default=False):
        job = cluster.stop(job_id)
        print(f"parity: job {job_id} is {job.status if job else 'gone'}", file=sys.stderr)
    else:
        command = f"python jobs/submit.py --address {address} --id {job_id}"
        print(
            f"parity: job {job_id} keeps running. Run the same command again to follow it. See its status with\n"
            f"  {command} --status\nand stop it with\n  {command} --stop",
            file=sys.stderr,
        )
    return 2


def _agreed(question: str, *, default: bool) -> bool:
    """Asks a question on the terminal; returns the default if there is none."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):  # in a script nobody can answer
        return default
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    except KeyboardInterrupt:
        return False


if __name__ == "__main__":
    sys.exit(main())
