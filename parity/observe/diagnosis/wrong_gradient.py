"""A wrong gradient as the rules see it, and what a rule answers.

Shapes: R rows, C columns (all further dimensions flattened); gradients are float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from parity.observe.diagnosis.output_part import PartOracle
from parity.observe.norms import l2_norm
from parity.store.tables import FindingKind
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs


@dataclass(frozen=True)
class WrongGradient:
    """A gradient that is wrong at one step, with everything that a rule may compare it with.

    Attributes:
        output: What the loss received, or the one part of it that is looked at; dtype[R, ...] on the CPU.
        target: What the loss received as its target.
        own_target: The tensor of the target that belongs to the output, or None.
        raw: The candidate's gradient as it was returned; of the output's shape and dtype.
        grad: The candidate's gradient; float64[R, C].
        exact: The oracle's gradient; float64[R, C].
        baseline: The loss that the candidate is compared with, as a function of the output and the target.
        oracle: The baseline in float64.
        fit: Largest relative distance at which two gradients are equal but for rounding.
        error_limit: Largest relative error of a gradient that is not suspicious.
    """

    output: torch.Tensor
    target: Outputs
    own_target: torch.Tensor | None
    # Beside `grad` for its shape, and because float64 would hide in which precision it was computed.
    raw: torch.Tensor
    grad: np.ndarray
    exact: np.ndarray
    baseline: Loss
    oracle: PartOracle
    fit: float
    error_limit: float

    @property
    def error(self) -> float:
        """L2 norm of the candidate's gradient minus the oracle's."""
        return l2_norm(self.grad - self.exact)

    @property
    def near_zero(self) -> float:
        """Largest error of an element that is nearly zero: the rounding of an ordinary element."""
        # Relative to the root mean square: relative to itself, an element near zero would be wrong by its rounding
        # alone.
        return self.fit * math.sqrt(float((self.exact**2).mean()))

    def fits(self, other: np.ndarray) -> bool:
        """Whether another gradient, float64[R, C], equals the candidate's but for rounding."""
        # A NaN makes the comparison False, so a gradient that is not finite fits nothing.
        return l2_norm(self.grad - other) <= self.fit * l2_norm(other)


@dataclass(frozen=True)
class Match:
    """What a rule says about a gradient that it fits.

    Attributes:
        kind: The rule's kind.
        value: Factor of a scaled gradient, number added by an offset, else None.
        detail: Which rows, which loss, ...; "" where the kind says everything.
    """

    kind: FindingKind
    value: float | None = None
    detail: str = ""


# A rule answers None if it does not fit.
Rule = Callable[[WrongGradient], Match | None]


def flat(array: np.ndarray) -> np.ndarray:
    """An array of any shape as [R, C]; a scalar as [1, 1]."""
    # Rules about rows and columns need two dimensions of any output.
    return array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)


def factor_of(grad: np.ndarray, exact: np.ndarray) -> float:
    """The factor c for which c * exact is nearest to grad; 0.0 where exact is zero."""
    # Least squares: c = <grad, exact> / <exact, exact>.
    size = float((exact**2).sum())
    return float((grad * exact).sum()) / size if size else 0.0
