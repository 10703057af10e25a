"""Runs parity as a Ray job: sends the files that the run needs, follows the job, and brings the run back.

    parity submit --address http://127.0.0.1:8265 --out /shared/runs/first [options of both commands]

The id of a job is a digest of what it is sent, so the same command finds the same job again. A job that ended without a
result is sent again under another id; no other is run twice. With `--id`, the job itself keeps the digest.
"""

import argparse
import dataclasses
import functools
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from parity.cluster.jobs.continuing import command_to_continue, read_info_there
from parity.cluster.jobs.following import ConnectionLost
from parity.cluster.jobs.head import Interpreter, choose_interpreter
from parity.cluster.jobs.job import NOT_RUN, Job, exit_status
from parity.cluster.jobs.preparing import Submission, prepare
from parity.cluster.jobs.ray_jobs import Cluster, connect_jobs
from parity.ground import interrupt
from parity.ground.command import guarded
from parity.ground.errors import Trouble
from parity.plan.command_options import make_submit_parser

# It becomes part of a URL, where "?" or "/" would ask for another job, and of the name of a file.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return guarded(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    options, given = make_submit_parser().parse_known_args(arguments)  # the others are for parity.run
    try:
        return _run(options, given)
    except KeyboardInterrupt:
        print("parity: interrupted; the same command finds the job again, if it was sent", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace, given: list[str]) -> int:
    """Does what the options ask for; returns the exit status."""
    if options.id is not None and not _ID.fullmatch(options.id):
        raise Trouble(
            f"--id {options.id!r} cannot be the id of a job. Give letters, digits and . _ -, with a letter or digit "
            "first."
        )
    # One connection, made when it is first needed: most mistakes are found before that.
    connect = functools.cache(lambda: connect_jobs(options.address))
    if (options.status or options.stop) and options.id:  # the id names the job, so no file has to be packed
        return _show_or_stop(connect(), options.id, stop=options.stop)
    submission = prepare(options, given, functools.partial(_read_elsewhere, options, connect))
    if options.dry_run:
        return _show_what_would_be_sent(submission, options, connect)
    cluster = connect()
    submission = dataclasses.replace(submission, interpreter=_interpreter(options, connect))
    if options.status or options.stop:
        return _show_or_stop(cluster, submission.job_id, stop=options.stop)
    with tempfile.TemporaryDirectory(prefix="parity-job-") as folder:
        submission.packing.write(Path(folder))
        runtime_env = submission.runtime_env | {"working_dir": folder}
        job_id, job, following = _last_attempt(cluster, submission.job_id)
        if job and job.ended and not job.has_result(cluster.log(job_id)):
            _say_again(options.address, job_id, job, following)
            job_id, job = following, None
        elif job is None:
            job_id = following
        else:
            _check_same(job_id, job, submission)
            print(f"parity: {_already(job_id, job)}", file=sys.stderr)
        if job is None and not _submit(cluster, job_id, submission, runtime_env, options):
            print("parity: nothing was sent", file=sys.stderr)
            return 2
        if job is None or not job.ended:
            try:
                job = cluster.follow(job_id)  # Ctrl-C ends the following, and not the job
            except KeyboardInterrupt:
                return _interrupted(cluster, options.address, job_id)
            except ConnectionLost as lost:
                print(f"parity: {lost}", file=sys.stderr)
                return _left_running(options.address, job_id)
        out, log = (job.metadata.get("out", submission.out), cluster.log(job_id)) if job else (submission.out, "")
        status = exit_status(job, log, out=out, advice=_advice(options.address, job))
        if not (job and job.has_result(log)):  # as where --out held a run already
            print(f"parity: job {job_id} has no result; the run at {out} may be another job's", file=sys.stderr)
        elif options.fetch:
            python = submission.interpreter.command
            cluster.fetch(job_id, job, out, options.fetch, runtime_env=runtime_env, python=python)
            print(f"Fetched to {options.fetch}")
        else:
            print(f"The run is at {out} on the cluster's storage")
        return status


def _read_elsewhere(
    options: argparse.Namespace, connect: Callable[[], Cluster], run: str, runtime_env: dict[str, Any]
) -> dict[str, Any]:
    """The content of run.json of a run that only the cluster sees."""
    if options.dry_run:
        raise Trouble(
            f"{run}/run.json, which says what would be sent, is not on this machine, and --dry-run asks the cluster "
            "for nothing. Leave --dry-run out: before anything else is sent, it is listed."
        )
    python = _interpreter(options, connect).command
    return read_info_there(connect(), run, runtime_env=runtime_env, python=python)


def _interpreter(options: argparse.Namespace, connect: Callable[[], Cluster]) -> Interpreter:
    """The interpreter of the job; the cluster is asked where its head is, unless `--python` is given."""
    return choose_interpreter(options.python, None if options.python else connect().head())


def _show_what_would_be_sent(
    submission: Submission, options: argparse.Namespace, connect: Callable[[], Cluster]
) -> int:
    """Lists the files and prints the command; returns the exit status."""
    try:
        interpreter = _interpreter(options, connect)
    except Trouble as trouble:  # to look at what would be sent, nobody needs a cluster
        print(f"parity: {trouble}", file=sys.stderr)
        interpreter = choose_interpreter(options.python, None)
    submission = dataclasses.replace(submission, interpreter=interpreter)
    _say_interpreter(interpreter)
    print(f"{submission.packing.listing()}\nWould submit {submission.job_id}: {submission.entrypoint}")
    return 0


def _say_interpreter(interpreter: Interpreter) -> None:
    print(f"parity: the interpreter of the job is {interpreter.command}, {interpreter.reason}", file=sys.stderr)


def _last_attempt(cluster: Cluster, job_id: str) -> tuple[str, Job | None, str]:
    """The last job that was sent under an id, ID, ID-2, ID-3 and so on: its own id, the job, and the next free id."""
    attempt, job, following, number = job_id, None, job_id, 1
    # Ray appends what a job prints to the log of a deleted one of the same id, whose result would be taken for its own.
    while (found := cluster.job(following)) or cluster.has_log(following):
        # A later one may also be another job, to which somebody has given that id.
        if found and (number == 1 or found.metadata.get("first") == job_id):
            attempt, job = following, found
        number += 1
        following = f"{job_id}-{number}"
    return attempt, job, following


def _say_again(address: str, job_id: str, job: Job, following: str) -> None:
    """Says that a job is sent again, under the following id."""
    print(
        f"parity: job {job_id} is {job.status} without a result from parity; it is sent again as {following}",
        file=sys.stderr,
    )
    if advice := _advice(address, job):
        print(f"parity: {advice}", file=sys.stderr)


def _check_same(job_id: str, job: Job, submission: Submission) -> None:
    """Checks that a job with the id given with `--id` is what this command would send.

    Raises:
        Trouble: It was sent something else, so its result is not the one that is asked for.
    """
    if submission.given_id and job.metadata.get("sent") != submission.digest:
        raise Trouble(
            f"Job {job_id} exists already, is {job.status}, and was sent other options or files than this command "
            "would send. Choose another --id, or leave it out."
        )


def _submit(
    cluster: Cluster, job_id: str, submission: Submission, runtime_env: dict[str, Any], options: argparse.Namespace
) -> bool:
    """Lists the files, asks for confirmation and submits the job; returns whether it was submitted."""
    print(submission.packing.listing(), file=sys.stderr)
    _say_interpreter(submission.interpreter)
    if not (options.yes or _agreed(f"Send this to {options.address}?", default=True)):
        return False
    cluster.submit(job_id, submission.entrypoint, runtime_env=runtime_env, metadata=submission.metadata)
    print(f"parity: submitted {job_id}: {submission.entrypoint}", file=sys.stderr)
    return True


def _already(job_id: str, job: Job) -> str:
    """Says that a job was submitted before, and when it ended: what it has read may have changed since."""
    since = f" since {datetime.fromtimestamp(job.ended_s, timezone.utc):%Y-%m-%d %H:%M} UTC" if job.ended_s else ""
    message = f"job {job_id} exists already and is {job.status}{since}; it is not run again"
    return message if job.ended else f"{message}, and its log follows"


def _show_or_stop(cluster: Cluster, job_id: str, *, stop: bool) -> int:
    """Prints the status of a job, after stopping it if asked; returns the exit status of this command."""
    job_id, job, _ = _last_attempt(cluster, job_id)
    if job is None:
        raise Trouble(f"The cluster at {cluster.address} has no job {job_id}. Check the id, or the arguments.")
    if stop and not job.ended:
        job = cluster.stop(job_id) or job
    exit_part = "" if job.exit_status is None else f" with exit status {job.exit_status}"
    print(f"{job_id} {job.status}{exit_part}; the run is at {job.metadata.get('out', 'an unknown place')}")
    if stop and job.exit_status is None and (advice := _advice(cluster.address, job)):
        print(f"parity: {advice}", file=sys.stderr)
    return 0


def _advice(address: str, job: Job | None) -> str:
    """How to continue the run of a job that ended without a result; nothing if it never began."""
    command = command_to_continue(address, job.metadata) if job and job.exit_status not in NOT_RUN else None
    return f"What it trained is kept; continue it with\n  {command}" if command else ""


def _interrupted(cluster: Cluster, address: str, job_id: str) -> int:
    """After Ctrl-C: asks whether to stop the job, and otherwise says how to follow it; returns the exit status."""
    if not _agreed("Stop the job?", default=False):
        return _left_running(address, job_id)
    job = cluster.stop(job_id)
    print(f"parity: job {job_id} is {job.status if job else 'gone'}", file=sys.stderr)
    if job and job.exit_status is None and (advice := _advice(address, job)):
        print(advice)
    return 2


def _left_running(address: str, job_id: str) -> int:
    """Says how to follow and stop a job that is not followed any more; returns the exit status."""
    command = f"parity submit --address {address} --id {job_id}"
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
    try:
        # Of its own: after one Ctrl-C, a second one answers this question, and does not end the command at once.
        with interrupt.interruptible():
            print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
            return sys.stdin.readline().strip().lower() in ("y", "yes")
    except KeyboardInterrupt:
        return False


if __name__ == "__main__":
    sys.exit(main())
