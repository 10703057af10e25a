"""What a wrong gradient may be instead: that of another loss, or the baseline's in a lower precision.

Shapes: R rows, C columns (features or classes); everything here runs on the CPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F

from parity.observe.diagnosis.output_part import PartOracle
from parity.observe.low_precision import round_to_tf32
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs, map_tensors

# (output, target), in float64 -> the loss, a mean.
OtherLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

LOW_PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# The values that T.-Y. Lin et al., "Focal Loss for Dense Object Detection", 2017, compare (without 0.1 and 0.2), and 3,
# which J. Mukhoti et al., "Calibrating Deep Neural Networks using Focal Loss", 2020, use.
FOCAL_GAMMAS = (0.5, 1.0, 2.0, 3.0, 5.0)
# Chosen: round numbers on either side of 1. A temperature that is not among them is "unknown".
TEMPERATURES = (0.1, 0.5, 2.0, 4.0, 10.0)
# Differences of output and target from which the slope of a loss is measured. Chosen: a thousandth of outputs near 1,
# where the rounding of the difference, 2**-24, is 6e-5 of it at most.
LEAST_DIFFERENCE = 1e-3


def other_losses(output: torch.Tensor, target: torch.Tensor, grad: np.ndarray) -> Mapping[str, OtherLoss]:
    """The losses that people use in the baseline's place, by name; empty for tensors that none of them takes.

    Args:
        output: dtype[R, ...].
        target: Floating and of the output's shape, or integer labels [R].
        grad: The candidate's gradient, float64 of the output's shape; the threshold of a loss is fitted to it.
    """
    if target.is_floating_point() and target.shape == output.shape:
        return _REGRESSION | dict(_with_threshold(output, target, grad))
    if not target.is_floating_point() and output.dim() == 2 and target.shape == output.shape[:1]:
        return _CLASSIFICATION
    return {}


def gradient(loss: OtherLoss, output: torch.Tensor, target: torch.Tensor) -> np.ndarray | None:
    """The gradient of another loss, float64 of the output's shape; None where the loss cannot take these tensors."""
    leaf = output.detach().double().requires_grad_()
    try:
        value = loss(leaf, target.double() if target.is_floating_point() else target)
        (found,) = torch.autograd.grad(value, leaf)
    except (RuntimeError, ValueError, IndexError):  # BCE of an output outside [0, 1], a label that is not a class
        return None
    return found.numpy() if bool(found.isfinite().all()) else None


def in_low_precision(
    output: torch.Tensor, target: Outputs, *, baseline: Loss, oracle: PartOracle, exact: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields what the baseline's gradient becomes where some of its computation is in a lower precision.

    Three cases are emulated for each precision: the gradient alone is rounded; output and target are rounded; the whole
    loss is computed in the precision.

    Args:
        output: dtype[R, ...].
        target: The target that belongs to the output.
        baseline: The loss, which computes in the dtype of its tensors.
        oracle: The baseline in float64.
        exact: The oracle's gradient; float64 of the output's shape.

    Yields:
        Name of the precision, and a gradient, float64 of the output's shape; several of each precision.
    """
    for name, dtype in LOW_PRECISIONS.items():
        # The gradient alone is rounded, as by a cast after the loss.
        yield name, _rounded(exact, functools.partial(torch.Tensor.to, dtype=dtype))
        through = functools.partial(_through, dtype=dtype)
        # Output and target are rounded, as by a cast before a loss that computes precisely.
        yield name, oracle(through(output), map_tensors(through, target))[1]
        # The whole loss in the precision. TF32, which torch has no dtype for, has no such emulation.
        found = _in_dtype(baseline, output, target, dtype)
        if found is not None:
            yield name, found
    yield "TF32", _rounded(exact, lambda tensor: round_to_tf32(tensor.float()))
    yield "TF32", oracle(_to_tf32(output), map_tensors(_to_tf32, target))[1]


def has_low_precision(grad: torch.Tensor) -> str | None:
    """The lower precision in which all elements of a float32 gradient can be written, or None."""
    if grad.dtype != torch.float32 or not grad.any():
        return None
    # float32 has 23 bits of mantissa, TF32 and float16 have 10 and bfloat16 has 7: the lowest 13 or 16 are then zero.
    bits = grad.contiguous().view(torch.int32)
    if not (bits & 0xFFFF).any():
        return "bfloat16"
    if not (bits & 0x1FFF).any():
        return "float16" if bool((grad.half().float() == grad).all()) else "TF32"
    return "float16" if bool((grad.half().float() == grad).all()) else None


def _through(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype).to(tensor.dtype) if tensor.is_floating_point() else tensor


def _to_tf32(tensor: torch.Tensor) -> torch.Tensor:
    return round_to_tf32(tensor) if tensor.is_floating_point() else tensor


def _rounded(exact: np.ndarray, rounding: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
    """The array, float64[...], after a rounding; float64[...]."""
    # A copy, since from_numpy shares memory with its array.
    rounded: np.ndarray = rounding(torch.from_numpy(np.array(exact))).double().numpy()
    return rounded


def _in_dtype(baseline: Loss, output: torch.Tensor, target: Outputs, dtype: torch.dtype) -> np.ndarray | None:
    """The baseline's gradient in a dtype, float64 of the output's shape; None where it does not support the dtype."""
    leaf = output.detach().to(dtype).requires_grad_()
    narrow = map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, target)
    try:
        (found,) = torch.autograd.grad(baseline(leaf, narrow), leaf)
    except (RuntimeError, TypeError, ValueError):  # the baseline need not support the dtype
        return None
    array: np.ndarray = found.double().numpy()
    return array if np.isfinite(array).all() else None


# Regression: means over the elements.

_REGRESSION: dict[str, OtherLoss] = {
    # Names that the findings store; a dict keeps their order, and of equal fits the first counts.
    "L1": F.l1_loss,
    "log-cosh": lambda output, target: _log_cosh(output - target).mean(),
    "BCE": lambda output, target: F.binary_cross_entropy(output, target),
    "BCE with logits": lambda output, target: F.binary_cross_entropy_with_logits(output, target),
    "mean squared logarithmic error": lambda output, target: (
        (torch.log1p(output) - torch.log1p(target)).square().mean()
    ),
    "L4": lambda output, target: (output - target).pow(4).mean(),
    "L3": lambda output, target: (output - target).abs().pow(3).mean(),
    "cosine distance": lambda output, target: (1 - F.cosine_similarity(output, target, dim=-1)).mean(),
    "Poisson": lambda output, target: F.poisson_nll_loss(output, target),
    "KL divergence": lambda output, target: F.kl_div(output, target, reduction="batchmean"),
}


def _with_threshold(output: torch.Tensor, target: torch.Tensor, grad: np.ndarray) -> Iterator[tuple[str, OtherLoss]]:
    """Yields Huber or smooth L1, whose gradients are clipped differences, at the threshold that the gradient shows."""
    # Near the target both losses are quadratic, so the largest slope is that of the quadratic part; far from it the
    # gradient is clipped at slope * threshold.
    difference = np.abs((output.detach().double() - target.detach().double()).numpy())
    measurable = difference > LEAST_DIFFERENCE
    if not measurable.any():
        return
    size = np.abs(grad)
    slope = float((size[measurable] / difference[measurable]).max())
    if slope == 0 or not math.isfinite(slope):
        return
    threshold = float(size.max()) / slope
    if 0 < threshold < float(difference.max()):
        # Their gradients differ only by the threshold as a factor.
        smooth = abs(slope * threshold * grad.size - 1) < abs(slope * grad.size - 1)
        name = f"smooth L1 with beta {threshold:.3g}" if smooth else f"Huber with delta {threshold:.3g}"
        yield (
            name,
            functools.partial(F.smooth_l1_loss, beta=threshold)
            if smooth
            else functools.partial(F.huber_loss, delta=threshold),
        )


def _log_cosh(difference: torch.Tensor) -> torch.Tensor:
    """log(cosh(x)) = x + log(1 + exp(-2 x)) - log(2), which does not overflow."""
    return difference + F.softplus(-2 * difference) - math.log(2)


# Classification by integer labels: means over the rows.


def _focal(gamma: float) -> OtherLoss:
    """The focal loss, mean of (1 - p)**gamma * -log(p) with p the probability of the label.

    Source:
        T.-Y. Lin et al., "Focal Loss for Dense Object Detection", 2017.
    """

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # The probability of the label is exp(-entropy).
        entropy = F.cross_entropy(output, target, reduction="none")
        return ((1 - torch.exp(-entropy)) ** gamma * entropy).mean()

    return loss


def _tempered(temperature: float) -> OtherLoss:
    return lambda output, target: F.cross_entropy(output / temperature, target)


def _one_hot(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.one_hot(target, output.shape[1]).to(output.dtype)


_CLASSIFICATION: dict[str, OtherLoss] = {
    **{f"focal with gamma {gamma:g}": _focal(gamma) for gamma in FOCAL_GAMMAS},
    **{f"cross-entropy at temperature {temperature:g}": _tempered(temperature) for temperature in TEMPERATURES},
    "hinge": lambda output, target: F.multi_margin_loss(output, target),
    "squared hinge": lambda output, target: F.multi_margin_loss(output, target, p=2),
    "MSE of probabilities": lambda output, target: F.mse_loss(output.softmax(dim=1), _one_hot(output, target)),
    "MSE of logits": lambda output, target: F.mse_loss(output, _one_hot(output, target)),
    "BCE of each class": lambda output, target: F.binary_cross_entropy_with_logits(output, _one_hot(output, target)),
    "cross-entropy of a second softmax": lambda output, target: F.cross_entropy(output.softmax(dim=1), target),
    "cross-entropy of a softmax over the batch": lambda output, target: F.nll_loss(output.log_softmax(dim=0), target),
    "the label's negative logit": lambda output, target: F.nll_loss(output, target),
    "the label's negative probability": lambda output, target: F.nll_loss(output.softmax(dim=1), target),
}
