"""The items of the loss contract: a small function each, on a loss that may be anybody's.

Shapes: R rows; the output is dtype[R, ...] and contiguous; `u` is the unit roundoff of its dtype.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.gradcheck import GradcheckError, gradcheck

from parity.audit import Oracle, OracleUnavailable, errors
from parity.losses import Loss

Finding = tuple[str, str]  # status, reason
Layout = Callable[[torch.Tensor], torch.Tensor]
PASSED: Finding = ("passed", "")
GRAVITY = ("failed", "limited", "passed", "not applicable")  # where an item has several findings, the first is its own

# Right implementations part by up to 6 times the baseline's own error (DESIGN.md, section 6), wrong ones by over 168 u.
ERROR_FACTOR = 16
# The most that the condition of the problem counts for: 8 * 16 u is still less than 168 u.
CONDITION_LIMIT_U = 8
# Two evaluations of one loss may each be off by that much, and sum in another order.
REPEAT_FACTOR = 64
# A sum over n elements is off by about sqrt(n) u, in whatever order. Source: N. J. Higham, P. Théry, "Sharper
# probabilistic backward error analysis", 2019.
SUM_FACTOR = 64
GRADCHECK_ELEMENTS = 96
# Of the time that is left: baseline and candidate each take it once, and other items follow.
GRADCHECK_SHARE = 0.2
GRADCHECK_CALLS = 3  # for each element: two of the loss, and room
REPEATS = 3  # with another call before each, so that what is kept of it shows
SECOND_DERIVATIVE_TOLERANCE = 1e-3
REASON_LENGTH = 300

# Reads and writes the state of each generator that a loss might share with the training.
GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "torch's": (torch.get_rng_state, torch.set_rng_state),
    "NumPy's": (np.random.get_state, np.random.set_state),
    "Python's": (random.getstate, random.setstate),
    "CUDA's": (  # where nothing has used CUDA yet there is no state, and asking would create a context
        lambda: torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state_all,
    ),
}


class Broken(Exception):  # noqa: N818 - names what it reports: the loss did not do what was asked
    """The loss gave no scalar or no gradient; the message says what it gave."""


class Raised(Broken):
    """The loss or its backward raised; the message says what."""


@dataclass(frozen=True)
class Case:
    """What an item looks at.

    Attributes:
        loss: What is judged: the candidate, or the baseline itself.
        baseline: What it is held to.
        oracle: The baseline in float64.
        output: dtype[R, ...].
        target: What belongs to it.
        own_grad_u: The baseline's own gradient error on this output, in u.
        own_loss_u: The baseline's own loss error on this output, in u.
        target_learns: Whether the target requires a gradient in this training.
        deadline_s: On the monotonic clock; a slow loss is looked at less closely.
    """

    loss: Loss
    baseline: Loss
    oracle: Oracle
    output: torch.Tensor
    target: torch.Tensor
    own_grad_u: float = 1.0
    own_loss_u: float = 1.0
    target_learns: bool = False
    deadline_s: float = math.inf


@dataclass(frozen=True)
class Check:
    """An entry of the registry.

    Attributes:
        function: The item.
        needs: Items before it that must have passed.
        unless_limited: The item before it that must not be limited.
        when_raised: The status of a loss that raises.
        when_broken: The status of a loss that gives no scalar or no gradient.
    """

    function: Callable[[Case], Finding]
    needs: tuple[str, ...] = ()
    unless_limited: str = ""
    when_raised: str = "failed"
    when_broken: str = "failed"


# Calls of the loss


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """Silences warnings, and turns whatever the loss raises, `sys.exit` included, into `Raised`.

    A loss that switches gradients off and leaves them so would otherwise be taken for a baseline that has none.
    """
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            yield
    except (Exception, SystemExit) as error:
        text = " ".join(f"raised {type(error).__name__}: {error}".split())
        raise Raised(text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…") from error


def _lay_out(values: torch.Tensor, layout: Layout = torch.clone) -> torch.Tensor:
    """A tensor of equal values for the loss to use up; no leaf, as in training, so that it may be written to."""
    return layout(values.detach().requires_grad_())


def _call(loss: Loss, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    with _guarded():
        value = loss(output, target)
    if not isinstance(value, torch.Tensor):
        raise Broken(f"returned {type(value).__name__}, a tensor is needed")
    if value.shape != ():
        raise Broken(f"returned shape {list(value.shape)}, a scalar is needed")
    if value.is_complex():
        raise Broken(f"returned {value.dtype}, a real number is needed")
    return value


def _backward(value: torch.Tensor, output: torch.Tensor, *, grad_output: float = 1.0) -> torch.Tensor:
    if not value.requires_grad:
        raise Broken("the loss has no gradient; a detour through NumPy needs a torch.autograd.Function")
    with _guarded():
        (grad,) = torch.autograd.grad(value, output, torch.full_like(value, grad_output), allow_unused=True)
    if grad is None:
        raise Broken("the loss has no gradient for its output, which it must depend on")
    return grad.to_dense() if grad.is_sparse else grad


def _evaluate(
    loss: Loss,
    output: torch.Tensor,
    target: torch.Tensor,
    *,
    grad_output: float = 1.0,
    layout: Layout = torch.clone,
    target_layout: Layout = torch.clone,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, dtype[], and gradient for the output, dtype[R, ...], of tensors made for this one call."""
    given = _lay_out(output, layout)
    value = _call(loss, given, target_layout(target))
    return value.detach(), _backward(value, given, grad_output=grad_output)


# Distances


def _errors(
    case: Case, loss: Loss, output: torch.Tensor, target: torch.Tensor, *, grad_output: float
) -> tuple[float, float, float]:
    """Gradient error in u, loss error in u and ratio, as `audit.errors`, of a loss on any output."""
    value, grad = _evaluate(loss, output, target, grad_output=grad_output)
    unscaled = grad.cpu().double() / grad_output  # wider, so that nothing is lost
    return errors(_exact(case), output.cpu(), target.cpu(), loss=value.cpu(), output_grad=unscaled)


def _exact(case: Case) -> Oracle:
    """The oracle, which may be the user's baseline, kept from warning, from exiting and from what is not its own."""

    def oracle(output: torch.Tensor, target: torch.Tensor) -> tuple[float, np.ndarray]:
        try:
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")
                return case.oracle(output.clone(), target.clone())
        except SystemExit as error:
            raise OracleUnavailable(f"in float64 it raised SystemExit: {error}") from error

    return oracle


def own_errors(
    case: Case, output: torch.Tensor, target: torch.Tensor, *, grad_output: float = 1.0
) -> tuple[float, float]:
    """The baseline's largest gradient and loss error, in u, over four outputs that are nearly this one.

    One alone may be exact by luck, and right candidates would then be held to that luck. Nor is the baseline's error
    taken to be less than what one rounding of the output does to the exact result, within limits: at logits of 100 and
    more it is right to the last digits, which others cannot be.

    Raises:
        Broken: The baseline raises, or has no gradient.
        OracleUnavailable: It has no float64 form.
    """
    eps = torch.finfo(output.dtype).eps
    nearby = [output * (1 + 2 * k * eps) for k in range(4)]
    measured = [_errors(case, case.baseline, near, target, grad_output=grad_output) for near in nearby]
    grad_u, loss_u = _conditions(case, output.cpu(), target.cpu())
    return (
        max(min(grad_u, CONDITION_LIMIT_U), *(error[0] for error in measured)),
        max(min(loss_u, CONDITION_LIMIT_U), *(error[1] for error in measured)),
    )


def _conditions(case: Case, output: torch.Tensor, target: torch.Tensor) -> tuple[float, float]:
    """How far gradient and loss move, in u, where each element of the output moves by u or -u: the largest of four.

    Source:
        N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 1.6: forward error is at most
        about the condition number times the backward error.
    """
    oracle, u = _exact(case), torch.finfo(output.dtype).eps / 2
    generator = torch.Generator().manual_seed(0)  # of our own: the same perturbation each time
    wide = output.double()
    loss, grad = oracle(wide, _floating(target, torch.float64))
    grad_u = loss_u = 0.0
    for _ in range(4):
        signs = torch.randint(2, wide.shape, generator=generator, dtype=torch.float64) * 2 - 1
        near_loss, near_grad = oracle(wide * (1 + u * signs), _floating(target, torch.float64))
        moved, size = float(np.linalg.norm(near_grad - grad)), float(np.linalg.norm(grad))
        grad_u = max(grad_u, moved / (u * size) if size else 0.0)
        loss_u = max(loss_u, abs(near_loss - loss) / (u * abs(loss)) if loss else 0.0)
    return (grad_u if math.isfinite(grad_u) else 0.0), (loss_u if math.isfinite(loss_u) else 0.0)


def _near_oracle(
    case: Case,
    output: torch.Tensor,
    target: torch.Tensor,
    *,
    grad_output: float = 1.0,
    own_u: tuple[float, float] = (0.0, 0.0),
) -> Finding:
    """Whether loss and gradient are as near the oracle as the baseline's; `own_u` are the least of its own errors."""
    own_grad_u, own_loss_u = own_errors(case, output, target, grad_output=grad_output)
    own_grad_u, own_loss_u = max(own_grad_u, own_u[0]), max(own_loss_u, own_u[1])
    grad_u, loss_u, ratio = _errors(case, case.loss, output, target, grad_output=grad_output)
    allowed_u = ERROR_FACTOR * max(1.0, own_grad_u)
    if not (math.isfinite(grad_u) and grad_u <= allowed_u):
        return "failed", f"the gradient is off by {grad_u:.4g} u, {allowed_u:.4g} are allowed; ratio {ratio:.7g}"
    allowed_u = max(SUM_FACTOR * math.sqrt(output.numel()), ERROR_FACTOR * own_loss_u)
    if not (math.isfinite(loss_u) and loss_u <= allowed_u):
        return "failed", f"the loss is off by {loss_u:.4g} u, {allowed_u:.4g} are allowed"
    return PASSED


def _distance_u(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """||actual - expected|| / (u ||expected||), with u of the expected dtype; inf where either is not finite."""
    left, right = actual.detach().cpu().double(), expected.detach().cpu().double()
    error, size = float((left - right).norm()), float(right.norm())
    if not math.isfinite(error):
        return math.inf
    return 0.0 if error == 0 else error / (size * torch.finfo(expected.dtype).eps / 2) if size else math.inf


def _repeats(case: Case, grad: torch.Tensor, expected: torch.Tensor, where: str) -> Finding:
    """Whether a gradient is another of the same loss, to rounding."""
    distance_u, allowed_u = _distance_u(grad, expected), REPEAT_FACTOR * max(1.0, case.own_grad_u)
    if distance_u <= allowed_u:
        return PASSED
    return "failed", f"{where} the gradient is {distance_u:.4g} u away, {allowed_u:.4g} are allowed"


def _same_result(case: Case, layout: Layout, where: str, *, target_layout: Layout = torch.clone) -> Finding:
    """Whether tensors that lie otherwise in memory give the loss and gradient of contiguous ones."""
    expected_loss, expected_grad = _evaluate(case.loss, case.output, case.target)
    loss_value, grad = _evaluate(case.loss, case.output, case.target, layout=layout, target_layout=target_layout)
    allowed_u = 2 * max(SUM_FACTOR * math.sqrt(case.output.numel()), ERROR_FACTOR * case.own_loss_u)
    if not (_same_bits(loss_value, expected_loss) or _distance_u(loss_value, expected_loss) <= allowed_u):
        return "failed", f"{where} the loss is {float(loss_value):.7g} in place of {float(expected_loss):.7g}"
    return _repeats(case, grad, expected_grad, where)


def _floating(target: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The target in a dtype; labels stay as they are."""
    return target.to(dtype) if target.is_floating_point() else target


def _same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    if (left.shape, left.dtype) != (right.shape, right.dtype):
        return False
    return torch.equal(*(side.detach().contiguous().reshape(-1).view(torch.uint8) for side in (left, right)))


def _another(output: torch.Tensor) -> torch.Tensor:
    """Another output of the same shape."""
    return output.flip(0) * 0.5


# Items


def _scalar(case: Case) -> Finding:
    _call(case.loss, _lay_out(case.output), case.target.clone())
    return PASSED


def _dtype_and_device(case: Case) -> Finding:
    value = _call(case.loss, _lay_out(case.output), case.target.clone())
    if value.dtype != case.output.dtype:
        return "failed", f"returned {value.dtype}, the output's {case.output.dtype} is needed"
    if value.device != case.output.device:
        return "failed", f"returned a tensor on {value.device}, the output's {case.output.device} is needed"
    return PASSED


def _gradient(case: Case) -> Finding:
    _, grad = _evaluate(case.loss, case.output, case.target)
    if (grad.shape, grad.dtype) != (case.output.shape, case.output.dtype):
        needed = f"{case.output.dtype}{list(case.output.shape)}"
        return "failed", f"the gradient is {grad.dtype}{list(grad.shape)}, {needed} is needed"
    nonfinite = grad.numel() - int(grad.isfinite().sum())
    return PASSED if not nonfinite else ("failed", f"{nonfinite} of {grad.numel()} gradient elements are not finite")


def _value(case: Case) -> Finding:
    return _near_oracle(case, case.output, case.target)


def _grad_output(case: Case) -> Finding:
    grads = {
        factor: _evaluate(case.loss, case.output, case.target, grad_output=factor)[1]
        for factor in (1.0, 3.0, -2.0, 2.0**10, 0.0)  # loss scaling multiplies by powers of two
    }
    unscaled = grads[1.0]
    if unscaled.any() and all(torch.equal(grad, unscaled) for grad in grads.values()):
        return "failed", "grad_output is ignored: with 3 the gradient is the same as with 1"
    for factor, grad in grads.items():
        if factor == 0:
            if grad.any():
                return "failed", "with a grad_output of 0 the gradient is not zero"
        elif _repeats(case, grad, unscaled * factor, "") != PASSED:
            wide, one = grad.cpu().double(), unscaled.cpu().double()
            ratio = float((wide * one).sum() / one.square().sum())
            return "failed", f"with a grad_output of {factor:g} the gradient is {ratio:.7g} times the one with 1"
    return PASSED


def _repeatable(case: Case) -> Finding:
    first = _evaluate(case.loss, case.output, case.target)
    for _ in range(REPEATS):
        _evaluate(case.loss, _another(case.output), case.target.flip(0) if case.target.dim() else case.target)
        again = _evaluate(case.loss, case.output, case.target)
        for name, left, right in zip(("loss", "gradient"), first, again, strict=True):
            if not _same_bits(left, right):
                by = f"by {_distance_u(right, left):.4g} u"
                return "failed", f"the {name} of equal tensors differs from call to call, {by}"
    return PASSED


def _mutation(case: Case) -> Finding:
    given, target = _lay_out(case.output), case.target.clone()
    value = _call(case.loss, given, target)
    with contextlib.suppress(Broken):  # that is for "gradient" to say; what was written to is seen all the same
        _backward(value, given)
    if not _same_bits(target, case.target):
        return "failed", "changes its target in place; work on a copy, target.clone()"
    if not _same_bits(given, case.output):
        return "failed", "changes its output in place; work on a copy, output.clone()"
    return PASSED


def _random_generators(case: Case) -> Finding:
    # A generator that an earlier call has seeded would look untouched when it is seeded again.
    torch.rand((), device=case.output.device), torch.rand(()), np.random.random(), random.random()
    before = {name: _frozen(get()) for name, (get, _) in GENERATORS.items()}
    given = _lay_out(case.output)
    value = _call(case.loss, given, case.target.clone())
    with contextlib.suppress(Broken):  # that is for "gradient" to say
        _backward(value, given)
    touched = [name for name, (get, _) in GENERATORS.items() if _frozen(get()) != before[name]]
    return ("failed", f"draws from or seeds {' and '.join(touched)} global generator") if touched else PASSED


def _frozen(state: object) -> object:
    """A generator's state as something that can be compared."""
    if isinstance(state, tuple | list):
        return tuple(_frozen(part) for part in state)
    return np.asarray(state).tobytes() if isinstance(state, torch.Tensor | np.ndarray) else state


def _every_second(dim: int) -> Layout:
    """Lays values out at every second place along a dimension, with NaN (among integers 0) between them."""

    def layout(values: torch.Tensor) -> torch.Tensor:
        between = torch.full_like(values, math.nan if values.is_floating_point() else 0)
        beside = dim % values.dim() + 1
        return torch.stack((values, between), dim=beside).select(beside, 0)

    return layout


def _non_contiguous(case: Case) -> Finding:
    for dim, name in ((-1, "columns"), (0, "rows")):
        follows = case.target.dim() == case.output.dim() or (dim == 0 and case.target.dim() > 0)
        target_layout = _every_second(dim) if follows else torch.clone
        finding = _same_result(case, _every_second(dim), f"with strided {name}", target_layout=target_layout)
        if finding != PASSED:
            return finding
    return PASSED


def _transposed(case: Case) -> Finding:
    if case.output.dim() < 2:
        return "not applicable", "the output has one dimension"

    def layout(values: torch.Tensor) -> torch.Tensor:
        return values.transpose(0, -1).clone(memory_format=torch.contiguous_format).transpose(0, -1)

    finding = _same_result(case, layout, "with a transposed output")
    if finding != PASSED or case.target.dim() < 2:
        return finding
    return _same_result(case, layout, "with output and target transposed", target_layout=layout)


def _one_row(case: Case) -> Finding:
    if not case.target.dim() or len(case.target) != len(case.output):
        return "not applicable", "the target has other rows than the output"
    return _near_oracle(case, case.output[:1], case.target[:1])


def _float64(case: Case) -> Finding:
    output, target = case.output.double(), _floating(case.target, torch.float64)
    value, _ = _evaluate(case.loss, output, target)
    if value.dtype != torch.float64:
        return "limited", f"for float64 tensors it returns {value.dtype}"
    # Where the baseline's own float64 is the oracle, it has no error to be seen; in u it is that of its usual dtype.
    finding = _near_oracle(case, output, target, own_u=(case.own_grad_u, case.own_loss_u))
    if finding == PASSED:
        return PASSED
    grad_u, loss_u, _ = _errors(case, case.loss, output, target, grad_output=1.0)
    u32 = 2.0**29  # the unit roundoff of float32 in that of float64
    near = grad_u <= ERROR_FACTOR * max(1.0, case.own_grad_u) * u32
    if near and loss_u <= max(SUM_FACTOR * math.sqrt(output.numel()), ERROR_FACTOR * case.own_loss_u) * u32:
        return "limited", f"computes in float32 inside: {max(grad_u, loss_u) / u32:.4g} u of float32 off in float64"
    return finding


def _gradcheck(case: Case) -> Finding:
    output, target = case.output.double(), _floating(case.target, torch.float64)
    began_s = time.monotonic()
    value, grad = _evaluate(case.loss, output, target)
    called_s = time.monotonic()
    affordable = GRADCHECK_SHARE * (case.deadline_s - called_s) / (GRADCHECK_CALLS * (called_s - began_s) + 1e-9)
    count = int(max(1, min(GRADCHECK_ELEMENTS, output.numel(), affordable)))
    chosen = torch.linspace(0, output.numel() - 1, count, dtype=torch.float64).round().long().to(output.device)
    ramp = torch.linspace(2.0**-40, 2.0**-39, output.numel(), dtype=output.dtype, device=output.device)
    moved = output + torch.where(output == 0, 1, output) * ramp.reshape(output.shape)
    beside, beside_grad = _evaluate(case.loss, moved, target)
    if value.dtype != torch.float64 or (_same_bits(value, beside) and _same_bits(grad, beside_grad)):
        return "not applicable", "does not compute in float64: a change of 1e-12 of the output changes nothing"
    _, expected = _evaluate(case.baseline, output, target)
    # A mean's gradient is smaller the more elements there are; scaled to 1, gradcheck's tolerances mean something.
    largest = float(expected.reshape(-1)[chosen].abs().max())
    scale = 1 / largest if largest else 1.0
    # A difference of two losses over a step of 1e-6 is off by 2**-53 / 1e-6 = 1e-10 of the loss, and sums by more.
    tolerance = max(1e-4, 1e-8 * abs(float(value)) * scale)

    def scaled(elements: torch.Tensor) -> torch.Tensor:
        given = output.reshape(-1).index_put((chosen,), elements).reshape(output.shape)
        value = case.loss(given, target.clone())
        with torch.enable_grad():  # the loss may have left it off
            return value * scale

    try:
        with _guarded():
            start = output.reshape(-1)[chosen].requires_grad_()
            gradcheck(scaled, (start,), atol=tolerance, rtol=1e-3, check_undefined_grad=False)
    except Raised as error:
        if not isinstance(error.__cause__, GradcheckError):
            raise
        told = str(error.__cause__).strip().splitlines()[0].rstrip(",:")
        if "not reentrant" in told:
            return "failed", "a second backward through the same graph gives another gradient"
        return "failed", f"the gradient is not the slope of the loss: {told}"[:REASON_LENGTH]
    return PASSED


def _narrow(dtype: torch.dtype, grad_output: float) -> Callable[[Case], Finding]:
    def check(case: Case) -> Finding:
        output, target = _within_range(case.output, case.target)
        output, target = output.to(dtype), _floating(target, dtype)
        value, _ = _evaluate(case.loss, output, target, grad_output=grad_output)
        told = f"for {dtype} tensors it returns {value.dtype}"
        if torch.promote_types(value.dtype, dtype) != value.dtype:
            return "failed", told
        finding = _near_oracle(case, output, target, grad_output=grad_output)
        return ("limited", told) if finding == PASSED and value.dtype != dtype else finding

    return check


def _within_range(output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and floating target, scaled down so far that float16 holds their squares and the sum of these.

    What is asked is whether the loss can do with the dtype; that data of this size may overflow it is another matter.
    """
    sides = [side for side in (output, target) if side.is_floating_point()]
    largest = max(float(side.abs().max()) for side in sides)
    excess = 2 * largest * math.sqrt(output.numel()) / 2.0**7.5
    if not 1 < excess < math.inf:
        return output, target
    factor = 0.5 ** math.ceil(math.log2(excess))  # a power of two: it changes no digit
    return output * factor, target * factor if target.is_floating_point() else target


def _broadcast(case: Case) -> Finding:
    if case.target.shape != case.output.shape or not case.target.is_floating_point():
        return "not applicable", "the target is not of the output's shape and floating"
    output, target = case.output.reshape(-1)[: len(case.output), None], case.target.reshape(-1)[: len(case.output)]
    expected_loss, expected_grad = _evaluate(case.baseline, output, target)
    value, grad = _evaluate(case.loss, output, target)
    found, due, shapes = float(value), float(expected_loss), f"for shapes {list(output.shape)} and {list(target.shape)}"
    if not _distance_u(value, expected_loss) <= REPEAT_FACTOR * max(len(target), case.own_loss_u):
        return "limited", f"{shapes} the loss is {found:.7g}, the baseline's {due:.7g}"
    if _repeats(case, grad, expected_grad, "") != PASSED:
        ratio = float(grad.cpu().double().norm() / expected_grad.cpu().double().norm())
        return "limited", f"{shapes} the gradient is {ratio:.7g} times as long as the baseline's"
    return PASSED


def _nonfinite(spoil: float) -> Callable[[Case], Finding]:
    name = "a NaN" if math.isnan(spoil) else "an infinity"

    def check(case: Case) -> Finding:
        output, target = case.output.clone(), case.target.clone()
        output.view(-1)[output.numel() // 2] = spoil
        findings = [_spoilt(case, output, case.target, f"{name} in the output")]
        if target.is_floating_point():
            target.view(-1)[target.numel() // 2] = spoil
            findings.append(_spoilt(case, case.output, target, f"{name} in the target"))
        return min(findings, key=lambda finding: GRAVITY.index(finding[0]))

    return check


def _spoilt(case: Case, output: torch.Tensor, target: torch.Tensor, name: str) -> Finding:
    """Whether the loss lets see what the baseline lets see of a number that is none."""
    try:
        expected_loss, expected_grad = _evaluate(case.baseline, output, target)
    except Broken as error:
        return "not applicable", f"the baseline does not do with {name}: {error}"
    if expected_loss.isfinite():
        return "not applicable", f"the baseline's loss is finite with {name}"
    value, grad = _evaluate(case.loss, output, target)
    if value.isfinite():
        return "failed", f"hides {name}: the loss is {float(value):.7g}, the baseline's {float(expected_loss)}"
    due, found = int((~expected_grad.isfinite()).sum()), int((~grad.isfinite()).sum())
    if due and not found:
        return _finite_gradient(case, grad, name)
    if found > due:
        return "limited", f"{found} gradient elements are not finite with {name}, of the baseline's {due}"
    if (grad.isnan() & expected_grad.isinf()).any():
        return "limited", f"the gradient has NaN where the baseline's has inf, with {name}"
    return PASSED


def _finite_gradient(case: Case, grad: torch.Tensor, name: str) -> Finding:
    """The verdict on a finite gradient where the baseline's is not, which mixed precision relies on to skip a step."""
    largest, ordinary = float(grad.abs().max()), float(_evaluate(case.loss, case.output, case.target)[1].abs().max())
    if largest > 1e12 * ordinary:  # saturated: overflows on its way through the model, if it has not yet
        return "limited", f"the gradient goes up to {largest:.4g} where the baseline's is not finite"
    return "failed", f"hides {name}: all of the gradient is finite, the baseline's is not"


def _target_gradient(case: Case) -> Finding:
    if not case.target.is_floating_point():
        return "not applicable", f"the target is {case.target.dtype}, which has no gradient"
    lacking, told = ("failed", ", which requires one here") if case.target_learns else ("limited", "")
    try:
        grad = _gradient_for_target(case.loss, case)
    except Raised as error:
        return lacking, f"with a target that requires a gradient it {error}"
    if grad is None:
        return lacking, f"no gradient for the target{told}"
    expected = _gradient_for_target(case.baseline, case)
    if expected is None:  # the baseline's own finding says so first
        return PASSED
    status, reason = _repeats(case, grad, expected, "of the target")
    return status, reason and f"{reason}, from the baseline's"


def _gradient_for_target(loss: Loss, case: Case) -> torch.Tensor | None:
    given, target = _lay_out(case.output), _lay_out(case.target)
    value = _call(loss, given, target)
    if not value.requires_grad:
        return None
    with _guarded():
        return torch.autograd.grad(value, target, allow_unused=True)[0]


def _two_calls(case: Case) -> Finding:
    outputs = (case.output, _another(case.output))
    alone = [_evaluate(case.loss, output, case.target)[1] for output in outputs]
    given = [_lay_out(output) for output in outputs]
    values = [_call(case.loss, output, case.target.clone()) for output in given]
    for place, value, output, expected in zip(("first", "second"), values, given, alone, strict=True):
        finding = _repeats(case, _backward(value, output), expected, f"of the {place} of two calls")
        if finding != PASSED:
            return finding
    return PASSED


def _second_derivative(case: Case) -> Finding:
    found, expected = (_hessian_product(loss, case) for loss in (case.loss, case.baseline))
    error, size = float((found - expected).norm()), float(expected.norm())
    if error <= SECOND_DERIVATIVE_TOLERANCE * size:
        return PASSED
    return "limited", f"another second derivative: {error / size if size else math.inf:.4g} of its size off"


def _hessian_product(loss: Loss, case: Case) -> torch.Tensor:
    """The Hessian times a ramp from 1 to 2; float64[R, ...]."""
    given = _lay_out(case.output)
    value = _call(loss, given, case.target.clone())
    ramp = torch.linspace(1, 2, given.numel(), dtype=given.dtype, device=given.device).reshape(given.shape)
    with _guarded():
        (grad,) = torch.autograd.grad(value, given, create_graph=True)
    if not grad.requires_grad:
        raise Broken("no second derivative: the gradient has no graph")
    with _guarded():
        (product,) = torch.autograd.grad((grad * ramp).sum(), given, allow_unused=True)
    if product is None:
        raise Broken("no second derivative: the gradient does not depend on the output")
    return product.cpu().double()


# What follows from an item that failed is not asked for a second time.
CHECKS: dict[str, Check] = {
    "scalar": Check(_scalar),
    "dtype and device": Check(_dtype_and_device, ("scalar",)),
    "gradient": Check(_gradient, ("scalar",)),
    "repeatable": Check(_repeatable, ("gradient",)),
    "value": Check(_value, ("dtype and device", "gradient")),
    "grad_output": Check(_grad_output, ("repeatable",)),
    "mutation": Check(_mutation, ("scalar",)),
    "random generators": Check(_random_generators, ("scalar",)),
    "non-contiguous": Check(_non_contiguous, ("repeatable",)),
    "transposed": Check(_transposed, ("repeatable",)),
    "one row": Check(_one_row, ("value",)),
    "float64": Check(_float64, ("value",), when_raised="limited"),
    # Of a wrong value it tells whether the gradient is at least the slope of the wrong loss.
    "gradcheck": Check(_gradcheck, ("grad_output",), "float64", when_raised="limited"),
    "float16": Check(_narrow(torch.float16, 2.0**10), ("value", "grad_output"), when_raised="limited"),
    "bfloat16": Check(_narrow(torch.bfloat16, 1.0), ("value",), when_raised="limited"),
    "broadcast": Check(_broadcast, ("value",), when_raised="limited", when_broken="limited"),
    "NaN": Check(_nonfinite(math.nan), ("gradient",)),
    "inf": Check(_nonfinite(math.inf), ("gradient",)),
    "target gradient": Check(_target_gradient, ("value",)),
    "two calls before backward": Check(_two_calls, ("repeatable",)),
    "second derivative": Check(_second_derivative, ("value",), when_raised="limited", when_broken="limited"),
}
