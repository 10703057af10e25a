"""The numbers that a run may be asked for: one table of what is allowed, for the command line and for Python."""

import math
import operator
from dataclasses import dataclass
from numbers import Real
from typing import Any

from parity.ground.errors import Trouble


@dataclass(frozen=True)
class Rule:
    """What is allowed for a number.

    Attributes:
        least: The least whole number that is allowed; None for a finite number greater than 0, whole or not.
        advice: What to do instead.
    """

    least: int | None
    advice: str

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        return "a number greater than 0" if self.least is None else f"a whole number of at least {self.least}"


RULES = {
    "steps": Rule(1, "Give the number of optimizer steps to compare: without a step nothing is compared."),
    "epochs": Rule(1, "Give the number of passes over the data: without a pass nothing is compared."),
    "batch_size": Rule(1, "Give the number of rows in a batch."),
    "lr": Rule(None, "Give a learning rate, such as 1e-3."),
    "audit_every": Rule(0, "Give 1 to audit every step, N to audit every Nth, or 0 for no audit."),
    "seed": Rule(0, "Give the seed of the random generators."),
    "replicas": Rule(1, "Give the number of times that each trial is trained."),
    "replica": Rule(0, "Give 0, or the number of the repeat."),
    "noise": Rule(0, "Give the number of trials under random rounding, or 0 for none."),
    "first_step": Rule(0, "Give the number of steps that were taken before the recording began."),
    "steps_per_epoch": Rule(1, "Give the number of steps in an epoch, or None for one epoch without an end."),
}


def allows(rule: Rule, value: object) -> bool:
    """Whether the rule allows a value.

    >>> allows(RULES["steps"], 0), allows(RULES["steps"], 1), allows(RULES["lr"], math.nan)
    (False, True, False)
    """
    # True counts as 1 in Python; nobody means it as a number of steps.
    if isinstance(value, bool):
        return False
    if rule.least is None:
        return isinstance(value, Real) and math.isfinite(value) and float(value) > 0
    try:
        return operator.index(value) >= rule.least  # type: ignore[arg-type]  # what is no integer raises
    except TypeError:
        return False


def checked(name: str, value: Any) -> Any:
    """Returns the value, as Python's own int or float.

    Args:
        name: A key of `RULES`: the name of the argument.
        value: What a caller gave.

    Raises:
        Trouble: The rule does not allow it.
    """
    rule = RULES[name]
    if not allows(rule, value):
        raise Trouble(f"{name}={value!r} is not {rule.allowed}. {rule.advice}")
    return float(value) if rule.least is None else operator.index(value)
