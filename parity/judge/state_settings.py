"""In what two descriptions of a training's settings differ, as `observe.step_state` stores them in JSON."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.ground.quoting import cut
from parity.plan import lines

# The settings in words, where the word in the code is not enough.
WORDS = {"lr": "learning rate", "evaluating": "modules in evaluation mode", "frozen": "frozen parameters",
         "joined": "parameters or buffers that have joined",
         "factors": "factor of the loss", "scale": "loss scale"}  # fmt: skip
# Settings that right loops may have chosen differently: they are the cause of a difference that begins with them, and
# no difference by themselves.
_FREE = ("factors", "scale")
# Most characters of a setting in words: numbers have some 10, and a loop may give an optimizer any text.
_VALUE = 200


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
        counts_states: Whether it is nothing but how many parameters have a state, after equally many steps.
    """

    name: str
    baseline: str
    candidate: str
    of: str = ""
    parameters: tuple[int | str, ...] = ()
    of_optimizer: bool = False
    counts_states: bool = False

    @property
    def of_what(self) -> str:
        """Its name, with the parameters that it belongs to."""
        return f"{self.name} of {self.of}" if self.of else self.name

    def explain(self) -> str:
        """The difference in words."""
        return f"{self.of_what}: {self.baseline} and {self.candidate}"


# What the losses of a step's batches were multiplied by, and their numbers of rows; no rows of a single batch.
BatchesOfStep = tuple[tuple[float, ...], tuple[int, ...]]


# For each parameter of the candidate, by its number, the number of the baseline's parameter of that name; None where
# the same numbers belong together.
Numbers = tuple[int, ...] | None


def numbers_by_name(baseline: Sequence[str], candidate: Sequence[str]) -> Numbers:
    """Which parameters belong together where two models have the same names in another order.

    Ports whose names are others belong together in their order, as their tensors do.

    >>> numbers_by_name(["a", "b"], ["b", "a"])
    (1, 0)
    >>> numbers_by_name(["a", "b"], ["x", "y"])
    """
    if list(baseline) == list(candidate) or sorted(baseline) != sorted(candidate):
        return None
    places = {name: number for number, name in enumerate(baseline)}
    return tuple(places[name] for name in candidate) if len(places) == len(baseline) else None


@functools.lru_cache(maxsize=4096)
def settings_that_differ(left: str | None, right: str | None, by_name: Numbers = None) -> tuple[StateDifference, ...]:
    """The differences of two descriptions of settings, as `observe.step_state` stores them.

    Args:
        left: The baseline's.
        right: The candidate's.
        by_name: Which parameters belong together.
    """
    if left is None or right is None or (left == right and by_name is None):
        return ()
    one, other = json.loads(left), json.loads(right)
    if by_name is not None:
        # Modules and parameters are named in the order of the model, which differs here.
        for side, name in itertools.product((one, other), ("evaluating", "frozen")):
            if isinstance(side.get(name), list):
                side[name] = sorted(side[name])
    found = []
    # Most loops have no parameters that join.
    one, other = ({"joined": [], **side} for side in (one, other))
    for name in ("evaluating", "frozen", "joined", "factors", "scale"):
        if not _same(one.get(name), other.get(name)):
            frozen = set(one.get(name) or ()) ^ set(other.get(name) or ()) if name == "frozen" else ()
            shown = [_shown(side.get(name)) for side in (one, other)]
            found.append(StateDifference(WORDS[name], shown[0], shown[1], parameters=tuple(sorted(frozen))))
    groups = [_effective(_by_parameter(one)), _effective(_by_parameter(other, by_name))]
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
            of = "" if len(where) == len(numbers) else _parameters(where[:8])
            shown = [_shown(value) for value in pair]
            difference = StateDifference(WORDS.get(name, name), shown[0], shown[1], of, tuple(where), of_optimizer=True)
            found.append(difference)
    return tuple(found)


def decisive(left: str | None, right: str | None, by_name: Numbers = None) -> list[StateDifference]:
    """The differences of settings that right loops cannot have chosen differently."""
    free = {WORDS[name] for name in _FREE}
    return [each for each in settings_that_differ(left, right, by_name) if each.name not in free]


def differs_in(name: str, left: str | None, right: str | None) -> bool:
    return any(each.name == WORDS[name] for each in settings_that_differ(left, right))


@functools.lru_cache(maxsize=4096)
def batches_of(text: str | None) -> BatchesOfStep:
    settings = json.loads(text) if text else {}
    return tuple(settings.get("factors") or ()), tuple(settings.get("rows") or ())


def _by_parameter(settings: Mapping[str, Any], by_name: Numbers = None) -> dict[tuple[str, int], Any]:
    """The value of each setting, by its name and the number of the parameter in the baseline."""
    found: dict[tuple[str, int], Any] = {}
    for optimizer in settings.get("optimizers") or ():
        for group in (optimizer or {}).get("groups", ()):
            for part in group["params"].split():
                # -1 is one outside of the model: "-1" and "-1-3" are ranges, too.
                first, _, last = part[1:].partition("-")
                first = part[0] + first
                for number in range(int(first), int(last or first) + 1):
                    own = by_name[number] if by_name and 0 <= number < len(by_name) else number
                    found |= {(name, own): value for name, value in group.items() if name != "params"}
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


def _parameters(numbers: Sequence[int]) -> str:
    """Parameters in words, by their numbers."""
    inside = [str(number) for number in numbers if number >= 0]
    words = [f"parameters {', '.join(inside)}"] if inside else []
    return " and ".join([*words, *(["parameters outside of the model"] if len(inside) < len(numbers) else [])])


def _shown(value: Any) -> str:
    return cut(_in_words(value), _VALUE)


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_in_words, value[:4])) + (", …" if len(value) > 4 else "") if value else "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
