"""Text in columns: lines are broken between words alone, so that what is printed can be searched and copied."""

from rich.cells import cell_len

# What fits an issue, a mail, a log and half a screen.
WIDTH = 80


def visible(text: str) -> str:
    r"""The text, with what would steer a terminal or turn the reading direction as an escape.

    >>> visible("red \x1b[31m, and \u202e backwards")
    'red \\x1b[31m, and \\u202e backwards'
    """
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def flat(text: str) -> str:
    """The text in one line."""
    return " ".join(map(visible, text.split()))


def clip(text: str, most: int) -> str:
    """The text in one line of at most so many characters.

    >>> clip("one two three", 9)
    'one tw...'
    """
    line = flat(text)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def wrap(text: str, *, width: int = WIDTH, first: str = "", then: str = "") -> list[str]:
    """Lines of at most so many columns; a longer word has a line of its own, and is whole.

    Args:
        text: Words; how much space is between them makes no difference.
        width: In columns of a terminal.
        first: What the first line begins with.
        then: What each further line begins with.

    >>> wrap("at step 0, loss 0.25", width=12, first="- ", then="  ")
    ['- at step 0,', '  loss 0.25']
    """
    lines = [first]
    empty = True
    for word in map(visible, text.split()):
        longer = f"{lines[-1]}{word}" if empty else f"{lines[-1]} {word}"
        if empty or cell_len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(f"{then}{word}")
        empty = False
    return lines
