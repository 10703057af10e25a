"""TensorBoard's event files: a file, or the folder of a run with one or several."""

from collections.abc import Sequence
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


def read_folder(path: str) -> Log | None:
    """Reads the event files of a folder, or of the only folder below it that has some; None where there is none.

    Raises:
        Trouble: A file is damaged, or several folders below it have event files.
    """
    folder = Path(path)
    found: dict[Path, list[Path]] = {}
    for each in sorted(folder.rglob(f"*{_MARK}*")):
        if each.is_file():
            found.setdefault(each.parent, []).append(each)
    files = found.pop(folder, [])
    if not files and len(found) > 1:
        names = ", ".join(str(each) for each in [*found][:5])
        raise Trouble(
            f"{folder} has TensorBoard event files of {len(found)} runs: {names}"
            f"{', ...' if len(found) > 5 else ''}. Give the folder of one run."
        )
    if not files:
        return read(path, next(iter(found.values()))) if found else None
    # As those of add_scalars.
    names = ", ".join(str(each.relative_to(folder)) for each in found)
    return read(path, files, doubts=[f"event files in folders below it are not read: {names}"] if found else [])


def read(path: str, files: list[Path], *, doubts: Sequence[str] = ()) -> Log:
    """Reads the scalars of a run, of all its files together, as a resumed training writes them.

    Args:
        path: What was given.
        files: The event files, the oldest first: their names begin with the time.
        doubts: What is not read beside them.

    Raises:
        Trouble: A file is damaged.
    """
    columns: dict[str, tuple[list[int], list[float], set[str]]] = {}
    notes = [f"{len(files)} event files are read as one run"] if len(files) > 1 else []
    doubts = [*doubts]
    others: dict[str, list[tuple[int, str]]] = {}
    for file in files:
        try:
            found = read_scalars(limited(file))
        except DamagedError as damaged:
            raise Trouble(f"{file} is damaged: {damaged}. Copy it again from where it was written.") from damaged
        if found.cut_off:
            doubts.append(f"{file.name} ends within a record, as if it were still being written; the rest is compared")
        if found.skipped:
            doubts.append(f"numbers of a dtype that is not read: {', '.join(found.skipped)}")
        for name, digests in found.others.items():
            others.setdefault(name, []).extend(digests)
        for name, step, dtype, number in found.rows:
            if name not in columns:
                columns[name] = ([], [], set())
            steps, values, dtypes = columns[name]
            steps.append(step)
            values.append(number)
            dtypes.add(dtype)
    notes += [f"not scalars, and compared by their bytes: {', '.join(others)}"] if others else []
    series = {name: _series(*column) for name, column in columns.items()}
    return Log(path, FORMAT, series, tuple(notes), texts=others, doubts=(*doubts,))


def _series(steps: list[int], values: list[float], dtypes: set[str]) -> Series:
    # Of two dtypes in one series, the one that holds both.
    kind = next(iter(dtypes)) if len(dtypes) == 1 else "float64"
    nothing = np.array([], np.int64)
    return make_series(np.array(steps, np.int64), np.array(values, np.float64), Precision(kind), nothing)  # type: ignore[arg-type]
