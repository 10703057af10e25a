"""--resume: what a run was started with, and whether that is still the case."""

import argparse
import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import xxhash

from parity.ground.errors import Trouble
from parity.plan.trial import Trial
from parity.plan.user_code import CodeSpec
from parity.store.directory import hold
from parity.store.journal import JOURNAL
from parity.store.statuses import run_state
from parity.store.storage import StoragePath, exists, parse_path
from parity.store.stored_run import read_info
from parity.version import package_sha256

# Options that say how to continue, not what the run is: they may differ each time.
FREE = (
    *("resume", "out", "address", "wait_for_nodes", "wait_limit", "save_every", "step_timeout"),
    *("format", "verbose", "quiet"),
)


@dataclass(frozen=True)
class Started:
    """A run that was started before.

    Attributes:
        directory: The run directory.
        info: The content of run.json.
        options: The options that it was started with; of those in `FREE`, the ones given now, and the address of its
            cluster if none is given.
    """

    directory: StoragePath
    info: dict[str, Any]
    options: argparse.Namespace

    @property
    def complete(self) -> bool:
        """Whether the run is complete: all trials have ended, and the tables are stored."""
        return run_state(self.info) == "complete"


@contextlib.contextmanager
def reopen(options: argparse.Namespace, given: Sequence[str], parser: argparse.ArgumentParser) -> Iterator[Started]:
    """Reads what the run in `options.resume` was started with, and keeps other drivers off it within the block.

    Args:
        options: The options given now.
        given: The arguments that they were parsed from.
        parser: The parser of the command, which also reads the stored arguments.

    Yields:
        The run, with the options to continue it with.

    Raises:
        Trouble: It is not a run, is in use, or was started with other options than are given now.
    """
    directory = parse_path(options.resume)
    # Once before the lock, which must not be created in a folder that is not a run, and again under it, since another
    # driver may have changed the run until then.
    read_info(directory)
    with hold(directory):
        if run_state(read_info(directory)) != "complete" and exists(directory / "trials.parquet"):
            path = directory / JOURNAL
            if not exists(path):  # the tables would be written over, from nothing
                raise Trouble(f"{path} is missing: the run directory is damaged. Restore it, or train again.")
        yield Started(directory, info := read_info(directory), _options(info, directory, options, given, parser))


def _options(
    info: Mapping[str, Any],
    directory: StoragePath,
    options: argparse.Namespace,
    given: Sequence[str],
    parser: argparse.ArgumentParser,
) -> argparse.Namespace:
    """The options that the run was started with; of those in `FREE`, the ones given now.

    Raises:
        Trouble: Other options are given now.
    """
    if options.out is not None and parse_path(options.out) != directory:
        raise Trouble(f"--resume {directory} continues in that directory, not in --out {options.out}. Leave --out out.")
    if "arguments" not in info:
        raise Trouble(f"{directory} was not made by parity run, and cannot be resumed.")
    before, named = parser.parse_args(info["arguments"]), _named(options, given, parser)
    for name, value in vars(options).items():
        if name in FREE:
            setattr(before, name, value)
        elif name in named and value != getattr(before, name):
            option = f"--{name.replace('_', '-')}"
            was = getattr(before, name)
            found = f"with {option} {_words(was)}, not {_words(value)}" if was else f"without {option}"
            raise Trouble(
                f"--resume {directory}: the run was started {found}. Leave {option} out, or start another run."
            )
    if before.address is None and not os.environ.get("RAY_ADDRESS"):
        # Not a cluster on this machine, silently, for a run that was on another one.
        before.address = info.get("cluster", {}).get("address") or parser.parse_args(info["arguments"]).address
    return before


def _named(options: argparse.Namespace, given: Sequence[str], parser: argparse.ArgumentParser) -> set[str]:
    """The options that the arguments name, also those whose value is the default."""
    # The parser leaves what is there already, where it would put a default.
    nothing: list[object] = []
    found = parser.parse_args(given, argparse.Namespace(**dict.fromkeys(vars(options), nothing)))
    return {name for name, value in vars(found).items() if value is not nothing}


def fingerprint(trials: Sequence[Trial], data: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What has to be the same when a run is resumed, for run.json: digests of the code and of the data.

    Args:
        trials: The trials of the plan.
        data: The task's arrays by name, dtype[...].

    Returns:
        "losses" (origin and SHA-256 of the code, and of each file that travels with it, by name of the loss),
        "task_code" (the same of the task), "parity_sha256" (a digest of this package) and "data_xxh3" (a digest of all
        arrays, in hexadecimal).
    """
    losses = {trial.loss.name: _code(trial.loss) for trial in trials}
    digest = xxhash.xxh3_128()
    # Sorted: the order of the names is not part of the data.
    for name, array in sorted(data.items()):
        # The bytes alone would be the same for another shape or dtype.
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return {
        "losses": losses,
        "task_code": _code(trials[0].settings.task),
        "parity_sha256": package_sha256(),
        "data_xxh3": digest.hexdigest(),
    }


def check_same(started: Started, info: Mapping[str, Any]) -> None:
    """Compares what the run was started with to what it would be started with now.

    Args:
        started: The run.
        info: The content that run.json would have now, from `run_info.describe` and `fingerprint`.

    Raises:
        Trouble: They differ; the message names in what.
    """
    # Through JSON, since what was stored has lists in place of tuples.
    before, now = (json.loads(json.dumps(each)) for each in (started.info, dict(info)))
    for name in ("folder", "trials", "versions", "task_code", "losses", "data_xxh3"):
        if before.get(name) is None:
            raise Trouble(
                f"{started.directory / 'run.json'} is damaged: it has no {name!r}. Restore it, or train again."
            )
    compared = _code_compared("the code of the task", before["task_code"], now["task_code"])
    compared += [("the data", before["data_xxh3"], now["data_xxh3"])]
    # Runs of earlier versions have none.
    if "parity_sha256" in before:
        left, right = (_file("the package", info["parity_sha256"]) for info in (before, now))
        compared += [("the code of parity", left, right)]
    for name, code in before["losses"].items():
        compared += _code_compared(f"the code of the loss {name}", code, now["losses"].get(name))
    compared += [
        (f"the version of {name}", value, now["versions"].get(name)) for name, value in before["versions"].items()
    ]
    places = (before["folder"], now["folder"])
    found = [
        f"{what} ({_shown(left)} then, {_shown(right)} now)"
        for what, left, right in compared
        if left != right and not _only_moved(left, right, places)
    ]
    # One name of each list is enough for a message: another cluster can differ in every trial.
    missing = [name for name in before["trials"] if name not in now["trials"]]
    added = [name for name in now["trials"] if name not in before["trials"]]
    found += [f"the trial {name} no longer exists" for name in missing[:1]]
    found += [f"the trial {name} did not exist then" for name in added[:1]]
    if found:
        raise Trouble(
            f"--resume {started.directory}: not what the run was started with: {'; '.join(found)}. "
            "Restore that, or start another run."
        )


def _code(spec: CodeSpec) -> dict[str, Any]:
    return {
        "origin": spec.origin,
        "sha256": spec.sha256,
        "files": {file.name: file.sha256 for file in spec.files},
    }


def _code_compared(
    what: str, before: Mapping[str, Any], now: Mapping[str, Any] | None
) -> list[tuple[str, object, object]]:
    """What has to be the same of a loss or task: its own code, and each file that travels with it."""
    own = [{name: code[name] for name in ("origin", "sha256")} if code else None for code in (before, now)]
    found: list[tuple[str, object, object]] = [(what, own[0], own[1])]
    # Runs of earlier versions do not have them.
    if now and "files" in before:
        then, today = before["files"], now["files"]
        for name in dict.fromkeys([*then, *today]):
            found.append((what, _file(name, then.get(name)), _file(name, today.get(name))))
    return found


def _file(name: str, sha256: str | None) -> dict[str, str | None] | None:
    return {"origin": name, "sha256": sha256} if sha256 else None


def _only_moved(before: object, now: object, folders: tuple[str, str]) -> bool:
    """Whether two codes are the same file at the same place below the folder of the command.

    Each Ray job runs in a new copy of its files, and a project may be moved.
    """
    if not (isinstance(before, dict) and isinstance(now, dict)) or None in (before["sha256"], now["sha256"]):
        return False
    paths = [PurePath(code["origin"]) for code in (before, now)]
    below = [path.relative_to(each) for path, each in zip(paths, folders, strict=True) if path.is_relative_to(each)]
    return before["sha256"] == now["sha256"] and len(below) == 2 and below[0] == below[1]


def _words(value: object) -> str:
    """The value of an option, as it is written on the command line."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _shown(value: object) -> str:
    """A version, a digest, or the origin and digest of a file, for a message."""
    if isinstance(value, dict):
        return str(value["origin"] or "shipped") + (f", SHA-256 {value['sha256'][:12]}…" if value["sha256"] else "")
    return "none" if value is None else str(value)
