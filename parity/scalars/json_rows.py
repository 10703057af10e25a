"""JSON lines, an object a line; and the trainer_state.json of Hugging Face's Trainer, which has such rows in a list.

Source:
    huggingface/transformers, trainer_callback.py, TrainerState: `log_history` is a list of the dictionaries that were
    logged, each with `step`; the Trainer has rounded some of their numbers.
"""

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from parity.ground.errors import Trouble
from parity.scalars.log import Log, named, step_name, step_of
from parity.scalars.sparse import Rows
from parity.store.json_text import each_once

LINES = "JSON lines"
TRAINER_STATE = "trainer_state.json"
# Made once: json.loads makes one for each line.
_DECODER = json.JSONDecoder(object_pairs_hook=each_once, parse_float=str)


def is_json_lines(text: str) -> bool:
    """Whether the first line of a text is a JSON object."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def parse(text: str) -> Any:
    """The value of a JSON text, with the texts of its decimals, which may be more than float64 holds.

    Raises:
        ValueError: It is not valid JSON, or has a name twice in one object.
        RecursionError: It is nested too deeply.
    """
    return _DECODER.decode(text)


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
            row = parse(line)
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
    flat = []
    for place, row in enumerate(rows):
        try:
            flat.append(each_once([*_flatten(row)]))
        except ValueError as error:
            raise Trouble(f"{path} cannot be read: in row {place + 1}, {error}. Give each number a name.") from error
    name = step_name([*dict.fromkeys(key for row in flat for key in row)])
    notes = [] if name else ["no name means the step, so the rows are counted from 0"]
    found, aside = Rows(), []
    own_name = functools.cache(step_name)
    for place, row in enumerate(flat):
        own = own_name(tuple(key for key, value in row.items() if value is not None)) if name else None
        if name and own is None:
            numbers = {key: value for key, value in row.items() if value is not None}
            aside += [str(numbers)] if numbers else []
            continue
        step = row.pop(own) if own else place
        if name and row.get(name, 0) is None:
            del row[name]
        try:
            number = step_of(step)
        except ValueError as error:
            raise Trouble(f"{path} has in row {place + 1} {error}.") from error
        found.add(number, row)
    columns = found.columns()
    notes += found.notes(path)
    return Log(path, form, named(columns), tuple(notes), texts=found.texts(), aside=aside)


def _flatten(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of objects within objects, with their names joined by dots."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
