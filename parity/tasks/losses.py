"""The shipped losses, and the loading of a user's own.

Shapes: B rows of a batch, F features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.ground.errors import Trouble
from parity.plan.user_code import CodeSpec, load_code
from parity.tasks import Task
from parity.tasks.outputs import Outputs

# (output, target) -> scalar tensor; either is a tensor or a tree of tensors.
Loss = Callable[[Outputs, Outputs], torch.Tensor]


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


class NumpyCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of logits and integer labels in NumPy on the CPU, log-sum-exp and gradient written out.

    Source:
        -log softmax(o)[t] = logsumexp(o) - o[t], and d/do of it is softmax(o) - onehot(t). The largest logit is taken
        out of the sum, as in P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and
        softmax functions", 2021.
    """

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean over the rows of output[B, C] of logsumexp(row) - row[target[B]]; the output's dtype[]."""
        logits, labels = output.detach().cpu().numpy(), target.detach().cpu().numpy()
        rows = np.arange(len(labels))
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        gradient = np.exp(log_probabilities)
        gradient[rows, labels] -= 1
        ctx.save_for_backward(torch.from_numpy(gradient).to(output.device))
        loss = -log_probabilities[rows, labels].mean()
        return torch.tensor(loss, dtype=output.dtype, device=output.device)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Gradient for the output, dtype[B, C]; none for the labels."""
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0] * gradient / len(gradient), None


def load_loss(spec: CodeSpec, task: Task) -> Loss:
    """Loads a loss, importing its module or running its file anew.

    Returns:
        A call (output, target) -> scalar: of an `autograd.Function` subclass its `apply`, of an `nn.Module` class an
        instance.

    Raises:
        Trouble: The attribute is not there, or is nothing that can be called.
        Exception: Whatever the user's code raises.
    """
    if spec.shipped:
        return task.losses[spec.attr]()
    attribute = load_code(spec)
    if isinstance(attribute, type) and issubclass(attribute, torch.autograd.Function):
        return attribute.apply  # type: ignore[no-any-return]  # torch leaves `apply` untyped
    if isinstance(attribute, type) and issubclass(attribute, nn.Module):
        return attribute()
    if isinstance(attribute, type) or not callable(attribute):
        raise Trouble(
            f"{spec.origin or 'The loss'}:{spec.attr} is {_description(attribute)}. "
            "A loss is a function, an nn.Module (class or instance) or an autograd.Function subclass."
        )
    return attribute  # a function, or an instance of a Module


def _description(attribute: object) -> str:
    return f"the class {attribute.__name__}" if isinstance(attribute, type) else f"of type {type(attribute).__name__}"
