"""The content of run.json while a run is in progress: what was asked for, and with which versions."""

import functools
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from parity.ground.current_folder import current_folder
from parity.plan.trial import Trial
from parity.store.regular import is_inside
from parity.store.schema import SCHEMA_NUMBER
from parity.store.statuses import RunState
from parity.version import __version__

# Packages whose versions are stored, and must be the same when a run is resumed: another version may give other bits.
PACKAGES = ("numpy", "pandas", "pyarrow", "ray", "torch")

# What each value of run.json is that a reader looks at, if it is there.
KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("state", "task", "host", "parity_sha256", "data_xxh3", "seal"), (str,)),
    **dict.fromkeys(("created", "command", "folder"), (str, type(None))),
    **dict.fromkeys(("trials", "arguments", "devices"), (list,)),
    **dict.fromkeys(("versions", "files", "recorded", "losses", "task_code", "cluster"), (dict,)),
    "quick": (bool,),
    # Only several runs that are judged together have these.
    **dict.fromkeys(("notes", "runs"), ()),
}


def find_wrong_value(info: Mapping[str, Any]) -> str | None:
    """What is wrong with the content of a run.json, or None."""
    for name, kinds in KINDS.items():
        if name in info and not isinstance(info[name], kinds):
            return f"its {name!r} is {info[name]!r}"[:200]
    for name, version in info.get("versions", {}).items():
        if not isinstance(version, str | None):
            return f"its version of {name!r} is {version!r}"[:200]
    for name in ("trials", "arguments", "devices"):
        if not all(isinstance(each, str) for each in info.get(name, ())):
            return f"its {name!r} are not all texts"
    for name in info.get("files", ()):
        if not is_inside(name):
            return f"its 'files' have {name[:200]!r}, which is not a Parquet file in the run directory"
    return _wrong_code(info) or _wrong_cluster(info.get("cluster", {}))


def _wrong_code(info: Mapping[str, Any]) -> str | None:
    """What is wrong with the digests of the code of task and losses, as `resume.fingerprint` makes them, or None."""
    codes = {"'task_code'": info["task_code"]} if "task_code" in info else {}
    codes |= {f"code of the loss {name!r}": code for name, code in info.get("losses", {}).items()}
    return next((f"its {what} is {code!r}"[:200] for what, code in codes.items() if not _is_code(code)), None)


def _is_code(code: object) -> bool:
    """Whether this says where code is from, and has the digests of it and of the files that travel with it."""
    if not isinstance(code, dict) or not {"origin", "sha256"} <= code.keys():
        return False
    # Runs of earlier versions have no digests of other files.
    files = code.get("files", {})
    texts = [code["origin"], code["sha256"]]
    return isinstance(files, dict) and all(isinstance(each, str | None) for each in (*texts, *files.values()))


def _wrong_cluster(cluster: Mapping[str, Any]) -> str | None:
    """What is wrong with the cluster that a run was begun on, as `nodes.as_stored` describes it, or None."""
    classes, nodes = cluster.get("classes", []), cluster.get("nodes", {})
    if not isinstance(cluster.get("address", ""), str):
        return f"the address of its cluster is {cluster['address']!r}"[:200]
    if not isinstance(classes, list) or not all(isinstance(each, dict) for each in classes):
        return "the classes of its cluster are not all objects"
    if not isinstance(nodes, dict) or not all(number in range(len(classes)) for number in nodes.values()):
        return f"the nodes of its cluster do not each have one of its {len(classes)} classes"
    return None


def describe(command: str, trials: Sequence[Trial], *, data: Path | None) -> dict[str, Any]:
    """The content of run.json while the run is in progress.

    Args:
        command: The command line, or the call, that asked for the run.
        trials: The trials of the run.
        data: The folder that MNIST came from, or None.

    Returns:
        What `json` can encode, with the state "running".
    """
    settings = trials[0].settings  # all trials of a run share them
    state: RunState = "running"
    return {
        "schema": SCHEMA_NUMBER,
        "state": state,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "folder": str(current_folder()),
        "task": settings.task.name,
        "data": str(data) if data else "embedded",
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "lr": settings.lr,
        "audit_every": settings.audit_every,
        "trials": [trial.name for trial in trials],
        "host": platform.node(),
        "versions": {"python": platform.python_version(), "training-parity": __version__}
        | {name: _version(name) for name in PACKAGES},
    }


@functools.cache  # reading a package's metadata takes 5 ms
def _version(package: str) -> str | None:
    """The version of a package; None where it is not installed: without a cluster, training does not need Ray."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
