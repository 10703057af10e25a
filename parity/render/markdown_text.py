"""Parts of GitHub-flavoured Markdown in which names and messages appear as text, whatever they contain.

Everything but plain words and numbers goes into a code span, where nothing is a link, a mention, HTML or emphasis.

Source:
    GitHub Flavored Markdown Spec 0.29, 4.10 (tables), 6.3 (code spans), 6.9 (autolinks).
"""

import re
from collections.abc import Collection, Sequence

from parity.ground.quoting import cut, visible
from parity.render.phrases import not_shown
from parity.render.wrapping import clip

# Words (with hyphens or apostrophes inside), numbers, %, ×, = and !=: nothing in them has a meaning in Markdown.
_PLAIN = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|-?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?[%×]?|[%×]|!?=")
# A word is split into opening punctuation, a core as short as possible, and closing punctuation.
_WORD = re.compile(r"""([("']*)(.*?)((?:'s)?[.,;:!?)"']*)""")
# At the beginning of a line, these would turn it into a list item or a heading.
_BEGINNING = re.compile(r"-?\d+[.)]+|!?=")


def code(text: str, *, most: int = 200) -> str:
    """A name as a code span; empty for an empty name.

    Args:
        text: The name.
        most: Most characters of the name; a longer one is cut.

    >>> print(code("mine@cpu-s0"), code("a `b` c"))
    `mine@cpu-s0` ``a `b` c``
    """
    name = clip(text, most)
    if not name:
        return ""
    fence = _fence(name, least=1)
    # A backtick at either end would join the fence; Markdown removes one space from both ends.
    space = " " if name.startswith("`") or name.endswith("`") else ""
    return f"{fence}{space}{name}{space}{fence}"


def prose(text: str, *, names: Collection[str] = (), most: int = 400) -> str:
    """Sentences in which names become code spans.

    Args:
        text: The sentences.
        names: Words that are names here, even if they look like words; what is no plain word is always a name.
        most: Most characters of the text, before code spans are made; a longer one is cut.

    >>> print(prose("loss_fn does not train as <b>: see @octocat, at step 5."))
    `loss_fn` does not train as `<b>`: see `@octocat`, at step 5.
    """
    words = clip(text, most).split()
    escaped = [_word(word, names) for word in words]
    # Only the first word can begin a line: the text is one line.
    if words and _BEGINNING.fullmatch(words[0]):
        escaped[0] = code(words[0])
    return " ".join(escaped)


def fenced(text: str, *, language: str = "", most: int) -> str:
    """Lines as a code block; a text that is too long loses its middle, since a traceback ends with the error.

    Args:
        text: The lines.
        language: Language of the highlighting, or none.
        most: Most characters of the lines.
    """
    # Twice: escapes and tabs make a text longer.
    lines = cut("\n".join(visible(line.expandtabs()) for line in cut(text, most).splitlines()), most)
    fence = _fence(lines, least=3)
    return f"{fence}{language}\n{lines}\n{fence}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, most: int, left_out: int = 0) -> str:
    """A table with as many rows as fit, and a sentence that counts the others.

    Args:
        headings: Headings of the columns.
        rows: Cells, made by `code` and `prose`.
        most: Most characters of the table.
        left_out: Number of rows that the caller has left out already.
    """
    lines = [_row(headings), _row(["---"] * len(headings))]
    room = most - sum(map(len, lines))
    for shown, row in enumerate(map(_row, rows)):
        # With the line break after it.
        room -= len(row) + 1
        if room < 0:
            left_out += len(rows) - shown
            break
        lines.append(row)
    return "\n".join(lines) + (f"\n\n{not_shown(left_out)}" if left_out else "")


def details(summary: str, *content: str) -> str:
    """Content that a reader opens with a click; empty where there is none.

    Args:
        summary: Plain words that are always shown.
        content: Paragraphs of Markdown; empty ones are left out.
    """
    paragraphs = "\n\n".join(each for each in content if each)
    # GitHub reads Markdown inside an HTML element only after an empty line.
    return f"<details><summary>{summary}</summary>\n\n{paragraphs}\n\n</details>" if paragraphs else ""


def _row(cells: Sequence[str]) -> str:
    # A pipe ends a cell even inside a code span.
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _word(word: str, names: Collection[str]) -> str:
    """The word as it is if it is plain, else with its core in a code span."""
    found = _WORD.fullmatch(word)
    assert found is not None, "each group of the pattern may be empty, and the second matches everything"
    before, core, after = found.groups()
    if after.startswith(")") and "(" in core:  # the parenthesis of a call, as in "f(x)"
        core, after = f"{core})", after[1:]
    plain = core not in names
    return word if not core or (plain and _PLAIN.fullmatch(core)) else f"{before}{code(core, most=len(core))}{after}"


def _fence(text: str, *, least: int) -> str:
    """A run of backticks longer than any in the text."""
    return "`" * max(least, max(map(len, re.findall("`+", text)), default=0) + 1)
