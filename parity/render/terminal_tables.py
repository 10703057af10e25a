"""The tables of a report for a terminal: losses x devices, and the audit."""

from collections.abc import Iterator

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from parity.render import tables
from parity.render.matrix import Matrix
from parity.render.pair_text import STYLES
from parity.render.wrapping import flat, wrap

# Widest columns of the matrix; a longer name is folded.
_LOSS_WIDTH, _DEVICE_WIDTH = 28, 30


def matrices(matrix: Matrix, width: int) -> Iterator[Table]:
    """The matrix as a table, or as several tables below each other where one would be too wide."""
    columns = [
        (heading, [cells[place] for cells in matrix.rows.values()]) for place, heading in enumerate(matrix.devices)
    ]
    # Columns of a terminal and not characters: wide letters take two.
    losses = min(_LOSS_WIDTH, max(cell_len(flat(loss)) for loss in ("loss", *matrix.rows)))
    while columns:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("loss", overflow="fold", max_width=_LOSS_WIDTH)
        used, shown = losses + 2, 0
        for heading, cells in columns:
            wanted = max(cell_len(text) for text in (flat(heading), *(cell.text for cell in cells)))
            used += min(_DEVICE_WIDTH, wanted) + 3
            # At least one column, however wide: otherwise the loop would not end.
            if shown and used > width:
                break
            table.add_column(Text(flat(heading)), overflow="fold", max_width=_DEVICE_WIDTH)
            shown += 1
        for number, loss in enumerate(matrix.rows):
            row = [cells[number] for _, cells in columns[:shown]]
            styles = (STYLES[cell.pair.meaning.tone] if cell.pair else "dim" for cell in row)
            table.add_row(
                Text(flat(loss)), *(Text(cell.text, style=style) for cell, style in zip(row, styles, strict=True))
            )
        yield table
        columns = columns[shown:]


def audit_text(found: tables.Table, width: int) -> Iterator[Table | Text]:
    """The table of the audit for a terminal; where names or numbers would be cut, a list in its place.

    Args:
        found: The table.
        width: Most columns of a line.
    """
    name, *numbers = found.headings
    widths = [max(map(cell_len, map(flat, column))) for column in zip(found.headings, *found.rows, strict=True)]
    if sum(widths) + 3 * (len(widths) - 1) + 1 > width:
        yield Text()
        for trial, *errors in found.rows:
            # A name has a line of its own, so that it can be searched and copied; gradient and loss have one each.
            yield Text(flat(trial))
            for begin in range(0, len(numbers), 3):
                (what, value), *others = zip(numbers[begin : begin + 3], errors[begin : begin + 3], strict=True)
                text = f"{what} {value} ({', '.join(f'{other} {number}' for other, number in others)})"
                yield from map(Text, wrap(text, width=width, first="  ", then="    "))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(name, overflow="fold")
    for heading in numbers:
        # A number must not be broken; only the names fold.
        table.add_column(heading, justify="right", no_wrap=True)
    for trial, *errors in found.rows:
        table.add_row(Text(flat(trial)), *errors)
    yield table
