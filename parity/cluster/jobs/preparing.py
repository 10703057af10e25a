"""Prepares a job: checks the options, and collects what is sent."""

import argparse
import functools
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from parity.cluster.jobs.continuing import is_readable_here, named_code, read_info_here
from parity.cluster.jobs.head import PYTHON, Interpreter
from parity.cluster.jobs.packing import Packing, pack
from parity.cluster.ray_job import check_out
from parity.ground.errors import Trouble
from parity.plan.command_options import make_submit_parser
from parity.plan.options import make_parser
from parity.version import __version__

# Ray kills a job 3 s after asking it to end, unless the job sets another wait: what has been trained must still be
# judged and stored. Chosen with room; the run can be continued from its stored states if it takes longer.
STOP_WAIT_S = 60


@dataclass(frozen=True)
class Submission:
    """A job that is ready to be sent.

    Attributes:
        sent: The arguments of parity.run in the job.
        packing: The files of its working directory.
        runtime_env: Its runtime environment, without the working directory.
        out: Where the run will be stored.
        options: The options of `submit.py` that continuing the run needs as well.
        given_id: The id given with `--id`, or None.
        interpreter: The interpreter that the job gets.
        beside: What the result depends on beside what is sent: when a run that is continued was begun, and what is in
            the files that the runtime environment names.
    """

    sent: tuple[str, ...]
    packing: Packing
    runtime_env: dict[str, Any]
    out: str
    options: tuple[str, ...] = ()
    given_id: str | None = None
    interpreter: Interpreter = PYTHON
    beside: tuple[str, ...] = ()

    @property
    def entrypoint(self) -> str:
        """The command that the job runs."""
        return f"{self.interpreter.command} -m parity.run {shlex.join(self.sent)}"

    @functools.cached_property
    def digest(self) -> str:
        """An id made from what is sent."""
        return make_id(
            [*self.sent, *self.beside], self.packing.digest(), self.runtime_env, python=self.interpreter.command
        )

    @property
    def job_id(self) -> str:
        """The id given with `--id`, or else the digest."""
        return self.given_id or self.digest

    @property
    def metadata(self) -> dict[str, str]:
        """What the cluster keeps with the job."""
        return {
            "out": self.out,
            "parity": __version__,
            "options": shlex.join(self.options),
            "first": self.job_id,
            "sent": self.digest,
        }


def prepare(
    options: argparse.Namespace,
    given: Sequence[str],
    read_elsewhere: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None,
) -> Submission:
    """Checks the options and collects the files to send; needs no cluster, but for a run that only the cluster sees.

    Args:
        options: The parsed options of this command.
        given: The arguments for parity.run.
        read_elsewhere: Returns the content of run.json for a run directory that is not on this machine and the runtime
            environment.

    Returns:
        The submission, with `python` as its interpreter.

    Raises:
        Trouble: An option is wrong or unknown, or a file does not exist or may not be sent.
    """
    parser = make_parser()
    parser.other = make_submit_parser()
    asked = parser.parse_args(given)  # refuses an option of neither command
    if asked.inline or asked.address:
        name = "--inline" if asked.inline else "--address"
        raise Trouble(
            f"{name} of parity.run cannot be used in a job, which trains on the cluster that it runs on. Leave it out."
        )
    name, out = ("--resume", asked.resume) if asked.resume else ("--out", asked.out)
    check_out(out, name)  # now, before anything is sent
    if options.fetch and "://" in out:
        raise Trouble(
            f"--fetch can copy a directory only, and {name} is {out}. Copy it with the tools of that storage."
        )
    if options.fetch and options.fetch.exists():
        raise Trouble(f"--fetch {options.fetch} already exists. Choose a new directory.")
    if options.fetch:
        _check_can_be_made(options.fetch)
    runtime_env = read_runtime_env(options.runtime_env)
    named, beside = [], _named_files(runtime_env)
    if asked.resume:
        if read_elsewhere is None or is_readable_here(out):
            info = read_info_here(out)
        else:
            info = read_elsewhere(out, runtime_env)
        named = named_code(info, out)
        beside.append(str(info.get("created")))  # another run may be there than at the last time
    packing, sent = pack(asked, given, options.include, named=named)
    again = _to_repeat(options, asked, sent)
    return Submission(tuple(sent), packing, runtime_env, out, again, options.id, beside=tuple(beside))


def _named_files(runtime_env: dict[str, Any]) -> list[str]:
    """The contents of the files of requirements that a runtime environment names, which Ray reads as it sends it."""
    found = [runtime_env.get(name) for name in ("pip", "uv", "conda")]
    found += [each.get("packages") for each in found if isinstance(each, dict)]
    paths = [Path(each) for each in found if isinstance(each, str)]
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()]


def _to_repeat(options: argparse.Namespace, asked: argparse.Namespace, sent: Sequence[str]) -> tuple[str, ...]:
    """The options that say what is sent and that run.json does not know."""
    found: list[str] = []
    if any(text.startswith("outside/") or "=outside/" in text for text in sent):  # of files of other folders
        found += ["--loss", *asked.loss] if asked.loss else []
        found += ["--task", asked.task]
    found += ["--include", *map(str, options.include)] if options.include else []
    found += ["--runtime-env", str(options.runtime_env)] if options.runtime_env else []
    found += ["--python", options.python] if options.python else []
    return tuple(found)


def make_id(sent: Sequence[str], digest: str, runtime_env: dict[str, Any], *, python: str) -> str:
    """Makes the id of a job, which is the same for the same arguments, files, runtime environment and interpreter."""
    text = json.dumps(
        [list(sent), digest, runtime_env, python], sort_keys=True
    )  # the order of a mapping does not count
    return f"parity-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _check_can_be_made(fetch: Path) -> None:
    """Raises `Trouble` for a folder that cannot be made, before the job runs for hours."""
    around = next(folder for folder in fetch.absolute().parents if os.path.lexists(folder))
    if not around.is_dir() or not os.access(around, os.W_OK | os.X_OK):
        found = "may not be written" if around.is_dir() else "is not a folder"
        raise Trouble(f"--fetch {fetch} cannot be made: {around} {found}. Choose a directory that you can make.")


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
    modules = content.get("py_modules")
    # Ray itself refuses anything but a list.
    if isinstance(modules, list) and (local := [each for each in modules if "://" not in str(each)]):
        raise Trouble(
            f"--runtime-env {path} sends {local[0]} as one of its py_modules, unlisted and unchecked. Send it with "
            "--include, or give the URI of a package."
        )
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
    if os.environ.get("RAY_AUTH_MODE", "token").lower() == "disabled":  # the job does not inherit it
        variables["RAY_AUTH_MODE"] = "disabled"
    variables |= {name: str(value) for name, value in content.get("env_vars", {}).items()}
    return {**content, "env_vars": variables}
