"""The exception that ended a trial, and the lines of the user's code that raised it."""

import re
from dataclasses import dataclass
from pathlib import PurePath

from parity.ground.quoting import cut
from parity.render.wrapping import flat
from parity.store.stored_run import StoredRun
from parity.store.trials import TrialRecord

# Most frames that are shown: the last ones, where the error is.
MOST_FRAMES = 3
# Most characters of a traceback that are looked at.
_MOST_TEXT = 20_000
# The line of a frame, and of its code, as Python prints them.
_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>.+)\n(?:    (?P<code>\S.*)\n)?', re.M)
# What is parity's own, or somebody's library, is not where a reader has to look first.
_OURS = re.compile(r"(^|/)parity/(plan|train|observe|tasks|recorder)(/|\.py)")
_LIBRARY = re.compile(r"(^|/)(site-packages|dist-packages|lib/python3)(/|\.\d)|^<frozen ")


@dataclass(frozen=True)
class Frame:
    """One line of a traceback.

    Attributes:
        file: Path of the file, relative to the folder of the run where it is inside of it.
        line: Number of the line, from 1.
        function: Name of the function.
        code: The line itself, without indentation; empty if it was not found.
    """

    file: str
    line: int
    function: str
    code: str

    @property
    def place(self) -> str:
        """File and line, as an editor opens them."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class UserError:
    """What a trial raised.

    Attributes:
        trial: Name of the trial.
        exception: Class of the exception, with its module where it has one.
        message: Its message, in one line; empty if it has none.
        frames: The last lines of the user's code, the innermost last; of a library where there is none of the user's.
        own: Whether the frames are the user's.
    """

    trial: str
    exception: str
    message: str
    frames: tuple[Frame, ...]
    own: bool = True

    @property
    def lines(self) -> list[str]:
        """The frames and the error, as lines of text."""
        frames = [
            line
            for frame in self.frames
            for line in (f"{frame.place}, in {frame.function}", *([f"    {frame.code}"] if frame.code else []))
        ]
        return [*frames, self.error]

    @property
    def error(self) -> str:
        """The exception with its message, as the last line of a traceback has them."""
        return f"{self.exception}: {self.message}" if self.message else self.exception


def run_folder(run: StoredRun) -> str | None:
    """The folder that a run was started in; None where it is not known.

    Args:
        run: The stored run.
    """
    folder = run.info.get("folder")
    return folder if isinstance(folder, str) else None


def user_error(record: TrialRecord, folder: str | None = None) -> UserError | None:
    """What ended a trial; None where nothing was raised, or no traceback is stored.

    Args:
        record: The trial.
        folder: The folder that the run was started in.
    """
    if record.status != "failed" or not record.traceback:
        return None
    text = cut(record.traceback, _MOST_TEXT)
    frames = [
        Frame(relative_path(file, folder), int(line), function, (code or "").rstrip())
        for file, line, function, code in (found.groups() for found in _FRAME.finditer(text))
    ]
    others = [frame for frame in frames if not _OURS.search(frame.file)]
    own = [frame for frame in others if not _LIBRARY.search(frame.file)]
    # The message may have several lines, and stands after the last frame.
    *_, last = [found.end() for found in _FRAME.finditer(text)] or [0]
    exception, _, message = _message(text[last:]).partition(": ")
    return UserError(
        record.trial, flat(exception) or "error", flat(message), tuple((own or others)[-MOST_FRAMES:]), own=bool(own)
    )


def relative_path(path: str, folder: str | None) -> str:
    """The path beside the folder of the run, where the file is inside of it; else as it is.

    >>> relative_path("/home/me/mine.py", "/home/me"), relative_path("/tmp/mine.py", "/home/me")
    ('mine.py', '/tmp/mine.py')
    """
    if folder and PurePath(path).is_relative_to(folder):
        return str(PurePath(path).relative_to(folder))
    return path


def _message(text: str) -> str:
    """The lines after the last frame, without the marks below its code."""
    lines = [line for line in text.splitlines() if line.strip(" ^~") and not line.startswith("    ")]
    return "\n".join(lines)
