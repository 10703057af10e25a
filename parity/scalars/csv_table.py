"""CSV: a row a step, a column a scalar, as pandas, Lightning's CSVLogger, TensorBoard and Weights & Biases write it."""

import csv
import io

from parity.ground.errors import Trouble
from parity.scalars.log import Log, named, step_name, step_of
from parity.scalars.sparse import Rows

FORMAT = "CSV"
_DELIMITERS = ",;\t"
# Characters in which it is seen what a text is.
_HEAD = 65_536


def is_csv(text: str) -> bool:
    """Whether a text is a table: its first two lines have the same number of cells, at least two, or one of numbers."""
    lines = [line for line in text[:_HEAD].splitlines()[:20] if line.strip()]
    if len(lines) < 2:
        return False
    delimiter = _delimiter(lines[0])
    try:
        heading, *rows = csv.reader(lines[:-1] if len(lines) > 2 else lines, delimiter=delimiter)
    except csv.Error:
        return False
    if len(heading) == 1:
        return all(_is_number(row[0]) for row in rows if row)
    return all(len(row) == len(heading) for row in rows)


def read(path: str, text: str) -> Log:
    """Reads the columns that hold numbers.

    Args:
        path: What was given.
        text: The content of the file.

    Raises:
        Trouble: It is no CSV, a heading is there twice, a row has another number of cells than the heading, or a cell
            that is no number is in a column of numbers.
    """
    try:
        heading, *rows = csv.reader(io.StringIO(text), delimiter=_delimiter(text.partition("\n")[0]), strict=True)
    except csv.Error as error:
        raise Trouble(f"{path} is no CSV that can be read: {error}. Look for a quote that is not closed.") from error
    # A table without a heading: its columns are numbered, and no row is lost.
    nameless = all(_is_number(cell) for cell in heading)
    if nameless:
        rows, heading = [heading, *rows], [f"column {place + 1}" for place in range(len(heading))]
    counted = not nameless and _counts_rows(heading, rows)
    if counted:
        heading, rows = heading[1:], [row[1:] for row in rows]
    heading = [name.strip() or f"column {place + counted + 1}" for place, name in enumerate(heading)]
    twice = [each for each in dict.fromkeys(heading) if heading.count(each) > 1]
    if twice:
        raise Trouble(f"{path} has two columns called {twice[0]!r}. Give each column a name of its own.")
    name = step_name(heading)
    notes = ["the first column has no name and counts the rows: it is left out"] if counted else []
    notes += [] if name else ["no column is called step, so the rows are counted from 0"]
    found, aside = Rows(heading), []
    for place, row in enumerate(rows):
        if not row:
            continue
        if len(row) != len(heading):
            raise Trouble(
                f"{path} has {len(row)} cells in row {place + 1}, and its heading has {len(heading)}. "
                "Give a table whose rows are complete."
            )
        cells = {key: cell.strip() for key, cell in zip(heading, row, strict=True)}
        step = _step(cells.pop(name), path, place) if name else place
        if step is not None:
            found.add(step, cells)
        elif any(cells.values()):
            aside.append(str(cells))
    columns = found.columns()
    notes += found.notes(path)
    return Log(path, FORMAT, named(columns), tuple(notes), texts=found.texts(), aside=aside)


def _counts_rows(heading: list[str], rows: list[list[str]]) -> bool:
    """Whether the first column is the index that pandas writes: without a name, 0 in the first row, 1 in the next."""
    return not heading[0].strip() and [row[0] for row in rows if row] == [*map(str, range(sum(map(bool, rows))))]


def _step(cell: str, path: str, place: int) -> int | None:
    """The step of a row, None where its cell is empty."""
    try:
        return step_of(cell) if cell else None
    except ValueError as error:
        raise Trouble(f"{path} has in row {place + 1} {error}.") from error


def _delimiter(line: str) -> str:
    return max(_DELIMITERS, key=line.count)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
