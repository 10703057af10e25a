"""The exceptions that parity raises and that more than one package catches."""

import traceback
from pathlib import Path
from typing import Literal, TypeAlias

# How a trial fails through a fault of its own: an exception, a result that is not a scalar tensor, a loss without a
# gradient, or one that changes its output or target.
FailureOfTrial: TypeAlias = Literal["raised", "result", "detached", "mutates"]


class Trouble(Exception):  # noqa: N818 - cmp(1) calls exit status 2 "trouble", and so do we
    """Something prevents an answer: bad arguments, a failed baseline, damaged files, no place to train.

    The message says what was found, what is allowed and what to do.
    """

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows in place of a traceback: the message, and the caller's line.

        The 50 lines of a traceback are parity's own; `traceback.print_last()` prints them.

        Source:
            IPython.core.interactiveshell.InteractiveShell.showtraceback, which asks an exception for this method.
        """
        outside = [each for each in traceback.extract_tb(self.__traceback__) if not _is_of_parity(each.filename)]
        # The last of the caller's: before it are those of IPython, which runs the cell.
        where = [f"in line {outside[-1].lineno}: {outside[-1].line}"] if outside and outside[-1].line else []
        return [f"Trouble: {self}", *where]


def _is_of_parity(filename: str) -> bool:
    """Whether a file belongs to this package."""
    return Path(filename).is_relative_to(Path(__file__).parent.parent)


class TrialFailed(Exception):  # noqa: N818 - names what it reports, as the verdict does
    """The trial cannot continue, through a fault of its own.

    Attributes:
        step: The step that failed; None before the first.
        reason: What was found, and what is needed.
        kind: How it failed.
    """

    def __init__(self, step: int | None, reason: str, *, kind: FailureOfTrial = "raised") -> None:
        super().__init__(step, reason)
        self.step = step
        self.reason = reason
        self.kind = kind


class OracleUnavailable(Exception):  # noqa: N818 - a fact about the baseline, not an error of ours
    """The baseline's loss cannot be evaluated in float64; the message says why."""
