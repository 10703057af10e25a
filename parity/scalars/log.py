"""A log of scalars, as every reader returns it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from parity.ground.errors import Trouble
from parity.scalars.precision import Precision, as_stored, precision_of

# Names of a step, as trainers and loggers write it, in the order in which they are looked for.
STEP_NAMES = (
    "step",
    "global_step",
    "_step",
    "trainer/global_step",
    "iteration",
    "iter",
    "train_step",
    "steps",
    "batch",
)

# A log is held in memory.
_MOST_BYTES = 2**31
# Steps are held in 64 bits.
_MOST_STEPS = 10**18
# From here on, float64 does not hold every whole number.
_MOST_WHOLE = 2**53
# So many digits are kept by every float64 of ordinary size.
_SURE = 15


@dataclass(frozen=True)
class Series:
    """One scalar of a log.

    Attributes:
        steps: int64[N], ascending, each once.
        values: float64[N], which hold the numbers exactly.
        precision: What the numbers are.
        blank: int64[M], ascending: the steps where the log has a place without a number, as some tools write a NaN.
        notes: What a reader should know: steps logged twice or out of order.
        repeated: int64[K], float64[K]: the steps and numbers that do not count, since the step was logged again.
    """

    steps: np.ndarray
    values: np.ndarray
    precision: Precision
    blank: np.ndarray
    notes: tuple[str, ...] = ()
    repeated: tuple[np.ndarray, np.ndarray] = (np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True)
class Log:
    """The scalars of a file or folder.

    Attributes:
        path: The file or folder, as it was given.
        format: Name of the format that was detected.
        series: The scalars by name, in the order of the log.
        notes: What a reader should know about the log as a whole.
        texts: What is not a number, or one that float64 cannot hold, by name: steps and texts.
        aside: Rows that belong to no step, as text.
        doubts: What was not read though it may hold scalars: with it, no comparison is more than undecided.
    """

    path: str
    format: str
    series: dict[str, Series]
    notes: tuple[str, ...] = ()
    texts: Mapping[str, Sequence[tuple[int, str]]] = field(default_factory=dict)
    aside: Sequence[str] = ()
    doubts: tuple[str, ...] = ()


@dataclass
class Column:
    """One scalar while its log is read."""

    steps: list[int]
    texts: list[str]
    values: list[float]
    blank: list[int]
    inexact: bool = False

    @classmethod
    def empty(cls) -> "Column":
        return cls([], [], [], [])

    def add(self, step: int, number: str | float | None) -> bool:
        """Adds a number, or a place without one; returns whether it was either."""
        if number is None or number == "":
            self.blank.append(step)
            return True
        try:
            value = float(number)
        except (ValueError, OverflowError):
            return False
        self.steps.append(step)
        text = number if isinstance(number, str) else repr(number)
        self.inexact = self.inexact or _is_inexact(text, value)
        self.texts.append(text)
        self.values.append(value)
        return True


def series_of(column: Column) -> Series:
    """The series of a column that was read from text."""
    values = np.array(column.values, np.float64)
    precision = precision_of(column.texts, values)
    return make_series(
        np.array(column.steps, np.int64), as_stored(values, precision), precision, np.array(column.blank, np.int64)
    )


def make_series(steps: np.ndarray, values: np.ndarray, precision: Precision, blank: np.ndarray) -> Series:
    """Sorts a series by step; of a step that was logged more than once the last number counts, and a note says so.

    Args:
        steps: int64[N], in the order of the log.
        values: float64[N].
        precision: What the numbers are.
        blank: int64[M], the steps of places without a number.
    """
    notes = []
    if (steps[1:] < steps[:-1]).any():
        at = int(np.argmax(steps[1:] < steps[:-1]))
        notes.append(f"its steps are not in order: {steps[at + 1]:,} comes after {steps[at]:,}")
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order], values[order]
    last = np.append(steps[1:] != steps[:-1], True)[: len(steps)]
    if not last.all():
        again = ~last
        bits = values.view(np.uint64)
        changed = int(np.count_nonzero(again[:-1] & (bits[1:] != bits[:-1])))
        count = len({*steps[again].tolist()})
        words = f"{changed:,} times with another number" if changed else "with the same numbers"
        notes.append(f"{count:,} steps are logged more than once, {words}; the last number of each counts")
    repeated = steps[~last], values[~last]
    return Series(steps[last], values[last], precision, np.unique(blank), tuple(notes), repeated)


def named(columns: dict[str, Column]) -> dict[str, Series]:
    """The series of the columns that have a number or a place for one, and no number that float64 cannot hold."""
    return {
        name: series_of(column)
        for name, column in columns.items()
        if (column.steps or column.blank) and not column.inexact
    }


def inexact(columns: dict[str, Column]) -> dict[str, list[tuple[int, str]]]:
    """Steps and texts of the columns with a number that float64 cannot hold."""
    return {name: [*zip(column.steps, column.texts, strict=True)] for name, column in columns.items() if column.inexact}


def _is_inexact(text: str, value: float) -> bool:
    """Whether a text is a number that float64 cannot hold, so that another number has the same float."""
    if (len(text) <= _SURE and 1e-300 < abs(value) < 1e300) or text == repr(value) or math.isnan(value):
        return False
    if math.isinf(value):
        return "n" not in text.lower()
    try:
        number = Decimal(text)
    except InvalidOperation:  # its exponent has more than 18 digits
        return True
    digits, exponent = number.as_tuple()[1:]
    if number == value or exponent == 0:  # a whole number in all of its digits
        return number != value
    # What a program writes of a float: the shortest text that stands for it, or the number itself in some digits.
    return number not in (Decimal(repr(value)), Context(prec=len(digits)).create_decimal(Decimal(value)))


def limited(file: Path) -> bytes:
    """The content of a file.

    Raises:
        Trouble: It is too large for a log.
    """
    size = file.stat().st_size
    if size > _MOST_BYTES:
        raise Trouble(f"{file} has {size:,} bytes, and logs of up to {_MOST_BYTES:,} bytes are read into memory.")
    return file.read_bytes()


def step_of(value: object) -> int:
    """The step that a number or its text means.

    Raises:
        ValueError: It is not a whole number of at most 18 digits.
    """
    try:
        if isinstance(value, str) and value.strip().lstrip("+-").isdecimal() and len(value) < 40:
            value = int(value)
        number = value if isinstance(value, int) else float(value) if isinstance(value, float | str) else math.nan
        most = _MOST_STEPS if isinstance(value, int) else _MOST_WHOLE
        if not isinstance(value, bool) and abs(number) < most and number == int(number):
            return int(number)
    except ValueError:
        pass
    raise ValueError(f"the step {str(value)[:40]!r}, and a step is a whole number of at most 18 digits")


def step_name(names: Sequence[str]) -> str | None:
    """The name among these that means the step, or None."""
    lower = {name.strip().lower().replace(" ", "_"): name for name in reversed(names)}
    # Batches are counted from 0 in each epoch.
    return next(
        (lower[name] for name in STEP_NAMES if name in lower and not (name == "batch" and "epoch" in lower)), None
    )
