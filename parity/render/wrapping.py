"""Text of limited width: lines are broken between words only, so that names in it can be searched and copied."""

from rich.cells import cell_len

# Columns of the report: a width that fits an issue, a mail, a log and half a screen.
WIDTH = 80


def visible(text: str) -> str:
    r"""The text, with escapes for characters that would control a terminal or change the reading direction.

    >>> visible("red \x1b[31m, and \u202e backwards")
    'red \\x1b[31m, and \\u202e backwards'
    """
    # `ascii` gives the escape in quotes.
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def flat(text: str) -> str:
    """The text in one line."""
    # Split before escaping, so that line breaks and tabs become spaces and not escapes.
    return " ".join(map(visible, text.split()))


def clip(text: str, most: int) -> str:
    """The text in one line of at most `most` characters.

    >>> clip("one two three", 9)
    'one tw...'
    """
    line = flat(text)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def wrap(text: str, *, width: int = WIDTH, first: str = "", then: str = "") -> list[str]:
    """Breaks text into lines of at most `width` columns; a word that is longer has a line of its own.

    Args:
        text: Words; the space between them is not kept.
        width: In columns of a terminal.
        first: Beginning of the first line.
        then: Beginning of each further line.

    >>> wrap("at step 0, loss 0.25", width=12, first="- ", then="  ")
    ['- at step 0,', '  loss 0.25']
    """
    # Not textwrap: it counts characters, and wide ones take two columns; and it breaks at hyphens, as in --inline.
    lines = [first]
    empty = True
    for word in map(visible, text.split()):
        longer = f"{lines[-1]}{word}" if empty else f"{lines[-1]} {word}"
        # The first word stays on the first line, even if it does not fit: a name is never cut.
        if empty or cell_len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(f"{then}{word}")
        empty = False
    return lines
