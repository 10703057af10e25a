"""In what two descriptions of a training's settings differ, as `observe.step_state` stores them in JSON."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parity.plan import lines

# The settings in words, where the word in the code is not enough.
WORDS = {"lr": "learning rate", "evaluating": "modules in evaluation mode", "frozen": "frozen parameters",
         "factors": "factor of the loss", "scale": "loss scale"}  # fmt: skip
# Settings that right loops may have chosen differently: they are the cause of a difference that begins with them, and
# no difference by themselves.
_FREE = ("factors", "scale")


@dataclass(frozen=True)
class StateDifference:
    """One thing in which two states differ.

    Attributes:
        name: What it is, in words.
        baseline: Its value in the baseline.
        candidate: Its value in the candidate.
        of: The parameters that it belongs to, in words, or "" where it belongs to all of them.
        parameters: Their numbers, of a setting of an optimizer; the names of frozen ones.
        of_optimizer: Whether it belongs to an optimizer: it shows in no quantity of the step but the update.
    """

    name: str
    baseline: str
    candidate: str
    of: str = ""
    parameters: tuple[int | str, ...] = ()
    of_optimizer: bool = False

    @property
    def of_what(self) -> str:
        """Its name, with the parameters that it belongs to."""
        return f"{self.name} of {self.of}" if self.of else self.name

    def explain(self) -> str:
        """The difference in words."""
        return f"{self.of_what}: {self.baseline} and {self.candidate}"


# What the losses of a step's batches were multiplied by, and their numbers of rows; no rows of a single batch.
BatchesOfStep = tuple[tuple[float, ...], tuple[int, ...]]


@functools.lru_cache(maxsize=4096)
def settings_that_differ(left: str | None, right: str | None) -> tuple[StateDifference, ...]:
    """The differences of two descriptions of settings, as `observe.step_state` stores them."""
    if left is None or right is None or left == right:
        return ()
    one, other = json.loads(left), json.loads(right)
    found = []
    for name in ("evaluating", "frozen", "factors", "scale"):
        if not _same(one.get(name), other.get(name)):
            frozen = set(one.get(name) or ()) ^ set(other.get(name) or ()) if name == "frozen" else ()
            told = _shown(one.get(name)), _shown(other.get(name))
            found.append(StateDifference(WORDS[name], *told, parameters=tuple(sorted(frozen))))
    groups = [_effective(_by_parameter(side)) for side in (one, other)]
    for name in dict.fromkeys(name for name, _ in groups[0]):
        # Of settings that only one optimizer has, nothing can be compared.
        numbers = [number for number in _numbers(groups[0], name) if (name, number) in groups[1]]
        values = {
            number: (groups[0][name, number], groups[1][name, number])
            for number in numbers
            if not _same(groups[0][name, number], groups[1][name, number])
        }
        for pair in {json.dumps(pair): pair for pair in values.values()}.values():
            where = [number for number, value in values.items() if value == pair]
            of = "" if len(where) == len(numbers) else f"parameters {', '.join(map(str, where[:8]))}"
            shown = WORDS.get(name, name), _shown(pair[0]), _shown(pair[1])
            found.append(StateDifference(*shown, of, tuple(where), of_optimizer=True))
    return tuple(found)


def decisive(left: str | None, right: str | None) -> list[StateDifference]:
    """The differences of settings that right loops cannot have chosen differently."""
    free = {WORDS[name] for name in _FREE}
    return [each for each in settings_that_differ(left, right) if each.name not in free]


def differs_in(name: str, left: str | None, right: str | None) -> bool:
    return any(each.name == WORDS[name] for each in settings_that_differ(left, right))


@functools.lru_cache(maxsize=4096)
def batches_of(text: str | None) -> BatchesOfStep:
    settings = json.loads(text) if text else {}
    return tuple(settings.get("factors") or ()), tuple(settings.get("rows") or ())


def _by_parameter(settings: Mapping[str, Any]) -> dict[tuple[str, int], Any]:
    """The value of each setting, by its name and the number of the parameter."""
    found: dict[tuple[str, int], Any] = {}
    for optimizer in settings.get("optimizers") or ():
        for group in (optimizer or {}).get("groups", ()):
            for part in group["params"].split():
                first, _, last = part.lstrip("-").partition("-")
                for number in range(int(first), int(last or first) + 1):
                    found |= {(name, number): value for name, value in group.items() if name != "params"}
    return found


def _effective(values: dict[tuple[str, int], Any]) -> dict[tuple[str, int], Any]:
    """The settings that change what is computed: those of a decay or a momentum of 0 do not."""
    idle = {"decoupled_weight_decay": "weight_decay", "dampening": "momentum", "nesterov": "momentum"}
    return {
        (name, number): value
        for (name, number), value in values.items()
        if name not in idle or values.get((idle[name], number))
    }


def _numbers(groups: Mapping[tuple[str, int], Any], name: str) -> list[int]:
    return [number for each, number in groups if each == name]


def _same(left: Any, right: Any) -> bool:
    """Whether two settings are equal; a rate that is a float32 tensor is off by its rounding."""
    if isinstance(left, int | float) and isinstance(right, int | float):
        return math.isclose(left, right, rel_tol=lines.SAME_SETTING.value)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value[:4])) + (", …" if len(value) > 4 else "") if value else "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
