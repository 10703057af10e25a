"""The audit: how far a loss and its output gradient are from the baseline's loss in float64, the oracle.

Oracle and candidate get the same output and target, so nothing that happened before the step matters. Everything here
runs on the CPU: a device that computes wrongly cannot vouch for itself, and not every device has float64.

Shapes: the output is dtype[...], of any shape, or a tree of such tensors; `u` is the unit roundoff of a tensor's dtype
(2**-24 for float32).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from parity.ground.errors import OracleUnavailable
from parity.ground.quoting import explain_error
from parity.observe.generators import generators_restored
from parity.observe.loss_state import state_restored
from parity.observe.settings import settings_restored
from parity.plan.pinned import pinned_modules
from parity.plan.user_code import CodeSpec
from parity.tasks import Task
from parity.tasks.losses import Loss, load_loss, mse_float64
from parity.tasks.outputs import Outputs, describe, is_tree, map_tensors, parts, with_parts

# The gradient for the output: one array, or an array for each part of a tree; float64[...].
Gradient = np.ndarray | list[np.ndarray]
# (output, target), both on the CPU -> loss, and gradient for the output.
Oracle = Callable[[Outputs, Outputs], tuple[float, Gradient]]
# Buffers of a baseline that is a module, by name; float64[...] or integers.
OracleState = dict[str, torch.Tensor]


def make_oracle(baseline: CodeSpec, task: Task) -> Oracle:
    """Returns the baseline's float64 form; for a loss that has none, the loss itself on float64 tensors.

    Args:
        baseline: The loss that the candidate is compared with.
        task: The task, which has the float64 forms of its shipped losses.

    Raises:
        Trouble: As `load_loss`.
        Exception: Whatever the user's code raises.
    """
    if baseline.shipped and baseline.attr in task.float64_forms:
        form = task.float64_forms[baseline.attr]
        return lambda output, target: form(_array(output), _array(target))
    loss = load_loss(baseline, task)
    # A file is run anew for each loss that is loaded from it, but not the files that it imports; everything else may
    # share its state with the training.
    helpers = pinned_modules(baseline.files)
    return _widened(loss, shared=_shared(loss) if baseline.path is None else helpers.definitions)


def oracle_of(criterion: Loss) -> Oracle:
    """Returns the float64 form of a loss object: for `nn.MSELoss` written out, else the loss on float64 tensors."""
    # Not isinstance: a subclass may compute something else.
    if type(criterion) is nn.MSELoss and criterion.reduction == "mean":
        return lambda output, target: mse_float64(_array(output), _array(target))
    return _widened(criterion, shared=_shared(criterion))


def gradients(found: Gradient) -> list[np.ndarray]:
    """An oracle's gradient as a list, with one array for each part of the output; float64[...]."""
    return found if isinstance(found, list) else [found]


@dataclass(frozen=True, eq=False)
class Measured:
    """The errors of one loss and its output gradient, and what they were measured against.

    Attributes:
        grad_error_u: ||g - g64|| / (u ||g64||) of the worst part of the output.
        loss_error_u: |loss - loss64| / (u |loss64|).
        grad_ratio: <g, g64> / <g64, g64> of that part: 1 for a right gradient, c for one that is c times too large.
        grad_u: u of that part's dtype.
        worst: Number of that part.
        loss64: The oracle's loss.
        exact: The oracle's gradient for each part; float64[...].
        units: u of each part's dtype.
    """

    grad_error_u: float
    loss_error_u: float
    grad_ratio: float
    grad_u: float
    worst: int
    loss64: float
    exact: list[np.ndarray]
    units: list[float]


def errors(
    oracle: Oracle,
    output: Outputs,
    target: Outputs,
    *,
    loss: torch.Tensor,
    output_grad: torch.Tensor | Sequence[torch.Tensor],
) -> tuple[float, float, float]:
    """The gradient error, the loss error and the ratio of `measure`, which has the same arguments.

    Raises:
        OracleUnavailable: The baseline's loss raised in float64, or does not compute in float64.
    """
    found = measure(oracle, output, target, loss=loss, output_grad=output_grad)
    return found.grad_error_u, found.loss_error_u, found.grad_ratio


def measure(
    oracle: Oracle,
    output: Outputs,
    target: Outputs,
    *,
    loss: torch.Tensor,
    output_grad: torch.Tensor | Sequence[torch.Tensor],
) -> Measured:
    """Measures how far the loss and the output gradient of one step are from the oracle's.

    Args:
        oracle: The baseline in float64, from `make_oracle` or `oracle_of`.
        output: What the loss was given; dtype[...], or a tree.
        target: What the loss was given.
        loss: What the loss returned; dtype[].
        output_grad: What its backward returned, of the output's shape and dtype; for a tree one tensor for each part.

    Returns:
        The errors; for a tree the gradient's are those of the part with the largest error. An error is 0 where both
        sides are equal, and inf where only one is finite or only the oracle is zero; where both have the same NaNs and
        infinities, the finite elements decide.

    Raises:
        OracleUnavailable: The baseline's loss raised in float64, or does not compute in float64.
    """
    # Each part has the u of its own dtype.
    units = [torch.finfo(part.dtype).eps / 2 for part in parts(output)]
    loss64, found = oracle(map_tensors(torch.Tensor.detach, output), map_tensors(torch.Tensor.detach, target))
    loss_error = _relative_error(float(loss.detach()), loss64, loss_unit(loss, units))
    grads = [output_grad] if isinstance(output_grad, torch.Tensor) else list(output_grad)
    grads64 = gradients(found)
    # Norm of the gradient over all parts. One tensor is its own whole, so there is nothing to measure it beside.
    whole = math.sqrt(sum(_dots(each, each)[0] for each in grads64)) if len(grads64) > 1 else 0.0
    measured = [
        # A part whose gradient is nothing but rounding beside the whole is measured beside the whole.
        _gradient_error(_array(grad), grad64, unit, least=unit * whole)
        for grad, grad64, unit in zip(grads, grads64, units, strict=True)
    ]
    # Every comparison with NaN is False, so max() would find NaN or not depending on the order: it counts as the worst.
    worst = max(range(len(measured)), key=lambda part: _nan_last(measured[part][0]))
    grad_error, ratio = measured[worst]
    return Measured(grad_error, loss_error, ratio, units[worst], worst, loss64, grads64, units)


def loss_unit(loss: torch.Tensor, units: Sequence[float]) -> float:
    """The u that the error of a loss is counted in.

    Args:
        loss: The loss; dtype[].
        units: u of each part of the output.

    Returns:
        That of the loss's own dtype where every part is narrower (a float32 loss of a bfloat16 output is computed in
        float32); else that of the coarsest part, since the one loss is made of all of them.
    """
    own = torch.finfo(loss.dtype).eps / 2
    return own if own < min(units) else max(units)


def _gradient_error(grad: np.ndarray, grad64: np.ndarray, unit: float, *, least: float) -> tuple[float, float]:
    """||g - g64|| / (u ||g64||), with ||g64|| counting for at least `least`, and <g, g64> / <g64, g64>."""
    with np.errstate(invalid="ignore"):  # inf - inf; looked at below
        # An array also where both have no dimension, of which NumPy would make a number.
        difference = np.asarray(np.subtract(grad, grad64, dtype=np.float64))
    squared_error, product, squared_size = _dots(difference, grad64)
    # The sums are finite only if all elements are, so the arrays are searched only where they are needed.
    if not math.isfinite(squared_error + squared_size):
        # In the dtype of the gradient: what overflows there is an infinity on both sides.
        if not _same_nonfinite(grad, grad64.astype(grad.dtype)):
            return math.inf, math.nan
        finite = np.isfinite(grad64)
        squared_error, product, squared_size = _dots(difference[finite], grad64[finite])
    return (
        _ratio(math.sqrt(squared_error), unit * max(least, math.sqrt(squared_size))),
        1 + product / squared_size if squared_size else math.nan,  # <g, g64> = <g - g64, g64> + <g64, g64>
    )


# What an oracle shares with a training.
Shared = Callable[[], tuple[object, ...]]


def _shared(loss_function: Loss) -> Shared:
    """What the oracle of a loss shares with a training that calls the same loss."""
    # The oracle has a copy of a module, but not of its class, and of the globals that its code names.
    kept = (type(loss_function) if isinstance(loss_function, nn.Module) else loss_function,)
    return lambda: kept


def _widened(loss_function: Loss, *, shared: Shared) -> Oracle:
    """Returns an oracle that evaluates the loss on float64 tensors, and its gradient with autograd.

    Args:
        loss_function: The loss.
        shared: Gives what it shares with a training, at each call: it may import more as it goes.
    """
    wide = loss_function
    if isinstance(loss_function, nn.Module):
        try:
            wide = _wide_copy(loss_function)
        except OracleUnavailable as error:  # a training must go on without an audit, too
            return _unavailable(str(error))
    return _Widened(wide, shared, loss_function if isinstance(loss_function, nn.Module) else None)


class _Widened:
    """A loss evaluated on float64 tensors.

    Its calls leave nothing behind: generators, settings, the buffers of a module (which is copied) and, of a loss that
    is shared with a training, its state are restored. The calls within `audited` are those that go on from state to
    state, as the calls of the loss do.

    Attributes:
        watch: Called before the generators are restored; None outside of `audited`.
    """

    def __init__(self, loss_function: Loss, shared: Shared, trained: nn.Module | None = None) -> None:
        self._loss = loss_function
        self._trained = trained
        self._shared = shared
        self.watch: Callable[[], None] | None = None

    @property
    def module(self) -> nn.Module | None:
        """The module that keeps state, or None."""
        return self._loss if isinstance(self._loss, nn.Module) else None

    def __call__(self, output: Outputs, target: Outputs) -> tuple[float, Gradient]:
        """The loss, and its gradient for the output.

        Raises:
            OracleUnavailable: The loss raised in float64, or does not compute in float64.
        """
        leaves = [part.double().requires_grad_() for part in parts(output)]
        before = {} if self.watch else oracle_state(self)
        if self._trained is not None:
            # The training may train the loss's own parameters, too: the copy has those of its start.
            assert isinstance(self._loss, nn.Module), "a copy of a module"
            with torch.no_grad():
                for copied, own in zip(self._loss.parameters(), self._trained.parameters(), strict=True):
                    copied.copy_(own)
        try:
            with generators_restored(), settings_restored(), state_restored(*self._shared()), torch.enable_grad():
                loss = self._loss(with_parts(output, leaves), map_tensors(_wide, target))
                # A loss need not depend on each part of a tree, but on the only tensor it must.
                grads = torch.autograd.grad(loss, leaves, allow_unused=is_tree(output))
                if self.watch:
                    self.watch()
                else:
                    restore_oracle(self, before)
        except Exception as error:  # a user's baseline may raise anything
            raise OracleUnavailable(f"in float64 it raised {explain_error(error)}") from error
        # A loss that narrows inside has the rounding errors that an oracle must not have.
        if loss.dtype != torch.float64:
            raise OracleUnavailable(f"for float64 tensors it returned {loss.dtype}")
        arrays = [
            np.zeros(tuple(leaf.shape)) if grad is None else grad.numpy()
            for leaf, grad in zip(leaves, grads, strict=True)
        ]
        return float(loss.detach()), arrays if is_tree(output) else arrays[0]


@contextlib.contextmanager
def audited(oracle: Oracle, watch: Callable[[], None]) -> Iterator[None]:
    """Within the block, the oracle is called for a step of the training: a state that it keeps goes on.

    Args:
        oracle: The oracle.
        watch: Called at the end of each call, before the generators are restored.
    """
    if isinstance(oracle, _Widened):  # a closed form draws nothing
        oracle.watch = watch
    try:
        yield
    finally:
        if isinstance(oracle, _Widened):
            oracle.watch = None


def oracle_state(oracle: Oracle) -> OracleState:
    """Copies of the buffers that the oracle may change when it is called; empty for one that has none."""
    module = oracle.module if isinstance(oracle, _Widened) else None
    return {name: buffer.detach().clone() for name, buffer in module.named_buffers()} if module else {}


def restore_oracle(oracle: Oracle, state: OracleState) -> None:
    """Gives an oracle the state that `oracle_state` returned."""
    module = oracle.module if isinstance(oracle, _Widened) else None
    for name, buffer in state.items():
        assert module is not None, "only a module has a state"
        owner, _, last = name.rpartition(".")
        # Not in place: a forward that assigns its buffer anew, as many do, leaves another tensor there each time.
        module.get_submodule(owner)._buffers[last] = buffer.clone()


def _wide_copy(module: nn.Module) -> nn.Module:
    """A copy in float64: double() converts a module in place, and this one may be in use in a training.

    Raises:
        OracleUnavailable: The module cannot be copied.
    """
    try:
        with generators_restored():
            return copy.deepcopy(module).double()
    except Exception as error:  # a user's module may raise anything
        raise OracleUnavailable(f"it cannot be copied: {explain_error(error)}") from error


def _unavailable(reason: str) -> Oracle:
    """An oracle that has no answer."""

    def oracle(*_: Outputs) -> tuple[float, Gradient]:
        raise OracleUnavailable(reason)

    return oracle


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as an array; bfloat16, which NumPy does not have, as float32."""
    if not isinstance(tensor, torch.Tensor):
        raise OracleUnavailable(f"the criterion takes one tensor, and was given {describe(tensor)}")
    host = tensor.detach()
    return (host.float() if host.dtype == torch.bfloat16 else host).numpy()


def _dots(difference: np.ndarray, grad64: np.ndarray) -> tuple[float, float, float]:
    """The products <d, d>, <d, g> and <g, g>, summed by torch, whose threads are pinned."""
    left, right = torch.from_numpy(difference).reshape(-1), torch.from_numpy(grad64).reshape(-1)
    return float(torch.dot(left, left)), float(torch.dot(left, right)), float(torch.dot(right, right))


def _nan_last(value: float) -> float:
    """A key for max(): the value, with NaN as the largest."""
    return math.inf if math.isnan(value) else value


def _same_nonfinite(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether NaNs and infinities are at the same places, the infinities with the same sign."""
    left, right = (np.where(np.isfinite(side), 0, side) for side in (left, right))
    return np.array_equal(left, right, equal_nan=True)


def _relative_error(value: float, exact: float, unit: float) -> float:
    # Infinities of one sign are equal; NaN is never equal to itself, so isnan has to find two of them.
    if not (math.isfinite(value) and math.isfinite(exact)):
        return 0.0 if value == exact or (math.isnan(value) and math.isnan(exact)) else math.inf
    return _ratio(abs(value - exact), unit * abs(exact))


def _ratio(error: float, size: float) -> float:
    # 0 / 0 is not an error here; any other error beside an exact 0 is infinite.
    return 0.0 if error == 0 else error / size if size else math.inf
