"""The exceptions that parity raises and that more than one package catches."""

from typing import Literal, TypeAlias

# How a trial fails through a fault of its own: an exception, a result that is not a scalar tensor, a loss without a
# gradient, or one that changes its output or target.
FailureOfTrial: TypeAlias = Literal["raised", "result", "detached", "mutates"]


class Trouble(Exception):  # noqa: N818 - cmp(1) calls exit status 2 "trouble", and so do we
    """Something prevents an answer: bad arguments, a failed baseline, damaged files, no place to train.

    The message says what was found, what is allowed and what to do.
    """


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
