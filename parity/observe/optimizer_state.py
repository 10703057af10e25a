"""The settings and the state of an optimizer: what it was set to compute, its counters and its tensors."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch

from parity.observe.deferred import Later
from parity.observe.device_sums import on_device
from parity.observe.standing import StandingTensors, same
from parity.observe.word_fingerprint import WordFingerprints
from parity.plan.trial import DigestKind

# Settings of an optimizer that choose how it computes or serve a scheduler, and not what is computed.
IMPLEMENTATION = frozenset(
    {"params", "param_names", "foreach", "fused", "capturable", "differentiable", "initial_lr", "max_lr", "min_lr"}
)
# Where an optimizer counts the steps of a parameter.
_COUNTERS = ("step", "t", "steps")
# Values of these types cannot change in place.
_CONSTANT = (bool, int, float, str, type(None))


class ObservedOptimizer:
    """Observes one optimizer.

    What its groups and its state consist of is looked up again only where one of the objects is another one than in the
    step before: comparing some hundred of them takes 10 microseconds, and looking them up 130.

    Args:
        optimizer: The optimizer.
        numbers: The numbers of the model's parameters by their identity.
        kind: How tensors are digested.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, numbers: Mapping[int, int], kind: DigestKind = "xxh3") -> None:
        self.optimizer = optimizer
        self._numbers = numbers
        self._met: list[Any] = []
        self._tensors: list[torch.Tensor] = []
        self._counters: list[Any] = []
        self._kind = kind
        self._standing = StandingTensors(kind)
        self._words = WordFingerprints(summed=False)
        # What each group consisted of, and its settings; these are not kept where they may change in place.
        self._groups: list[tuple[list[Any], dict[str, Any]]] = []

    def look(self) -> dict[str, Any]:
        """The class, the settings of the groups, the digests of the state's tensors, and its counts."""
        groups = self.optimizer.param_groups
        parameters = list(chain.from_iterable(map(operator.itemgetter("params"), groups)))
        entries = list(filter(None, map(self.optimizer.state.get, parameters)))
        values = chain.from_iterable(map(operator.methodcaller("values"), entries))
        met = [*parameters, *entries, *chain.from_iterable(entries), *values]
        if not same(met, self._met):
            self._met = met
            self._walk(entries)
        self._groups = list(map(self._group, groups, [*self._groups, *[_UNKNOWN] * len(groups)]))
        return {
            "class": type(self.optimizer).__name__,
            "groups": [settings for _, settings in self._groups],
            "digests": self._digests(),
            "counts": self._counts(len(entries)),
        }

    def _digests(self) -> list[int] | Later:
        """The digest of each tensor of the state."""
        if self._kind == "words" and any(on_device(each, summed=False) for each in self._tensors):
            found = self._words.take(self._tensors)
            return Later(lambda: found.digests.tolist())
        self._standing.look(self._tensors)
        return self._standing.digests()

    def _counts(self, entries: int) -> list[int] | Later:
        """The number of parameters with a state, and the least and the largest count of their steps."""
        there = [each for each in self._counters if isinstance(each, torch.Tensor) and not each.is_cpu]
        if self._kind == "xxh3" or not there or len({each.device for each in there}) > 1:
            # `int(value)` of a tensor takes twice as long.
            counters = [value.item() if isinstance(value, torch.Tensor) else value for value in self._counters]
            return [entries, int(min(counters, default=0)), int(max(counters, default=0))]
        # A fused optimizer counts on its device. In float64, which has all counts of both float32 and int64.
        ends = torch.stack(torch.stack([each.reshape(()) for each in there]).double().aminmax())
        others = [int(value) for value in self._counters if not isinstance(value, torch.Tensor) or value.is_cpu]

        def fetched() -> list[int]:
            found = [*others, *map(int, ends.tolist())]
            return [entries, min(found), max(found)]

        return Later(fetched)

    def _walk(self, entries: Sequence[Mapping[Any, Any]]) -> None:
        """Finds the counters and the tensors of the state, in the order of the parameters and of the keys' names."""
        items = [item for entry in entries for item in sorted(entry.items(), key=lambda item: str(item[0]))]
        self._counters = [value for key, value in items if key in _COUNTERS]
        self._tensors = [value for key, value in items if key not in _COUNTERS and isinstance(value, torch.Tensor)]

    def _group(
        self, group: Mapping[str, Any], known: tuple[list[Any], dict[str, Any]]
    ) -> tuple[list[Any], dict[str, Any]]:
        """What a group of parameters consists of, and those of its settings that decide what is computed."""
        met = [*group, *group.values(), *group["params"]]
        if same(met, known[0]):
            return known
        settings = {name: value for name, value in sorted(group.items()) if name not in IMPLEMENTATION}
        # By number, since ports of a model name their parameters otherwise; -1 for one outside of the model.
        numbers = _ranges([self._numbers.get(id(parameter), -1) for parameter in group["params"]])
        return (
            met if all(map(_is_constant, settings.values())) else [],
            {"params": numbers} | {name: _plain(value) for name, value in settings.items()},
        )


_UNKNOWN: tuple[list[Any], dict[str, Any]] = ([], {})


def _is_constant(value: Any) -> bool:
    """Whether a setting cannot change in place."""
    return type(value) in _CONSTANT or (type(value) is tuple and all(map(_is_constant, value)))


def _plain(value: Any) -> Any:
    """A setting as JSON has it; a rate may be a tensor. A copy, since a setting may change in place."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in words.

    >>> _ranges([0, 1, 2, 5, 7, 8])
    '0-2 5 7-8'
    """
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
