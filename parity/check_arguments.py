"""The arguments of `parity.check`: what was given, as the plan needs it, or a refusal before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from parity.ground.current_folder import current_folder
from parity.ground.errors import Trouble
from parity.ground.storable import check_storable
from parity.plan.given import parse_given
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
    if task is not None and not isinstance(task, type):
        # Of a class it shows in its instance only, which is made where the user's code may run.
        check_protocol(task, name=type(task).__name__)
    return parse_given(task, "task")


def directory(out: str | os.PathLike[str] | None) -> Path | None:
    """The directory to keep the run in.

    Raises:
        Trouble: It is empty, an address of a store, no path, or not UTF-8.
    """
    check_storable(str(current_folder()))  # which is stored with the run
    if out is None:
        return None
    if not isinstance(out, str | os.PathLike) or not os.fspath(out) or "://" in os.fspath(out):
        raise Trouble(f"out={out!r} is not a directory of this machine. Give a new one, or None to keep nothing.")
    check_storable(os.fsdecode(out))
    return Path(out)


def check_kinds(losses: Sequence[CodeSpec]) -> None:
    """Checks the objects among the losses, before the first of them is trained.

    Raises:
        Trouble: One of them is not a loss.
    """
    from parity.tasks.losses import check_kind  # imports torch, which `import parity.api` does without

    for spec in losses:
        if spec.given is not None:
            check_kind(spec.given, spec)
