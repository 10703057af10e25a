"""Calls of a loss that may be anyone's: guarded, checked, and on tensors made for the one call.

Shapes: R rows; the output is dtype[R, ...], or a tree of such tensors whose floating-point ones are its parts.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from parity.ground.forked import end_copy
from parity.ground.quoting import explain_error
from parity.observe.audit import Oracle
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs, is_tree, map_tensors, parts, with_parts

Outcome = tuple[str, str]  # status, reason
Layout = Callable[[torch.Tensor], torch.Tensor]
PASSED: Outcome = ("passed", "")
GRAVITY = ("failed", "limited", "passed", "not applicable")  # of several outcomes of an item, the first of these counts
REASON_LENGTH = 300  # characters, so that a message of the loss that is a page long does not fill the report


class Broken(Exception):  # noqa: N818 - names what it reports: the loss did not do what was asked
    """The loss returned no scalar or no gradient; the message says what it returned."""


class Raised(Broken):
    """The loss or its backward raised; the message says what."""


@dataclass(frozen=True)
class Case:
    """What an item looks at.

    Attributes:
        loss: The loss that is judged: the candidate, or the baseline itself.
        baseline: The loss that the candidate is compared with.
        oracle: The baseline in float64.
        output: dtype[R, ...], or a tree.
        target: The target that belongs to the output.
        baseline_grads_u: The baseline's gradient error on this output in u, for each part of the output, at least 1.
        baseline_loss_u: The baseline's loss error on this output in u, at least 1.
        target_learns: Whether the target requires a gradient in this training.
    """

    loss: Loss
    baseline: Loss
    oracle: Oracle
    output: Outputs
    target: Outputs
    baseline_grads_u: tuple[float, ...]
    baseline_loss_u: float = 1.0
    target_learns: bool = False


@dataclass(frozen=True)
class Check:
    """An entry of the registry of items.

    Attributes:
        function: The check itself.
        needs: Names of earlier items that must have passed.
        unless_limited: Name of the earlier item that must not be limited.
        when_raised: The status of a loss that raises.
        when_broken: The status of a loss that returns no scalar or no gradient.
    """

    function: Callable[[Case], Outcome]
    needs: tuple[str, ...] = ()
    unless_limited: str = ""
    when_raised: str = "failed"
    when_broken: str = "failed"


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Silences warnings, and turns whatever the loss raises, `sys.exit` included, into `Raised`.

    Gradients are switched on, and back to what they were afterwards: after a loss that switches them off and leaves
    them off, the baseline would seem to have no gradient either.
    """
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            yield
    # Not BaseException: Ctrl-C must still end the command.
    except (Exception, SystemExit) as error:
        # On one line, since a reason stands in a table.
        text = " ".join(f"raised {explain_error(error)}".split())
        raise Raised(text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…") from error
    finally:
        end_copy()


def lay_out(values: Outputs, layout: Layout = torch.clone) -> Outputs:
    """Tensors of equal values for one call of the loss; not leaves, as in training, so that they may be written to.

    Args:
        values: The output or the target; dtype[...], or a tree. Stays as it is.
        layout: Makes each new tensor, a function of the old one; a contiguous copy by default.
    """
    # The layout comes after requires_grad_: its result has a graph, as an output that a model computed.
    if not is_tree(values):
        return layout(values.detach().requires_grad_())
    # Labels and masks cannot require a gradient.
    return map_tensors(lambda tensor: layout(tensor.detach().requires_grad_(tensor.is_floating_point())), values)


def cloned(values: Outputs) -> Outputs:
    """The same values in tensors of their own."""
    return map_tensors(torch.clone, values)


def call(loss: Loss, output: Outputs, target: Outputs) -> torch.Tensor:
    """Calls a loss.

    Returns:
        The loss, dtype[], with its graph.

    Raises:
        Raised: The loss raised.
        Broken: The loss returned something other than a real scalar tensor.
    """
    with guarded():
        value = loss(output, target)
    if not isinstance(value, torch.Tensor):
        raise Broken(f"returned {type(value).__name__}, a tensor is needed")
    # Not numel() == 1: the training accepts no [1] either.
    if value.shape != ():
        raise Broken(f"returned shape {list(value.shape)}, a scalar is needed")
    if value.is_complex():
        raise Broken(f"returned {value.dtype}, a real number is needed")
    return value


def learning(output: Outputs) -> list[torch.Tensor]:
    """The tensors of an output that a loss must have a gradient for: the only one, or the parts of a tree."""
    return parts(output) if is_tree(output) else [output]


def gradients(
    value: torch.Tensor, learns: Sequence[torch.Tensor], *, grad_output: float = 1.0
) -> list[torch.Tensor | None]:
    """The gradient for each part of the output; None for a part of a tree that the loss does not depend on.

    Args:
        value: The loss, dtype[].
        learns: The parts of the output; taken before the call, since a loss may take them out of its dict.
        grad_output: What the backward is called with.

    Raises:
        Raised: The backward raised.
        Broken: The loss has no gradient, or none for the output.
    """
    if not value.requires_grad:
        raise Broken("the loss has no gradient; a detour through NumPy needs a torch.autograd.Function")
    with guarded():
        # With allow_unused torch gives None instead of raising, so that the lines below can say which case it is.
        grads = torch.autograd.grad(value, learns, torch.full_like(value, grad_output), allow_unused=True)
    if all(grad is None for grad in grads):
        raise Broken("the loss has no gradient for its output, which it must depend on")
    # A sparse gradient is as right as a dense one, and the distances are taken of dense tensors.
    return [grad.to_dense() if grad is not None and grad.is_sparse else grad for grad in grads]


def backward(value: torch.Tensor, given: Outputs, *, grad_output: float = 1.0) -> list[torch.Tensor]:
    """The gradients as `gradients` returns them, with zeros for a part that the loss does not depend on."""
    grads = gradients(value, given, grad_output=grad_output)
    return [torch.zeros_like(part) if grad is None else grad for part, grad in zip(learning(given), grads, strict=True)]


def evaluate(
    loss: Loss,
    output: Outputs,
    target: Outputs,
    *,
    grad_output: float = 1.0,
    layout: Layout = torch.clone,
    target_layout: Layout = torch.clone,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Evaluates a loss on tensors made for this one call.

    Returns:
        The loss, dtype[], and the gradient for each part of the output, dtype[R, ...].

    Raises:
        Raised: The loss or its backward raised.
        Broken: The loss returned no scalar or no gradient.
    """
    given = lay_out(output, layout)
    # Before the call, since a loss may take tensors out of its dict.
    learns = learning(given)
    value = call(loss, given, map_tensors(target_layout, target))
    return value.detach(), backward(value, learns, grad_output=grad_output)


def floating(values: Outputs, dtype: torch.dtype) -> Outputs:
    """The same tensors with the floating-point ones in the dtype; labels stay as they are."""
    return map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, values)


def flipped(values: Outputs) -> Outputs:
    """The same tensors with their rows in reverse; tensors without a dimension stay as they are."""
    return map_tensors(lambda tensor: tensor.flip(0) if tensor.dim() else tensor, values)


def another(output: Outputs) -> Outputs:
    """Another output of the same shapes and dtypes: the rows in reverse, and half of each number."""
    # Half of a probability is one too, and a power of two changes no digit.
    return map_tensors(lambda tensor: tensor * 0.5 if tensor.is_floating_point() else tensor, flipped(output))


def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The elements of all tensors, one after the other; dtype[N]."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def put_back(elements: torch.Tensor, output: Outputs) -> Outputs:
    """The output with its parts replaced by these elements, dtype[N], as `joined` lists them."""
    if not is_tree(output):
        return elements.reshape(output.shape)
    pieces = torch.split(elements, [part.numel() for part in parts(output)])
    return with_parts(output, [piece.reshape(part.shape) for piece, part in zip(pieces, parts(output), strict=True)])
