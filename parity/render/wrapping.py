"""Text of limited width: lines are broken between words only, so that names in it can be searched and copied.

A text of more than `MOST_SHOWN` characters, which nobody reads, is cut wherever it is shown.
"""

import shlex

from rich.cells import cell_len

from parity.ground.quoting import MOST_SHOWN, cut, visible

# Columns of the report: a width that fits an issue, a mail, a log and half a screen.
WIDTH = 80


# Least characters of a text that is clipped with room to say how much of it is missing.
_COUNTED = 100


def flat(text: str) -> str:
    """The text in one line."""
    # Split before escaping, so that line breaks and tabs become spaces and not escapes.
    return " ".join(map(visible, cut(text).split()))


def clip(text: str, most: int) -> str:
    """The beginning of the text, in one line of at most `most` characters; of a long one it says how much is missing.

    >>> clip("one two three", 9)
    'one tw...'
    >>> clip("one two three " * 10_000, 100)
    'one two three one two three one two three one two three one two three ... (139,930 more characters)'
    """
    line = flat(text)
    if len(line) <= most:
        return line
    if most < _COUNTED:
        return f"{line[: most - 3]}..."
    # Of a text that `flat` has cut, the characters of the text itself.
    missing = "... ({:,} more characters)"
    whole = len(line) if len(text) <= MOST_SHOWN else len(text)
    room = most - len(missing.format(whole))
    return line[:room] + missing.format(whole - room)


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
    for word in map(visible, cut(text).split()):
        longer = f"{lines[-1]}{word}" if empty else f"{lines[-1]} {word}"
        # The first word stays on the first line, even if it does not fit: a name is never cut.
        if empty or cell_len(longer) <= width:
            lines[-1] = longer
        elif word.startswith("%") and (moved := _with_number(lines[-1], word, then, width)):
            # A number is not parted from its percent sign.
            lines[-1:] = moved
        else:
            lines.append(f"{then}{word}")
        empty = False
    return lines


def _with_number(line: str, word: str, then: str, width: int) -> list[str] | None:
    """The line without its last word, and a new one with it; None where that is no number, or they do not fit."""
    before, space, number = line.rpartition(" ")
    new = f"{then}{number} {word}"
    if not before.strip() or not space or not number[-1:].isdigit() or cell_len(new) > width:
        return None
    return [before, new]


def _with_values(words: list[str]) -> list[str]:
    """The words, each option together with the value that follows it, so that no line ends between the two."""
    found: list[str] = []
    for place, word in enumerate(words):
        if place and words[place - 1].startswith("--") and not word.startswith("-"):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def shell_lines(command: str, *, width: int = WIDTH, indent: str = "") -> list[str]:
    r"""A command in lines that a shell reads as one; a line break inside a word is kept.

    Args:
        command: The command, quoted for a shell.
        width: Most columns of a line, unless a single word is longer.
        indent: Beginning of each line.

    >>> shell_lines("parity run --loss 'a b'", width=24)
    ['parity run \\', "  --loss 'a b'"]
    """
    lines = [""]
    # Split and quoted again, so that lines break between the words of the shell only.
    for word in _with_values([*map(shlex.quote, shlex.split(command))]):
        longer = f"{lines[-1]} {word}".lstrip(" ")
        if lines[-1] and cell_len(f"{indent}{longer} \\") > width:
            lines[-1] += " \\"
            # A continued line is indented, which a shell ignores.
            lines.append(f"  {word}")
        else:
            lines[-1] = longer if len(lines) == 1 else f"{lines[-1]} {word}"
    return [f"{indent}{line}" for line in lines]
