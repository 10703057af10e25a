"""The standard streams of a command: each of them exists, and one that cannot be written to does not end it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Within the block, streams that the caller has closed lead to the null device, and writing to stderr never fails.

    The next file that is opened gets the lowest free descriptor. If that of a closed stream were left free, what
    libraries print would end up in a file of the run. A progress line or message that cannot be printed changes neither
    the run nor its exit status.
    """
    before = sys.stderr
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - stays open, as the stream does
    # What an encoding lacks is written as its code, as on stderr; also after the block.
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    # Another one, as of a test or a notebook, does not fail.
    if before is sys.__stderr__ and isinstance(before, io.TextIOWrapper):
        sys.stderr = _tolerant(before)
    try:
        yield
    finally:
        if before is not None:
            sys.stderr = before


def encodable(text: str, encoding: str | None, form: str) -> str:
    """A document in characters that a stream can write; unchanged if the stream writes UTF-8.

    >>> encodable("1 × 2", "ascii", "text"), encodable("<a>×</a>", "cp1252", "junit")
    ('1 x 2', '<a>&#215;</a>')

    Args:
        text: The document.
        encoding: That of the stream.
        form: Value of `--format`.
    """
    if (encoding or "utf-8").replace("_", "-").lower() in ("utf-8", "utf8"):
        return text
    # Documents are read as UTF-8, of which ASCII is a part.
    if form == "json":
        return json.dumps(json.loads(text), indent=2) + "\n"
    if form != "text":
        return text.encode("ascii", "xmlcharrefreplace").decode()
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")
    return text


# What stands for a character of a report where an encoding lacks it.
_PLAIN = str.maketrans({"×": "x", "─": "-", "│": "|", "…": "...", "≈": "~", "·": ".", "→": "->", "⁻": "^-"})


def unprintable(error: OSError) -> bool:
    """Whether an error came from stdout, as on a full disk; what is still waiting to be printed is then dropped.

    Args:
        error: What was raised.
    """
    # An OSError without a number comes from a stream that is not a file, or from a library that failed to load.
    if error.filename is not None or error.errno is None:
        return False
    try:
        number = sys.stdout.fileno()
        # What was refused is not tried again by a flush.
        os.write(number, b"\n")
    except OSError as again:
        if again.errno != error.errno:
            return False
    else:
        return False
    # Python prints the rest when it ends, and would complain again.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
    return True


class _Tolerant(io.FileIO):
    """A file that drops what cannot be written to it."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # of anything with bytes in it
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _tolerant(stream: io.TextIOWrapper[Any]) -> io.TextIOWrapper[Any]:
    """The same stream as one whose writing never fails."""
    try:
        raw = _Tolerant(stream.fileno(), "w", closefd=False)
    except OSError:  # one without a number
        return stream
    buffered: Any = io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffered, encoding=stream.encoding, errors=stream.errors, line_buffering=True, write_through=True
    )
