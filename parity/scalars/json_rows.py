"""JSON lines, an object a line; and the trainer_state.json of Hugging Face's Trainer, which has such rows in a list.

Source:
    huggingface/transformers, trainer_callback.py, TrainerState: `log_history` is a list of the dictionaries that were
    logged, each with `step`; the Trainer has rounded some of their numbers.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from parity.ground.errors import Trouble
from parity.scalars.log import Log, named, step_name, step_of
from parity.scalars.sparse import Rows

LINES = "JSON lines"
TRAINER_STATE = "trainer_state.json"
# Say when and where a row was logged, not what.
_ABOUT = ("epoch", "_timestamp", "_runtime", "timestamp", "time", "wall_time")


def is_json_lines(text: str) -> bool:
    """Whether the first line of a text is a JSON object."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def read_lines(path: str, text: str) -> Log:
    """Reads a file with an object in each line.

    Raises:
        Trouble: A line is no JSON object.
    """
    rows = []
    for place, line in enumerate(text.splitlines()):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Trouble(
                f"{path} has no JSON in line {place + 1}: {error}. Give a file with an object a line."
            ) from error
        if not isinstance(row, dict):
            raise Trouble(f"{path} has {line[:40]!r} in line {place + 1}, and each line has to be a JSON object.")
        rows.append(row)
    return read_rows(path, LINES, rows)


def read_rows(path: str, form: str, rows: Iterable[Mapping[str, Any]]) -> Log:
    """Reads rows that have been decoded.

    Raises:
        Trouble: A step is not a whole number, or something else is among the numbers of a scalar.
    """
    flat = [dict(_flatten(row)) for row in rows]
    name = step_name([*dict.fromkeys(key for row in flat for key in row)])
    notes = [] if name else ["no name means the step, so the rows are counted from 0"]
    found = Rows()
    for place, row in enumerate(flat):
        step = row.pop(name, None) if name else place
        if step is None:
            continue  # a row of a summary, which belongs to no step
        try:
            number = step_of(step)
        except ValueError as error:
            raise Trouble(f"{path} has in row {place + 1} {error}.") from error
        found.add(number, {key: value for key, value in row.items() if key not in _ABOUT})
    columns = found.columns()
    return Log(path, form, named(columns), (*notes, *found.notes(path)))


def _flatten(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of objects within objects, with their names joined by dots."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
