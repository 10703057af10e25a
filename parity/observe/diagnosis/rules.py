"""What is wrong with a gradient at one step: the first rule that fits it to rounding, or "unknown".

The rules are tried from the most exact to the least: first those about the gradient as a whole, then those about
places in it. What holds over several steps (only partial batches, from a step on, which quantity a constant is) is
found by `judge.causes`.

Shapes: R rows, C columns (all further dimensions flattened); gradients are float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from parity.observe.audit import Oracle, errors, gradients
from parity.observe.diagnosis.output_part import PartOracle, loss_of_part, oracle_of_part, target_of_part
from parity.observe.diagnosis.place_rules import PLACE_RULES
from parity.observe.diagnosis.whole_rules import WHOLE_RULES
from parity.observe.diagnosis.wrong_gradient import Match, WrongGradient, flat
from parity.observe.norms import l2_norm
from parity.plan import lines
from parity.store.tables import FindingKind
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs, is_tree, map_tensors, part_names, parts

# The order matters: the first rule that fits is the finding.
RULES = (*WHOLE_RULES, *PLACE_RULES)


@dataclass(frozen=True)
class Finding:
    """A row of findings.parquet: what fits the gradient of one step.

    Attributes:
        step: Optimizer step, from 0.
        kind: The rule that fits, or "unknown".
        value: Factor of a scaled gradient, number added by an offset, else None.
        detail: Which rows, which loss, which part of an output that is a tree, ...; "" where the kind says everything.
    """

    step: int
    kind: FindingKind
    value: float | None
    detail: str


def diagnose(
    step: int,
    output: Outputs,
    target: Outputs,
    output_grad: torch.Tensor | Sequence[torch.Tensor],
    *,
    baseline: Loss,
    oracle: Oracle,
) -> Finding | None:
    """Finds out what is wrong with a gradient; for an output that is a tree, with the first part that is wrong.

    Args:
        step: Optimizer step, from 0.
        output: What the loss received; dtype[R, ...] on the CPU, or a tree.
        target: What the loss received as its target.
        output_grad: What the backward of the loss returned, of the output's shape and dtype; for a tree one tensor for
            each part.
        baseline: The loss that the candidate is compared with.
        oracle: The baseline in float64.

    Returns:
        The first rule that fits; None where no part of the gradient is suspicious, or the oracle's is not finite.

    Raises:
        OracleUnavailable: As `audit.errors`.
    """
    # The rules evaluate losses on these again, and must not reach the training's graph.
    output, target = map_tensors(torch.Tensor.detach, output), map_tensors(torch.Tensor.detach, target)
    grads = [output_grad] if isinstance(output_grad, torch.Tensor) else output_grad
    exact = [np.asarray(grad, dtype=np.float64) for grad in gradients(oracle(output, target)[1])]
    # Finite elements alone, so that one part that is not finite does not hide the others.
    whole = math.hypot(*(l2_norm(grad[np.isfinite(grad)]) for grad in exact))
    for index, (name, grad) in enumerate(zip(part_names(output), grads, strict=True)):
        wrong = _part(index, output, target, grad, exact[index], baseline=baseline, oracle=oracle)
        # As in `audit.errors`: a part whose gradient is mere rounding beside the whole is measured beside the whole.
        size = max(l2_norm(wrong.exact), torch.finfo(wrong.output.dtype).eps / 2 * whole)
        # `not <=`, so that a NaN in the candidate's gradient is suspicious. Beside an oracle that is not finite nothing
        # can be said.
        if np.isfinite(wrong.exact).all() and not wrong.error <= wrong.error_limit * size:
            # A generator: the later rules, which evaluate whole losses, run only if no earlier rule fits.
            match = next(filter(None, (rule(wrong) for rule in RULES)), None) or _unknown(wrong)
            return Finding(step, match.kind, match.value, _placed(match.detail, name))
    return None


def _part(
    index: int,
    output: Outputs,
    target: Outputs,
    grad: torch.Tensor,
    exact: np.ndarray,
    *,
    baseline: Loss,
    oracle: Oracle,
) -> WrongGradient:
    """One part of the output with its gradient, as the rules take it."""
    part = parts(output)[index] if is_tree(output) else output
    loss, part_oracle = loss_of_part(baseline, output, index), oracle_of_part(oracle, output, index)
    baseline_error = (
        _baseline_error_u(part, target, baseline=loss, oracle=part_oracle) * torch.finfo(part.dtype).eps / 2
    )
    return WrongGradient(
        output=part,
        target=target,
        own_target=target_of_part(output, target, index),
        raw=grad,
        grad=flat(grad.detach().double().numpy()),
        exact=flat(exact),
        baseline=loss,
        oracle=part_oracle,
        fit=lines.RULE_FIT.value * baseline_error,
        error_limit=lines.SUSPICIOUS_GRADIENT.value * baseline_error,
    )


def _placed(detail: str, name: str | None) -> str:
    """The detail with the name of the output part, for an output that is a tree."""
    return ", ".join(filter(None, (detail, "" if name is None else f"in output part {name}")))


def _unknown(wrong: WrongGradient) -> Match:
    """What can be said of a gradient that no rule fits: its length and its direction beside the oracle's."""
    size = l2_norm(wrong.grad) / l2_norm(wrong.exact) if wrong.exact.any() else math.inf
    # `or inf` makes the cosine with a zero gradient 0 rather than a division by zero.
    cosine = float((wrong.grad * wrong.exact).sum()) / (l2_norm(wrong.grad) * l2_norm(wrong.exact) or math.inf)
    return Match("unknown", detail=f"norm {size:.6g} times the float64 one's, cosine {cosine:.6g}")


def _baseline_error_u(part: torch.Tensor, target: Outputs, *, baseline: Loss, oracle: PartOracle) -> float:
    """The baseline's gradient error on this part of the output in u, at least `lines.LEAST_ERROR`."""
    leaf = part.clone().requires_grad_()
    loss = baseline(leaf, map_tensors(torch.clone, target))
    # The baseline need not depend on every part of a tree: its gradient is then zero.
    grad = torch.autograd.grad(loss, leaf, allow_unused=True)[0] if loss.requires_grad else None
    grad = torch.zeros_like(part) if grad is None else grad
    error_u = errors(oracle, part, target, loss=loss, output_grad=grad)[0]
    least = lines.LEAST_ERROR.value
    return max(least, error_u) if math.isfinite(error_u) else least
