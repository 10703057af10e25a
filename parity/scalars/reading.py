"""Finds out by its content what a log is, and reads it."""

from pathlib import Path

from parity.ground.errors import Trouble
from parity.scalars import csv_table, json_rows, megatron, tensorboard, torchtitan
from parity.scalars.log import Log, limited

FORMATS = (
    tensorboard.FORMAT,
    csv_table.FORMAT,
    json_rows.LINES,
    json_rows.TRAINER_STATE,
    torchtitan.FORMAT,
    megatron.FORMAT,
)

# What a Trainer or Lightning leaves in a folder.
_IN_FOLDERS = ("trainer_state.json", "metrics.csv")


def read_log(path: str) -> Log:
    """Reads a file or folder of scalars.

    Raises:
        Trouble: It is none of `FORMATS`, is damaged, or has no scalar.
    """
    found = _read_folder(path) if Path(path).is_dir() else _read_file(path)
    if not found.series:
        texts = f"Not numbers, or not ones that float64 holds: {', '.join(found.texts)}. " if found.texts else ""
        raise Trouble(
            f"{path} was read as {found.format}, and has no scalar. {texts}Give a log with a number for each step."
        )
    return found


def is_log(path: str) -> bool:
    """Whether a file or folder is a log that can be read."""
    try:
        return bool(read_log(path).series)
    except (Trouble, OSError):
        return False


def is_log_folder(folder: Path) -> bool:
    """Whether a folder has a log that can be read."""
    return any((folder / name).is_file() for name in _IN_FOLDERS) or any(folder.rglob("*tfevents*"))


def _read_folder(path: str) -> Log:
    folder = Path(path)
    found = tensorboard.read_folder(path)
    if found:
        return found
    for name in _IN_FOLDERS:
        if (folder / name).is_file():
            return _read_file(str(folder / name))
    raise _unknown(path, f"a folder without TensorBoard event files, {' or '.join(_IN_FOLDERS)}")


def _read_file(path: str) -> Log:
    file = Path(path)
    data = limited(file)
    if tensorboard.is_event_file(file.name, data):
        return tensorboard.read(path, [file])
    if not data.strip():
        raise _unknown(path, "empty")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _unknown(path, "neither text nor an event file") from None
    if all(line.lstrip().startswith("{") for line in text.splitlines() if line.strip()):
        return _read_json(path, text)
    if torchtitan.is_torchtitan(text):  # before JSON: its lines may begin with [rank0]
        return torchtitan.read(path, text)
    if text.lstrip().startswith(("{", "[")):
        return _read_json(path, text)
    if csv_table.is_csv(text):
        return csv_table.read(path, text)
    raise _unknown(path, "a text of another kind")


def _read_json(path: str, text: str) -> Log:
    try:
        value = json_rows.parse(text)
    except (ValueError, RecursionError) as error:
        if json_rows.is_json_lines(text):
            return json_rows.read_lines(path, text)
        raise _unknown(path, f"not valid JSON ({error})") from error
    if megatron.is_golden(value):
        return megatron.read(path, value)
    if isinstance(value, dict) and isinstance(value.get("log_history"), list):
        return json_rows.read_rows(path, json_rows.TRAINER_STATE, _objects(path, value["log_history"]))
    if isinstance(value, list):
        return json_rows.read_rows(path, "JSON list", _objects(path, value))
    if json_rows.is_json_lines(text):
        return json_rows.read_lines(path, text)  # of one line
    raise _unknown(path, "JSON of another kind")


def _objects(path: str, rows: list[object]) -> list[dict[str, object]]:
    if not all(isinstance(row, dict) for row in rows):
        raise _unknown(path, "a JSON list of other things than objects")
    return rows  # type: ignore[return-value]


def _unknown(path: str, found: str) -> Trouble:
    return Trouble(f"{path} is {found}. A log is one of these: {'; '.join(FORMATS)}.")
