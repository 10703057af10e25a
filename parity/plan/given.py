"""What a Python caller gives in place of texts: losses, tasks and devices, checked before anything is trained."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from parity.ground.errors import Trouble
from parity.plan.definitions import WHAT, Kind
from parity.plan.device import Device, parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.user_code import CodeSpec, check_imports


def parse_given_losses(given: Sequence[str | Callable[..., Any]], shipped: Sequence[str]) -> tuple[CodeSpec, ...]:
    """Parses the losses, keeps their order, and gives each a name of its own, such as "mse-2" for a second "mse"."""
    texts = [loss for loss in given if isinstance(loss, str)]
    # Texts are parsed together, since a name is checked against the others; they are put back between the objects in
    # the order in which they were given.
    named = parse_losses(texts, shipped=shipped)
    check_imports(*named)
    parsed = iter(named)
    specs = [next(parsed) if isinstance(loss, str) else parse_given(loss, "loss") for loss in given]
    names: list[str] = []
    for spec in specs:
        count = 1
        # A trial is found by its name, which contains that of its loss.
        while (name := spec.name if count == 1 else f"{spec.name}-{count}") in names:
            count += 1
        names.append(name)
    return tuple(replace(spec, name=name) for spec, name in zip(specs, names, strict=True))


def parse_given_devices(given: str | Sequence[str]) -> tuple[Device, ...]:
    """Parses the devices.

    Raises:
        Trouble: One is unknown, or is not a text.
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise Trouble(f"device={given!r} is not a text, nor a list of texts. Give one such as 'cpu' or 'cuda'.")
    if "auto" in texts:
        raise Trouble(
            "--device auto is for parity run. Name each device: --device cpu cuda (device=['cpu', 'cuda'] in Python)."
        )
    return parse_devices(texts)


def parse_given(value: object, kind: Kind) -> CodeSpec:
    """The spec of an object that the caller passed.

    Raises:
        Trouble: It is certainly not a loss or a task.
    """
    # An instance has no __name__; its class has.
    name = getattr(value, "__name__", type(value).__name__)
    if value is None or (kind == "loss" and not callable(value)):
        raise Trouble(f"The {kind} {value!r} is of type {type(value).__name__}. {WHAT[kind]}")
    if isinstance(value, type) and (needed := _needed_to_make(value)):
        raise Trouble(
            f"The {kind} {name} is a class that cannot be made without {', '.join(needed)}. Give an instance of it."
        )
    return CodeSpec(name=name, attr=name, given=value)


def _needed_to_make(kind: type) -> list[str]:
    """The arguments of a class that have no default; none where they cannot be read."""
    try:
        found = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        each.name
        for each in found
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
