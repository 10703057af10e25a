"""The arguments of `parity.check`: what was given, as the plan needs it, or a refusal before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity.ground.errors import Trouble
from parity.ground.quoting import cut
from parity.plan.device import Device, parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.task_spec import parse_task
from parity.plan.user_code import CodeSpec
from parity.tasks.loading import check_protocol


def task_spec(task: str | object) -> CodeSpec:
    """The spec of a task.

    Raises:
        Trouble: It is neither known nor an object with the functions of a task.
    """
    if isinstance(task, str):
        return parse_task(task)
    if not isinstance(task, type):
        # Of a class it shows in its instance only, which is made where the user's code may run.
        check_protocol(task, name=type(task).__name__)
    return _given(task)


def device_list(device: str | Sequence[str]) -> tuple[Device, ...]:
    """The devices.

    Raises:
        Trouble: One is unknown, or is no text.
    """
    names = [device] if isinstance(device, str) or not isinstance(device, Sequence) else [*device]
    for name in names:
        if not isinstance(name, str) or name == "auto":
            raise Trouble(
                f'device={name!r} is not a device to check. Name one as "cpu", or several as ["cpu", "cuda"].'
            )
    return parse_devices(names)


def directory(out: str | os.PathLike[str] | None) -> Path | None:
    """The directory to keep the run in.

    Raises:
        Trouble: It is empty, an address of a store, or no path.
    """
    if out is None:
        return None
    if not isinstance(out, str | os.PathLike) or not os.fspath(out) or "://" in os.fspath(out):
        raise Trouble(f"out={out!r} is not a directory of this machine. Give a new one, or None to keep nothing.")
    return Path(out)


def loss_specs(given: Sequence[str | Callable[..., Any]], shipped: Sequence[str]) -> tuple[CodeSpec, ...]:
    """Parses the losses, keeps their order, and gives each a name of its own, such as "mse-2" for a second "mse".

    Raises:
        Trouble: A text names no loss, or an object cannot be called.
    """
    for loss in given:
        if not isinstance(loss, str) and not callable(loss):
            raise Trouble(
                f"{cut(repr(loss), 200)} is not a loss. A loss is a function, an nn.Module (class or instance), an "
                "autograd.Function subclass, or a text as for --loss; for several, give a list."
            )
    texts = [loss for loss in given if isinstance(loss, str)]
    # Texts are parsed together, since a name is checked against the others; they are put back between the objects in
    # the order in which they were given.
    parsed = iter(parse_losses(texts, shipped=shipped))
    specs = [next(parsed) if isinstance(loss, str) else _given(loss) for loss in given]
    names: list[str] = []
    for spec in specs:
        count = 1
        # A trial is found by its name, which contains that of its loss.
        while (name := spec.name if count == 1 else f"{spec.name}-{count}") in names:
            count += 1
        names.append(name)
    return tuple(replace(spec, name=name) for spec, name in zip(specs, names, strict=True))


def check_kinds(losses: Sequence[CodeSpec]) -> None:
    """Checks the objects among the losses, before the first of them is trained.

    Raises:
        Trouble: One is no loss.
    """
    from parity.tasks.losses import check_kind  # imports torch, which `import parity.api` does without

    for spec in losses:
        if spec.given is not None:
            check_kind(spec.given, spec)


def _given(value: object) -> CodeSpec:
    """The spec of an object that the caller passed."""
    # An instance has no __name__; its class has.
    name = getattr(value, "__name__", type(value).__name__)
    return CodeSpec(name=name, attr=name, given=value)
