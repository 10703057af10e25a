"""The exceptions that parity raises and that more than one package catches."""

from typing import Literal, TypeAlias

# How a trial fails by its own doing: an exception, a result that is not a scalar tensor, a loss without a gradient, or
# one that changes its output or target.
FailureOfTrial: TypeAlias = Literal["raised", "result", "detached", "mutates"]


class Trouble(Exception):  # noqa: N818 - cmp(1) calls exit status 2 "trouble", and so do we
    """Something keeps the command from an answer: bad arguments, a failed baseline, damaged files, no place to train.

    The message says what was found, what is allowed and what to do.
    """


class TrialFailed(Exception):  # noqa: N818 - names what it reports, as the verdict does
    """The trial cannot go on, by its own doing.

    Attributes:
        step: The step that failed, or None before the first.
        reason: What was found, and what is needed.
        kind: Which way of failing it is.
    """

    def __init__(self, step: int | None, reason: str, *, kind: FailureOfTrial = "raised") -> None:
        super().__init__(step, reason)
        self.step = step
        self.reason = reason
        self.kind = kind


class OracleUnavailable(Exception):  # noqa: N818 - a fact about the baseline, not an error of ours
    """The baseline's loss cannot be evaluated in float64; the message says why."""
