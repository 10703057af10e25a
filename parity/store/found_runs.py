"""The runs in a folder, for whoever gives the folder in place of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.ground.current_folder import current_folder
from parity.ground.errors import Trouble
from parity.ground.listing import listed
from parity.store import storage
from parity.store.json_text import MOST_BYTES, parse_json
from parity.store.regular import read_regular
from parity.store.storage import StoragePath

# The ranks of a distributed training are stored as runs in folders rank-0, rank-1 and so on.
RANK = "rank-"
# Most runs that a message names.
MOST_NAMED = 12


@dataclass(frozen=True)
class FoundRun:
    """A run in a folder, as far as its files say.

    Attributes:
        path: Its directory.
        created: When it began, in UTC, as ISO 8601 has it; empty if unknown.
        state: "running", "complete" or "damaged".
        verdict: Its verdict; empty if it was not judged.
    """

    path: Path
    created: str
    state: str
    verdict: str


def holds_run(directory: StoragePath, *, patience_s: float | None = None) -> bool:
    """Whether a run is in the directory, or the ranks of one.

    Args:
        directory: The directory.
        patience_s: As for `storage.patiently`.

    Raises:
        OSError: The store does not answer, or refuses.
    """
    if storage.exists(directory / "run.json", patience_s=patience_s):
        return True
    if isinstance(directory, Path):
        return any(directory.glob(f"{RANK}*/run.json"))
    ranks = [name for name in storage.names(directory, patience_s=patience_s) if name.startswith(RANK)]
    return any(storage.exists(directory / name / "run.json", patience_s=patience_s) for name in ranks)


def find_runs(folder: StoragePath) -> tuple[FoundRun, ...]:
    """The runs directly in a local folder that is not a run itself, the newest first; none on an object store."""
    if not isinstance(folder, Path) or _is_run(folder):
        return ()
    return tuple(sorted(map(_found, _run_folders(folder)), key=lambda run: (run.created, run.path), reverse=True))


def not_a_run(directory: StoragePath) -> Trouble:
    """The error about a path that has no run.json: what is there instead, and what to give."""
    give = "Give the --out of a run."
    if not isinstance(directory, Path):
        return Trouble(f"{directory} is not a run directory: it has no run.json. {give}")
    if not directory.exists():
        where = "" if directory.is_absolute() else f" (looked in {current_folder()})"
        return Trouble(f"{directory} does not exist{where}. {give}")
    if not directory.is_dir():
        meant = next((parent for parent in directory.parents if _is_run(parent)), None)
        return Trouble(f"{directory} is a file, and not the folder of a run. {f'Give {meant}.' if meant else give}")
    names = sorted(str(path) for path in _run_folders(directory))
    if names:
        count, one = (f"{len(names)} runs", "one of them") if len(names) > 1 else ("a run", "that")
        return Trouble(
            f"{directory} is not a run itself, and holds {count}: {listed(names, most=MOST_NAMED)}. Give {one}."
        )
    return Trouble(f"{directory} is not a run directory: it has no run.json. {give}")


def _run_folders(folder: Path) -> Iterator[Path]:
    try:
        inside = [path for path in folder.iterdir() if path.is_dir()]
    except OSError:  # nobody may list it, and what is wrong with it is said where it is read
        return
    yield from (path for path in inside if _is_run(path))


def _is_run(folder: Path) -> bool:
    """The same of a local folder; not of one that nobody may look into."""
    try:
        return holds_run(folder)
    except OSError:  # as above
        return False


def _found(path: Path) -> FoundRun:
    inside = [path / "run.json", *sorted(path.glob(f"{RANK}*/run.json"))]
    info = _json(next(each for each in inside if each.exists()))
    summary = _json(path / "summary.json")
    state = info.get("state")
    return FoundRun(
        path,
        created=_text(info, "created"),
        state=state if state in ("running", "complete") else "damaged",
        verdict=_text(summary, "verdict"),
    )


def _json(path: Path) -> dict[str, Any]:
    """The content of a file; empty where it has none or is damaged, which is said when the run itself is read."""
    try:
        value = parse_json(read_regular(path, most_bytes=MOST_BYTES))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(content: dict[str, Any], key: str) -> str:
    value = content.get(key)
    return value if isinstance(value, str) else ""
