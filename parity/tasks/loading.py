"""Loads tasks and their data, shipped ones and those of users."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.ground.errors import Trouble
from parity.ground.quoting import explain_error
from parity.plan.definitions import PROTOCOL, WHAT
from parity.plan.task_spec import TASKS
from parity.plan.user_code import CodeSpec, load_code
from parity.tasks import Task, mnist


def load_task(spec: CodeSpec) -> Task:
    """Imports the task's module or runs its file, which imports torch.

    Raises:
        Trouble: The task lacks a function of the protocol.
        Exception: Whatever the user's code raises.
    """
    if spec.shipped:
        # Imported only now, since it imports torch: planning and judging do without.
        module = importlib.import_module(TASKS[spec.name])
        return Task(module.model, module.optimizer, module.batch, module.forward, module.LOSSES, module.FLOAT64_FORMS)
    functions = _protocol(spec)
    named = {name: functions[name] for name in ("model", "optimizer", "batch", "forward")}
    return Task(**named, losses={"builtin": lambda: functions["loss"]}, float64_forms={})


def load_task_data(task: CodeSpec, root: Path | None) -> dict[str, np.ndarray]:
    """Loads the task's data.

    Args:
        task: A shipped task, or one of a user.
        root: The torchvision root to read MNIST from (`--data`), or None for the embedded copy.

    Returns:
        Read-only arrays dtype[rows, ...] by name, in the order of training.

    Raises:
        Trouble: The data cannot be loaded or does not follow the protocol, or a root is given for a task with its own
            data.
    """
    if task.shipped:
        return mnist.load_torchvision(root) if root else mnist.load()
    if root:
        raise Trouble(
            f"--data {root} says where to read MNIST from, and the task {task.name} has its own data. Leave out --data."
        )
    try:
        return load_data(task)
    except Trouble:
        raise
    # Not BaseException: Ctrl-C must still end the command.
    except (Exception, SystemExit) as error:
        raise Trouble(f"Task {task.name}: loading its data raised {explain_error(error)}") from error


def load_data(spec: CodeSpec) -> dict[str, np.ndarray]:
    """Loads the data of a user's task.

    Returns:
        Read-only arrays dtype[rows, ...] by name, all with the same number of rows.

    Raises:
        Trouble: The task, or what its `data` returned, does not follow the protocol.
        Exception: Whatever the user's code raises.
    """
    data = _protocol(spec)["data"]()
    needed = "a dict of arrays or tensors is needed that all have the same number of rows"
    if not isinstance(data, Mapping) or not data:
        raise Trouble(f"Task {spec.name}: data() returned {_described(data)}; {needed}.")
    arrays = {str(name): _array(values) for name, values in data.items()}
    # None for an array without dimensions, which has no rows at all; 0 rows are refused as well.
    rows = {name: len(values) if values.ndim else None for name, values in arrays.items()}
    if len(set(rows.values())) > 1 or not all(rows.values()):
        found = ", ".join(f"{name}: {'no' if count is None else count} rows" for name, count in rows.items())
        raise Trouble(f"Task {spec.name}: data() returned {found}; {needed}, and at least one.")
    return arrays


def _protocol(spec: CodeSpec) -> dict[str, Callable[..., Any]]:
    """The functions of a user's task by name; makes an instance of a class.

    Raises:
        Trouble: A function is missing.
    """
    found = load_code(spec)
    # A class is called without arguments, and its functions share the instance.
    task = found() if isinstance(found, type) else found
    check_protocol(task, name=spec.name)
    return {name: getattr(task, name) for name in PROTOCOL}


def check_protocol(task: object, *, name: str) -> None:
    """Checks that an object has the functions of a task.

    Args:
        task: The object.
        name: Name of the task, for the message.

    Raises:
        Trouble: A function is missing.
    """
    missing = [each for each in PROTOCOL if not callable(getattr(task, each, None))]
    if missing:
        raise Trouble(f"Task {name} has no {', '.join(f'{each}()' for each in missing)}. {WHAT['task']}")


def _array(values: Any) -> np.ndarray:
    """A read-only view of an array or a tensor."""
    # By attribute, so that torch need not be imported. A view: the caller's own array stays writeable.
    array: np.ndarray = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values).view()
    array.flags.writeable = False
    return array


def _described(value: object) -> str:
    return "an empty dict" if value == {} else type(value).__name__
