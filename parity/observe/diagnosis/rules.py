"""What is wrong with a gradient at one step: the first rule that fits it to rounding, or "unknown".

The rules are tried from the most exact to the least: first those about the gradient as a whole, then those about
places in it. What holds over several steps (only partial batches, from a step on, which quantity a constant is) is
found by `judge.causes`.

Shapes: R rows, C columns (all further dimensions flattened); gradients are float64 on the CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from parity.observe.audit import Oracle, errors
from parity.observe.diagnosis.place_rules import PLACE_RULES
from parity.observe.diagnosis.whole_rules import WHOLE_RULES
from parity.observe.diagnosis.wrong_gradient import Match, WrongGradient, flat, norm
from parity.plan import lines
from parity.store.tables import FindingKind
from parity.tasks.losses import Loss

RULES = (*WHOLE_RULES, *PLACE_RULES)


@dataclass(frozen=True)
class Finding:
    """A row of findings.parquet: what fits the gradient of one step.

    Attributes:
        step: Optimizer step, from 0.
        kind: The rule that fits, or "unknown".
        value: Factor of a scaled gradient, number added by an offset, else None.
        detail: Which rows, which loss, ...; "" where the kind says everything.
    """

    step: int
    kind: FindingKind
    value: float | None
    detail: str


def diagnose(
    step: int, output: torch.Tensor, target: torch.Tensor, output_grad: torch.Tensor, *, baseline: Loss, oracle: Oracle
) -> Finding | None:
    """Finds out what is wrong with a gradient.

    Args:
        step: Optimizer step, from 0.
        output: What the loss received; dtype[R, ...] on the CPU.
        target: What the loss received as its target.
        output_grad: What the backward of the loss returned; of the output's shape and dtype.
        baseline: The loss that the candidate is compared with.
        oracle: The baseline in float64.

    Returns:
        The first rule that fits; None where the gradient is not suspicious, or the oracle's is not finite.

    Raises:
        OracleUnavailable: As `audit.errors`.
    """
    u = torch.finfo(output.dtype).eps / 2
    baseline_error = _baseline_error_u(output, target, baseline=baseline, oracle=oracle) * u
    wrong = WrongGradient(
        output=output.detach(),
        target=target.detach(),
        raw=output_grad,
        grad=flat(output_grad.detach().double().numpy()),
        exact=flat(np.asarray(oracle(output, target)[1], dtype=np.float64)),
        baseline=baseline,
        oracle=oracle,
        fit=lines.RULE_FIT.value * baseline_error,
        error_limit=lines.SUSPICIOUS_GRADIENT.value * baseline_error,
    )
    if not np.isfinite(wrong.exact).all() or wrong.error <= wrong.error_limit * norm(wrong.exact):
        return None
    for rule in RULES:
        match = rule(wrong)
        if match:
            return Finding(step, match.kind, match.value, match.detail)
    return Finding(step, **vars(_unknown(wrong)))


def _unknown(wrong: WrongGradient) -> Match:
    """What can be said of a gradient that no rule fits: its length and its direction beside the oracle's."""
    size = norm(wrong.grad) / norm(wrong.exact) if wrong.exact.any() else math.inf
    cosine = float((wrong.grad * wrong.exact).sum()) / (norm(wrong.grad) * norm(wrong.exact) or math.inf)
    return Match("unknown", detail=f"norm {size:.6g} times the float64 one's, cosine {cosine:.6g}")


def _baseline_error_u(output: torch.Tensor, target: torch.Tensor, *, baseline: Loss, oracle: Oracle) -> float:
    """The baseline's gradient error on this output in u, at least 1."""
    leaf = output.detach().clone().requires_grad_()
    loss = baseline(leaf, target.detach().clone())
    (grad,) = torch.autograd.grad(loss, leaf)
    error_u = errors(oracle, output, target, loss=loss, output_grad=grad)[0]
    least = lines.LEAST_ERROR.value
    return max(least, error_u) if math.isfinite(error_u) else least
