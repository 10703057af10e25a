"""What can be trained: the names of `--task`, and the protocol that a user's own task follows.

A task is a class or any object (`file.py:attr`, `module:attr`) with six plain functions; letters: B rows of a batch.

    data() -> dict[str, array or Tensor]                  all with the same number of rows, in the order of training
    model() -> nn.Module                                  freshly initialised, on the CPU
    optimizer(parameters, lr) -> torch.optim.Optimizer
    batch(data, start, stop) -> tuple[Tensor, ...]        rows start to stop of the data, fresh tensors on the CPU
    forward(model, batch) -> (output, target)             what the loss gets, on the device of the batch
    loss(output, target) -> scalar Tensor                 the baseline, `--loss builtin`

`data` is called once, in the driver; the others in the process that trains, with read-only NumPy arrays as data.
Only `load_task`, and `load_data` of a user's task, import torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.errors import Trouble
from parity.user_code import CodeSpec, load_code, parse_code

if TYPE_CHECKING:
    import torch

    Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# The shipped tasks: their modules, which have `LOSSES` of the names beside in place of `loss`.
TASKS = {"mnist-autoencoder": "parity.tasks.mnist_autoencoder", "mnist-classifier": "parity.tasks.mnist_classifier"}
SHIPPED_LOSSES = ("builtin", "numpy")

PROTOCOL = ("data", "model", "optimizer", "batch", "forward", "loss")


@dataclass(frozen=True)
class Task:
    """A loaded task; see this module's docstring for the functions.

    Attributes:
        losses: By name, what makes the loss.
        float64_forms: Losses whose float64 form is written out: (output, target) as arrays -> loss, gradient.
    """

    model: Callable[[], torch.nn.Module]
    optimizer: Callable[[Iterable[torch.nn.Parameter], float], torch.optim.Optimizer]
    batch: Callable[[Mapping[str, np.ndarray], int, int], tuple[torch.Tensor, ...]]
    forward: Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, torch.Tensor]]
    losses: Mapping[str, Callable[[], Loss]]
    float64_forms: Mapping[str, Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]]


def parse_task(text: str) -> CodeSpec:
    """Parses the value of `--task`, without importing torch or running the user's code.

    Raises:
        Trouble: The task is unknown, or its file, module or attribute is not there.
    """
    if text in TASKS:
        return CodeSpec(name=text, attr=text)
    unknown = f"Unknown task {text!r}. Known tasks: {', '.join(TASKS)}; or give module:attr or file.py:attr."
    return parse_code(text, kind="task", unknown=unknown)


def shipped_losses(spec: CodeSpec) -> tuple[str, ...]:
    """Names of the losses that the task brings; the first is the default baseline."""
    return SHIPPED_LOSSES if spec.shipped else ("builtin",)


def load_task(spec: CodeSpec) -> Task:
    """Imports or runs the task (and imports torch).

    Raises:
        Trouble: It does not have the functions of the protocol.
        Exception: Whatever the user's code raises.
    """
    if spec.shipped:
        module = importlib.import_module(TASKS[spec.name])
        return Task(module.model, module.optimizer, module.batch, module.forward, module.LOSSES, module.FLOAT64_FORMS)
    functions = _protocol(spec)
    named = {name: functions[name] for name in ("model", "optimizer", "batch", "forward")}
    return Task(**named, losses={"builtin": lambda: functions["loss"]}, float64_forms={})


def load_data(spec: CodeSpec) -> dict[str, np.ndarray]:
    """The data of a user's task, as read-only arrays of one length.

    Raises:
        Trouble: The task, or what its `data` returned, is not what the protocol wants.
        Exception: Whatever the user's code raises.
    """
    data = _protocol(spec)["data"]()
    wanted = "the protocol wants a dict of arrays or tensors that all have the same number of rows"
    if not isinstance(data, Mapping) or not data:
        raise Trouble(f"Task {spec.name}: data() returned {_described(data)}; {wanted}.")
    arrays = {str(name): _array(values) for name, values in data.items()}
    rows = {name: len(values) if values.ndim else None for name, values in arrays.items()}
    if len(set(rows.values())) > 1 or not all(rows.values()):
        found = ", ".join(f"{name}: {'no' if count is None else count} rows" for name, count in rows.items())
        raise Trouble(f"Task {spec.name}: data() returned {found}; {wanted}, and at least one.")
    return arrays


def _protocol(spec: CodeSpec) -> dict[str, Callable[..., Any]]:
    found = load_code(spec)
    task = found() if isinstance(found, type) else found
    missing = [name for name in PROTOCOL if not callable(getattr(task, name, None))]
    if missing:
        raise Trouble(
            f"Task {spec.name} has no {', '.join(f'{name}()' for name in missing)}. "
            f"A task is a class or object with the functions {', '.join(PROTOCOL)}."
        )
    return {name: getattr(task, name) for name in PROTOCOL}


def _array(values: Any) -> np.ndarray:
    """A read-only view of an array or a tensor."""
    array: np.ndarray = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values).view()
    array.flags.writeable = False
    return array


def _described(value: object) -> str:
    return "an empty dict" if value == {} else type(value).__name__
