"""Pieces of GitHub-flavoured Markdown in which whatever a name or a message has in it appears as text.

What is no plain word or number goes into a code span: there nothing is a link, a mention, HTML or emphasis.

Source:
    GitHub Flavored Markdown Spec 0.29, 4.10 (tables), 6.3 (code spans), 6.9 (autolinks).
"""

import re
from collections.abc import Sequence

from parity.render.phrases import not_shown
from parity.render.wrapping import clip, visible

# Letters, with a hyphen or an apostrophe between them, numbers, and = and !=: in these nothing has a meaning.
_PLAIN = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|-?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?%?|!?=")
_WORD = re.compile(r"""([("']*)(.*?)([.,;:!?)"']*)""")
# What would make a list or a title of the line that it begins.
_BEGINNING = re.compile(r"-?\d+[.)]+|!?=")


def code(text: str, *, most: int = 200) -> str:
    """A name as a code span; empty for an empty one.

    >>> print(code("mine@cpu-s0"), code("a `b` c"))
    `mine@cpu-s0` ``a `b` c``
    """
    name = clip(text, most)
    if not name:
        return ""
    fence = _fence(name, least=1)
    space = " " if name.startswith("`") or name.endswith("`") else ""
    return f"{fence}{space}{name}{space}{fence}"


def prose(text: str, *, most: int = 400) -> str:
    """Sentences that may have names in them.

    >>> print(prose("loss_fn does not train as <b>: see @somebody, at step 5."))
    `loss_fn` does not train as `<b>`: see `@somebody`, at step 5.
    """
    words = clip(text, most).split()
    told = [_word(word) for word in words]
    if words and _BEGINNING.fullmatch(words[0]):
        told[0] = code(words[0])
    return " ".join(told)


def fenced(text: str, *, language: str = "", most: int) -> str:
    """Lines as they are; of a longer text the end, where a traceback says what it is."""
    lines = "\n".join(visible(line.expandtabs()) for line in text.splitlines())
    if len(lines) > most:
        lines = f"...{lines[-most:]}"
    fence = _fence(lines, least=3)
    return f"{fence}{language}\n{lines}\n{fence}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, most: int, left_out: int = 0) -> str:
    """A table, of whose rows those are shown that fit; how many are left out is said.

    Args:
        headings: Of the columns.
        rows: Cells, of `code` and `prose`.
        most: Characters of all.
        left_out: How many rows are left out already.
    """
    lines = [_row(headings), _row(["---"] * len(headings))]
    room = most - sum(map(len, lines))
    for shown, row in enumerate(map(_row, rows)):
        room -= len(row) + 1
        if room < 0:
            left_out += len(rows) - shown
            break
        lines.append(row)
    return "\n".join(lines) + (f"\n\n{not_shown(left_out)}" if left_out else "")


def details(summary: str, *content: str) -> str:
    """What is shown when it is asked for.

    Args:
        summary: Plain words.
        content: Markdown; empty ones are left out.
    """
    told = "\n\n".join(each for each in content if each)
    return f"<details><summary>{summary}</summary>\n\n{told}\n\n</details>" if told else ""


def _row(cells: Sequence[str]) -> str:
    # A pipe ends a cell even in a code span, and there is none outside of these.
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _word(word: str) -> str:
    found = _WORD.fullmatch(word)
    assert found is not None, "each group may be empty, and the second takes all"
    before, core, after = found.groups()
    if after.startswith(")") and "(" in core:  # as of a call
        core, after = f"{core})", after[1:]
    return word if not core or _PLAIN.fullmatch(core) else f"{before}{code(core, most=len(core))}{after}"


def _fence(text: str, *, least: int) -> str:
    """Backticks that are not in the text in this number."""
    return "`" * max(least, max(map(len, re.findall("`+", text)), default=0) + 1)
