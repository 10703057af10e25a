"""The column `settings` of a trace: JSON that `observe.step_state` writes, checked before the judge reads it."""

from collections.abc import Callable, Mapping
from typing import Any

from parity.store.json_text import parse_json

# Most values of settings by parameter that the judge compares of one text. A model of 20,000 tensors with 20 settings
# of its optimizer has 400,000; a range of numbers in the text stands for any number of them.
MOST_VALUES = 5_000_000


def check_settings(text: str, tensors: int) -> None:
    """Checks that a text describes settings.

    Args:
        text: The text.
        tensors: Number of parameter tensors of the model.

    Raises:
        ValueError: It does not; the message says in what.
    """
    settings = parse_json(text)
    if not isinstance(settings, dict):
        raise ValueError("it is not an object")
    for name, allowed in _KINDS.items():
        if name in settings and not allowed(settings[name]):
            raise ValueError(f"its {name} is {settings[name]!r}"[:200])
    values = 0
    for optimizer in settings.get("optimizers", ()):
        for group in (optimizer or {}).get("groups", ()):
            values += _count(group["params"], tensors) * len(group)
    if values > MOST_VALUES:
        raise ValueError(f"it has {values:,} values, and at most {MOST_VALUES:,} are compared")


def _are(kinds: tuple[type, ...], values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(each, kinds) for each in values)


def _are_optimizers(values: Any) -> bool:
    # An optimizer that took no step at this one is null.
    return _are((dict, type(None)), values) and all(
        isinstance(each.get("class"), str)
        and _are((dict,), each.get("groups"))
        and all(isinstance(group.get("params"), str) for group in each["groups"])
        for each in values
        if each is not None
    )


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "optimizers": _are_optimizers,
    "scale": lambda value: isinstance(value, int | float),
    "factors": lambda value: _are((int, float), value),
    "rows": lambda value: _are((int,), value),
    "evaluating": lambda value: value == "all" or _are((str,), value),
    "frozen": lambda value: _are((str,), value),
    "joined": lambda value: _are((str,), value),
}


def _count(ranges: str, tensors: int) -> int:
    """Number of parameters in ranges such as "0-2 5"; -1 stands for a parameter outside of the model.

    Raises:
        ValueError: The text is not of this form, or a number is not that of a parameter.
    """
    count = 0
    for part in ranges.split():
        first, last = _ends(part)
        if not -1 <= first <= last < tensors:
            raise ValueError(f"it has the parameters {part[:40]!r}, and the model has {tensors}")
        count += last - first + 1
    return count


def _ends(part: str) -> tuple[int, int]:
    # From the second character on, since -1 begins with the sign that separates the ends of a range.
    first, _, last = part[1:].partition("-")
    try:
        numbers = int(part[0] + first), int(last or part[0] + first)
    except ValueError as error:
        raise ValueError(f"it has the parameters {part[:40]!r}, which are not numbers") from error
    return numbers
