"""The shipped losses, and the loading of a user's loss.

Shapes: B rows of a batch, F features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.ground.errors import Trouble
from parity.plan.definitions import WHAT
from parity.plan.user_code import CodeSpec, load_code
from parity.tasks import Task
from parity.tasks.outputs import Outputs

# (output, target) -> scalar tensor; either is a tensor or a tree of tensors.
Loss = Callable[[Outputs, Outputs], torch.Tensor]


class NumpyMSE(torch.autograd.Function):
    """Mean squared error computed in NumPy on the CPU, with its gradient written out.

    Source:
        d/do mean((o - t)**2) = 2 (o - t) / numel; docs.pytorch.org/docs/stable/notes/extending.html.
    """

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean of (output[B, F] - target[B, F])**2 over all B*F elements; the output's dtype[]."""
        ctx.save_for_backward(output, target)
        difference = output.detach().cpu().numpy() - target.detach().cpu().numpy()
        # NumPy's mean has neither the dtype of torch nor the device.
        return torch.tensor(np.mean(difference**2), dtype=output.dtype, device=output.device)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Gradient with respect to the output, dtype[B, F]; None for the target."""
        output, target = ctx.saved_tensors
        # In this order of operations, as the reference experiment defines it: another order may round otherwise.
        return grad_outputs[0] * 2 * (output - target) / output.numel(), None


def is_widened(dtype: torch.dtype, dtypes: Iterable[torch.dtype]) -> bool:
    """Whether a loss of this dtype is computed in float32 from narrower outputs, as loss(output.float(), …) is.

    >>> is_widened(torch.float32, [torch.bfloat16]), is_widened(torch.float64, [torch.float32])
    (True, False)
    """
    return dtype == torch.float32 and all(each.itemsize < dtype.itemsize for each in dtypes)


def mse_float64(output: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Computes the mean squared error and its gradient in float64 from the first operation on.

    Args:
        output: float[B, F], of any width.
        target: float[B, F], of any width.

    Returns:
        The loss, and its gradient with respect to the output, float64[B, F].

    >>> mse_float64(np.array([[1.0, 3.0]]), np.array([[0.0, 1.0]]))
    (2.5, array([[1., 2.]]))
    """
    # An array also where both have no dimension, of which NumPy would make a number.
    gradient = np.asarray(np.subtract(output, target, dtype=np.float64))
    flat = torch.from_numpy(gradient).reshape(-1)
    loss = float(torch.dot(flat, flat)) / output.size  # torch's thread count is pinned, that of NumPy's BLAS is not
    # In place, after the loss has been taken from the differences.
    gradient *= 2 / output.size
    return loss, gradient


class NumpyCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of logits and integer labels in NumPy on the CPU; log-sum-exp and gradient are written out.

    Source:
        -log softmax(o)[t] = logsumexp(o) - o[t], and its derivative d/do is softmax(o) - onehot(t). The largest logit
        is subtracted first, as in P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and
        softmax functions", 2021.
    """

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean over the rows of output[B, C] of logsumexp(row) - row[target[B]]; the output's dtype[]."""
        logits, labels = output.detach().cpu().numpy(), target.detach().cpu().numpy()
        rows = np.arange(len(labels))
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        # The softmax; computed in forward, where its parts are at hand.
        gradient = np.exp(log_probabilities)
        gradient[rows, labels] -= 1
        # The gradient itself is saved, so backward only has to scale it.
        ctx.save_for_backward(torch.from_numpy(gradient).to(output.device))
        loss = -log_probabilities[rows, labels].mean()
        return torch.tensor(loss, dtype=output.dtype, device=output.device)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Gradient with respect to the output, dtype[B, C]; None for the labels."""
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0] * gradient / len(gradient), None


def load_loss(spec: CodeSpec, task: Task) -> Loss:
    """Loads a loss: imports its module, or runs its file as a new module.

    Returns:
        A callable (output, target) -> scalar tensor: the `apply` of an `autograd.Function` subclass, an instance of an
        `nn.Module` class, or the object itself.

    Raises:
        Trouble: The attribute does not exist, or is not a loss.
        Exception: Whatever the user's code raises.
    """
    if spec.shipped:
        # Made anew for each trial: a module may keep state.
        return task.losses[spec.attr]()
    attribute = load_code(spec)
    # autograd.Function is called by `apply`; a class of modules has to be made first.
    if isinstance(attribute, type) and issubclass(attribute, torch.autograd.Function):
        return attribute.apply  # type: ignore[no-any-return]  # torch leaves `apply` untyped
    if isinstance(attribute, type) and issubclass(attribute, nn.Module):
        return attribute()
    check_kind(attribute, spec)
    return attribute  # type: ignore[return-value]  # a function, or an instance of a Module


def check_kind(attribute: object, spec: CodeSpec) -> None:
    """Checks that an object is of a kind that a loss can be, without calling it.

    Args:
        attribute: The object.
        spec: Where it comes from, for the message.

    Raises:
        Trouble: It is not.
    """
    made = isinstance(attribute, type) and issubclass(attribute, torch.autograd.Function | nn.Module)
    if not made and (isinstance(attribute, type) or not callable(attribute)):
        raise Trouble(
            f"{f'{spec.origin}:{spec.attr}' if spec.origin else f'The loss {spec.attr}'} is {_description(attribute)}. "
            f"{WHAT['loss']}"
        )


def _description(attribute: object) -> str:
    return f"the class {attribute.__name__}" if isinstance(attribute, type) else f"of type {type(attribute).__name__}"
