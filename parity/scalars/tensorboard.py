"""TensorBoard's event files: a file, or the folder of a run with one or several."""

from pathlib import Path

import numpy as np

from parity.ground.errors import Trouble
from parity.scalars.event_records import DamagedError, read_scalars
from parity.scalars.log import Log, Series, limited, make_series
from parity.scalars.precision import Precision

FORMAT = "TensorBoard event file"
# In the name of every event file.
_MARK = "tfevents"


def is_event_file(name: str, head: bytes) -> bool:
    """Whether a file is an event file: by its first record, whose message names the version of the format."""
    return b"brain.Event:" in head[:64] or (_MARK in name and not head)


def event_folder(folder: Path) -> list[Path]:
    """The event files of a run: those of the folder, or of the only folder below it that has some.

    Raises:
        Trouble: Several folders below it have event files.
    """
    here = sorted(each for each in folder.iterdir() if _MARK in each.name and each.is_file())
    if here:
        return here
    below: dict[Path, list[Path]] = {}
    for each in sorted(folder.rglob(f"*{_MARK}*")):
        if each.is_file():
            below.setdefault(each.parent, []).append(each)
    if len(below) > 1:
        names = ", ".join(str(each) for each in [*below][:5])
        raise Trouble(
            f"{folder} has TensorBoard event files of {len(below)} runs: {names}"
            f"{', ...' if len(below) > 5 else ''}. Give the folder of one run."
        )
    return next(iter(below.values()), [])


def read(path: str, files: list[Path]) -> Log:
    """Reads the scalars of a run, of all its files together, as a resumed training writes them.

    Args:
        path: What was given.
        files: The event files, the oldest first: their names begin with the time.

    Raises:
        Trouble: A file is damaged.
    """
    columns: dict[str, tuple[list[int], list[float], set[str]]] = {}
    notes = [f"{len(files)} event files are read as one run"] if len(files) > 1 else []
    doubts = _below(Path(path), files)
    for file in files:
        try:
            found = read_scalars(limited(file))
        except DamagedError as damaged:
            raise Trouble(f"{file} is damaged: {damaged}. Copy it again from where it was written.") from damaged
        if found.cut_off:
            doubts.append(f"{file.name} ends within a record, as if it were still being written; the rest is compared")
        if found.skipped:
            doubts.append(f"numbers of a dtype that is not read: {', '.join(found.skipped)}")
        for name, step, dtype, number in found.rows:
            if name not in columns:
                columns[name] = ([], [], set())
            steps, values, dtypes = columns[name]
            steps.append(step)
            values.append(number)
            dtypes.add(dtype)
    return Log(
        path, FORMAT, {name: _series(*column) for name, column in columns.items()}, tuple(notes), doubts=(*doubts,)
    )


def _below(folder: Path, files: list[Path]) -> list[str]:
    """Says in which folders below there are scalars that are not read, as those of add_scalars."""
    if not folder.is_dir():
        return []
    others = [each for each in sorted(folder.rglob(f"*{_MARK}*")) if each.is_file() and each not in files]
    names = dict.fromkeys(str(each.parent.relative_to(folder)) for each in others if _has_scalars(each))
    return [f"event files in folders below it are not read: {', '.join(names)}"] if names else []


def _has_scalars(file: Path) -> bool:
    try:
        found = read_scalars(limited(file))
    except DamagedError:
        return True
    return bool(found.rows or found.skipped or found.cut_off)


def _series(steps: list[int], values: list[float], dtypes: set[str]) -> Series:
    # Of two dtypes in one series, the one that holds both.
    kind = next(iter(dtypes)) if len(dtypes) == 1 else "float64"
    nothing = np.array([], np.int64)
    return make_series(np.array(steps, np.int64), np.array(values, np.float64), Precision(kind), nothing)  # type: ignore[arg-type]
