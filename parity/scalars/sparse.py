"""Rows of named numbers in which some are missing: because they belong to rows of another kind, or were NaN."""

from collections.abc import Mapping, Sequence

from parity.ground.errors import Trouble
from parity.scalars.log import Column, inexact

# What stands for "no number" in a row; pandas writes a NaN as an empty cell, and as null in JSON.
_EMPTY = (None, "", "null", "None", "NULL", "<NA>")


class Rows:
    """Collects rows, and finds out of which places without a number were meant to have one."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._columns: dict[str, Column] = {name: Column.empty() for name in names}
        self._other: dict[str, list[tuple[int, str]]] = {}
        # The names that rows have numbers for, together, and those that they have a place without a number for.
        self._shapes: set[frozenset[str]] = set()
        self._waiting: list[tuple[int, str, frozenset[str]]] = []

    def add(self, step: int, row: Mapping[str, object]) -> None:
        """Adds the scalars of a row; texts, lists and truth values are no scalars."""
        filled, empty = [], []
        for name, value in row.items():
            if value is None or (isinstance(value, str) and value in _EMPTY):
                empty.append(name)
                value = None
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = Column.empty()
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not column.add(step, value):
                self._other.setdefault(name, []).append((step, str(value)))
            else:
                filled.append(name)
        shape = frozenset(filled)
        self._shapes.add(shape)
        self._waiting += [(step, name, shape) for name in empty]

    def columns(self) -> dict[str, Column]:
        """The columns of numbers.

        A place without a number is one where a number was meant if other rows have the same numbers and this one: rows
        that log the loss at each step and one without. Rows of another kind, as validation, have other numbers. Of a
        name that never has a number, all places were meant to have one.
        """
        numbers = frozenset[str]().union(*self._shapes)
        meant: dict[tuple[str, frozenset[str]], bool] = {}
        for step, name, shape in self._waiting:
            if (name, shape) not in meant:
                meant[name, shape] = name not in numbers or any(
                    name in other and shape <= other for other in self._shapes
                )
            if name.strip() and meant[name, shape]:
                self._columns[name].blank.append(step)
        return {name: column for name, column in self._columns.items() if name not in self._other}

    def texts(self) -> dict[str, list[tuple[int, str]]]:
        """Steps and texts of the columns that hold something else than numbers that float64 can hold."""
        return {**self._other, **inexact(self._columns)}

    def notes(self, path: str) -> list[str]:
        """A note about the columns that hold something else than numbers.

        Raises:
            Trouble: One holds numbers and something else.
        """
        for name, ((_, text), *_) in self._other.items():
            if self._columns[name].steps:
                raise Trouble(
                    f"{path} has {text[:40]!r} among the numbers of {name!r}. "
                    "A scalar has a number, nan, inf or nothing in each row."
                )
        texts = self.texts()
        return [f"not numbers, and compared as text: {', '.join(texts)}"] if texts else []
