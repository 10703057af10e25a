"""A closer look at an audited step whose gradient is suspicious: what rounding could do to it there.

It costs more evaluations of the oracle, so a step that is not suspicious is not looked at.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from parity.observe.audit import Measured, Oracle, gradients
from parity.observe.norms import l2_norm
from parity.plan import lines
from parity.tasks.outputs import Outputs, is_tree, map_tensors, parts, with_parts

# Perturbations of the output, as many as the contract takes.
PERTURBATIONS = 4


def is_suspicious(found: Measured) -> bool:
    """Whether the gradient of an audited step is to be looked into."""
    # `not <=` rather than `>`, so that NaN is looked into as well.
    if not found.grad_error_u <= lines.SUSPICIOUS_GRADIENT.value:
        return True
    return lines.is_narrow(found.grad_u) and abs(found.grad_ratio - 1) > lines.RATIO.value * found.grad_u


def condition(oracle: Oracle, output: Outputs, target: Outputs, found: Measured) -> float:
    """How far one rounding of the output moves its gradient in float64, in u: the largest over the parts.

    Args:
        oracle: The baseline in float64.
        output: What the loss was given, on the CPU; dtype[...], or a tree.
        target: What the loss was given.
        found: What was measured there.

    Returns:
        The largest of `PERTURBATIONS` distances; NaN where none could change the decision: the error is beyond the line
        that the largest credit would give, or the dtype is narrow, where conditioning is given no credit.

    Raises:
        OracleUnavailable: As `audit.measure`.

    Source:
        N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 1.6: forward error is at most
        about the condition number times the backward error.
    """
    most = lines.GRADIENT.value * lines.CONDITION.value
    if lines.is_narrow(found.grad_u) or not found.grad_error_u <= most:
        return math.nan
    generator = torch.Generator().manual_seed(0)  # of our own: the same perturbation each time
    # In float64, where a move of one u of the output's own dtype can be seen.
    wide = map_tensors(lambda each: each.detach().double() if each.is_floating_point() else each, output)
    sizes = [l2_norm(grad) for grad in found.exact]
    largest = 0.0
    for _ in range(PERTURBATIONS):
        moved = []
        for part, unit in zip(parts(wide), found.units, strict=True):
            # Each element moves by the same relative amount in a random direction, as rounding could move it.
            signs = torch.randint(2, part.shape, generator=generator, dtype=torch.float64) * 2 - 1
            moved.append(part * (1 + unit * signs))
        near = gradients(oracle(with_parts(wide, moved) if is_tree(wide) else moved[0], target)[1])
        for grad, exact, unit, size in zip(near, found.exact, found.units, sizes, strict=True):
            distance = l2_norm(grad - exact)
            largest = max(largest, distance / (unit * size) if size else 0.0)
    # A condition that cannot be computed gives no credit.
    return largest if math.isfinite(largest) else math.nan


def contributing_rows(found: Measured) -> float:
    """Number of rows that the worst part's gradient is made of, at least 1: (sum s)**2 / sum s**2, s = ||row||**2.

    The noise of `grad_ratio` shrinks with its square root. Not the number of rows in the batch: where nearly all
    examples are learned, one row may be the whole gradient.
    """
    exact = found.exact[found.worst]
    rows = exact.reshape(len(exact), -1) if exact.ndim else exact.reshape(1, 1)
    squares = np.einsum("ij,ij->i", rows, rows)
    size = float(squares @ squares)
    return float(squares.sum()) ** 2 / size if size and math.isfinite(size) else 1.0
