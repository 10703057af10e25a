"""Text that is not ours, as others may read it: of bounded length, and without characters that control a terminal."""

import re
import traceback

# Most characters of such a text in a report: some 30 lines of a terminal, which is what a reader follows; sixty rows of
# a table stay below 120 kB.
MOST_SHOWN = 2_000
# Most characters that are stored of a message that somebody's code raised, and of its traceback. Tracebacks of real
# code have 2,000 to 10,000; a message with a tensor in it has any number, and is stored, sent and shown many times.
MOST_STORED = 20_000
_MARK = "[... {:,} characters left out ...]"
_MARKED = re.compile(r"\[\.\.\. (\d{1,3}(?:,\d{3}){0,3}) characters left out \.\.\.\]")
# The largest number that a mark says, and the room of that mark.
_MOST_LEFT_OUT = 10**12 - 1
_ROOM = len(_MARK.format(_MOST_LEFT_OUT))


def cut(text: str, most: int = MOST_SHOWN) -> str:
    """The text in at most `most` characters: of a longer one the beginning and the end, and how much is left out.

    Args:
        text: The text. It may have been cut before: then what was left out is counted, too.
        most: At least 100.

    >>> cut("a" * 5000 + "z" * 5000, 100)
    'aaaaaaaaaaaaaaaaaaaaaaaaaaaa[... 9,945 characters left out ...]zzzzzzzzzzzzzzzzzzzzzzzzzzz'
    """
    if len(text) <= most:
        return text
    room = most - _ROOM
    # An error begins with what it is; a traceback ends with it. So both ends are kept.
    end = len(text) - room // 2
    begin = room - room // 2
    # Of a mark that is cut out, what it stood for, and not its own letters.
    marks = [*_MARKED.finditer(text, begin, end)]
    before = sum(int(found[1].replace(",", "")) - len(found[0]) for found in marks)
    left_out = min(end - begin + before, _MOST_LEFT_OUT)
    return f"{text[:begin]}{_MARK.format(left_out)}{text[end:]}"


def visible(text: str) -> str:
    r"""The text, with escapes for characters that would control a terminal or change the reading direction.

    >>> visible("red \x1b[31m, and \u202e backwards")
    'red \\x1b[31m, and \\u202e backwards'
    """
    # `ascii` gives the escape in quotes.
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def message_of(error: BaseException) -> str:
    """The message of an exception, of at most `MOST_STORED` characters; empty where it has none."""
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - somebody's `__str__` may raise anything, and is not what went wrong
        text = f"its message cannot be read, which raises {type(broken).__name__}"
    return cut(text, MOST_STORED)


def explain_error(error: BaseException) -> str:
    """The class of an exception, and its message if it has one.

    >>> explain_error(ValueError("no row")), explain_error(ValueError())
    ('ValueError: no row', 'ValueError')
    """
    message = message_of(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def traceback_of(error: BaseException) -> str:
    """The traceback of an exception as Python prints it, of at most `MOST_STORED` characters."""
    return cut("".join(traceback.format_exception(error)), MOST_STORED)
