"""The shipped losses, and the loading of a user's own.

Shapes: B rows of a batch, F features.
"""

import importlib
import linecache
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.errors import Trouble
from parity.loss_spec import LossSpec

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class NumpyMSE(torch.autograd.Function):
    """Mean squared error whose forward runs in NumPy on the CPU, with the gradient written out.

    Source:
        d/do mean((o - t)**2) = 2 (o - t) / numel; docs.pytorch.org/docs/stable/notes/extending.html.
    """

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean of (output[B, F] - target[B, F])**2 over all B*F elements; the output's dtype[]."""
        ctx.save_for_backward(output, target)
        difference = output.detach().cpu().numpy() - target.detach().cpu().numpy()
        return torch.tensor(np.mean(difference**2), dtype=output.dtype, device=output.device)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Gradient for the output, dtype[B, F]; none for the target."""
        output, target = ctx.saved_tensors
        return grad_outputs[0] * 2 * (output - target) / output.numel(), None


def mse_float64(output: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean squared error and its gradient for the output, in float64 from the first operation on.

    Args:
        output: float[B, F], of any width.
        target: As the output.

    Returns:
        The loss, and the gradient as float64[B, F].
    """
    gradient = np.subtract(output, target, dtype=np.float64)
    flat = torch.from_numpy(gradient).reshape(-1)
    loss = float(torch.dot(flat, flat)) / output.size  # torch's threads are pinned, NumPy's BLAS has its own
    gradient *= 2 / output.size
    return loss, gradient


LOSSES: dict[str, Callable[[], Loss]] = {"builtin": nn.MSELoss, "numpy": lambda: NumpyMSE.apply}
# Losses whose float64 form is written out: the audit need not send float64 tensors through autograd.
FLOAT64_FORMS = {"builtin": mse_float64, "numpy": mse_float64}


def load_loss(spec: LossSpec) -> Loss:
    """Loads a loss, importing its module or running its file anew.

    Returns:
        A call (output, target) -> scalar: of an `autograd.Function` subclass its `apply`, of an `nn.Module` class an
        instance.

    Raises:
        Trouble: The attribute is not there, or is nothing that can be called.
        Exception: Whatever the user's code raises.
    """
    if spec.path is None and spec.module is None:
        return LOSSES[spec.attr]()
    module = importlib.import_module(spec.module) if spec.module else _run_file(spec)
    origin = spec.module or spec.path
    if not hasattr(module, spec.attr):
        raise Trouble(f"{origin} has no attribute {spec.attr!r}. Check the spelling.")
    attribute = getattr(module, spec.attr)
    if isinstance(attribute, type) and issubclass(attribute, torch.autograd.Function):
        return attribute.apply  # type: ignore[no-any-return]  # torch leaves `apply` untyped
    if isinstance(attribute, type) and issubclass(attribute, nn.Module):
        return attribute()
    if isinstance(attribute, type) or not callable(attribute):
        raise Trouble(
            f"{origin}:{spec.attr} is {_description(attribute)}. "
            "A loss is a function, an nn.Module (class or instance) or an autograd.Function subclass."
        )
    return attribute  # type: ignore[no-any-return]  # a function, or an instance of a Module


def _description(attribute: object) -> str:
    return f"the class {attribute.__name__}" if isinstance(attribute, type) else f"of type {type(attribute).__name__}"


def _run_file(spec: LossSpec) -> types.ModuleType:
    """Runs the file's text as a new module, so that no trial sees the globals of another."""
    assert spec.path is not None and spec.source is not None
    name = f"parity_loss_{spec.sha256}"
    module = types.ModuleType(name)
    module.__file__ = spec.path
    # For tracebacks and debuggers where the file itself is not: on a worker of another machine.
    linecache.cache[spec.path] = (len(spec.source), None, spec.source.splitlines(keepends=True), spec.path)
    folder = str(Path(spec.path).parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that the file's neighbours never hide an installed module
    sys.modules[name] = module  # dataclasses and torch.compile look their module up
    exec(compile(spec.source, spec.path, "exec"), module.__dict__)
    return module
