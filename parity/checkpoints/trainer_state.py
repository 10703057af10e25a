"""trainer_state.json, in which Hugging Face's Trainer saves its counters, its best metric and its log.

Source:
    huggingface/transformers, trainer_callback.py, `TrainerState`; trainer_utils.py, `speed_metrics`; trainer.py,
    `evaluation_loop` and `_save_checkpoint`.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from parity.checkpoints.leaves import leaves
from parity.checkpoints.tensor import Checkpoint
from parity.ground.errors import Trouble
from parity.store.json_text import each_once

NAME = "trainer_state.json"
# What the library takes from a clock: `speed_metrics` writes the time of a split beside its rates.
_RATES = ("samples_per_second", "steps_per_second", "tokens_per_second")
_MEASURED = re.compile(rf"(.+)_(?:runtime|model_preparation_time|jit_compilation_time|{'|'.join(_RATES)})")
# The folder of a checkpoint, as the Trainer names it, below its `output_dir`.
_BEST = "best_model_checkpoint"
_BELOW = re.compile(r".*[/\\](checkpoint-\d+)", re.DOTALL)


@dataclass(frozen=True)
class _Time:
    """What stands for each time that was measured."""

    def __repr__(self) -> str:
        return "a measured time"


def read(path: Path) -> Checkpoint:
    """Reads a file: each of its values by name, those of the log with the place of their row.

    Times that the library measured have the same value on all sides, so that it counts only whether they are there; of
    the best checkpoint's path the last part is kept.

    Raises:
        Trouble: It is damaged.
    """
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=each_once, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it has no JSON that can be read ({error})") from error
    if not isinstance(content, dict):
        raise _damaged(path, f"it has a JSON {type(content).__name__}, and the state of a Trainer is an object")
    notes = []
    if measured := [*_leave_out_times(content)]:
        names = [*dict.fromkeys(measured)]
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        notes.append(
            f"Of {NAME}, {len(measured):,} times that were measured count as equal: {', '.join(names[:6])}{more}."
        )
    best = content.get(_BEST)
    if isinstance(best, str) and (below := _BELOW.fullmatch(best)):
        content[_BEST] = below[1]
        notes.append(f"Of {NAME}, {_BEST} is compared without the folder of the training.")
    values: dict[str, object] = {}
    for name, value in leaves(content):
        if name in values:
            raise Trouble(f"{path} has two entries whose names come to {name[:200]!r}. Rename one of them.")
        values[name] = value
    return Checkpoint(str(path), NAME, {}, values, notes=tuple(notes))


def _leave_out_times(content: Mapping[str, Any]) -> Iterator[str]:
    """Replaces the times that were measured in the rows of the log; yields their names."""
    rows = content.get("log_history")
    for row in rows if isinstance(rows, list) else ():
        for name in [*_times(row)] if isinstance(row, dict) else ():
            row[name] = _Time()
            yield name


def _times(row: Mapping[str, Any]) -> Iterator[str]:
    for name, value in row.items():
        found = _MEASURED.fullmatch(name)
        # A metric of the user may have such a name, too, but not the others beside it.
        beside = found and f"{found[1]}_runtime" in row and any(f"{found[1]}_{rate}" in row for rate in _RATES)
        if beside and isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
            yield name


def _number(text: str) -> float | Decimal:
    """A number with a fraction; all of its digits where float64 does not hold them, as the library never writes."""
    value = float(text)
    try:
        exact = Decimal(text)
    except InvalidOperation as error:  # its exponent has more than 18 digits
        raise ValueError(f"the number {text[:40]}") from error
    return value if math.isfinite(value) and Decimal(repr(value)) == exact else exact


def _damaged(path: Path, why: str) -> Trouble:
    return Trouble(f"{path} is damaged: {why}. Copy it again from where it was written.")
