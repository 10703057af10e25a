"""Audits the steps of one trial: measures each, and looks closer where a gradient is suspicious."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.audit import Measured, Oracle, OracleState, audited, measure, oracle_state, restore_oracle
from parity.observe.diagnosis.diagnostician import Diagnostician
from parity.observe.diagnosis.rules import Finding
from parity.observe.draws import Draws
from parity.observe.suspicion import condition, contributing_rows, is_suspicious
from parity.plan import lines
from parity.plan.trial import Place, Trial
from parity.store.trace import AUDIT_COLUMNS
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs, is_tree, map_tensors, parts

# NaN, which the trace stores as null: a step that was not audited is not a step without an error.
NOT_AUDITED = (math.nan,) * len(AUDIT_COLUMNS)
# Gradients that are sent on through the model in vain before the trial is condemned without: each costs a backward
# pass. Chosen.
MOST_PASSES = 8


class Auditor:
    """Audits one trial, step by step.

    Attributes:
        error: Why there is no audit, or None.
        doubt: Where the gradient of the last audited step is suspicious, its difference from the oracle's for each part
            of the output, scaled so that its largest element is 1; else None.
    """

    def __init__(self, trial: Trial, *, oracle: Oracle, baseline: Loss) -> None:
        self._oracle = oracle
        # The baseline's own steps are not looked into: it is what the others are held against.
        self._looks = trial.loss != trial.oracle
        self._diagnostician = Diagnostician(baseline=baseline, oracle=oracle)
        self._draws = Draws()
        self._keeps_state = False
        self._passes = 0
        self._doubt_scale = 1.0
        self.error: str | None = None
        self.doubt: list[torch.Tensor] | None = None

    def before_loss(self) -> None:
        """The loss of an audited step is about to be called: keeps what the oracle has to start from as well."""
        if self.error is None:
            self._draws.before()

    def audit(
        self,
        place: Place,
        output: Outputs,
        target: Outputs,
        *,
        loss: torch.Tensor,
        output_grad: Sequence[torch.Tensor],
    ) -> Sequence[float]:
        """Audits a step.

        Args:
            place: The step.
            output: What the loss was given; dtype[...], or a tree.
            target: What the loss was given.
            loss: What it returned; dtype[].
            output_grad: Its gradient for each part of the output.

        Returns:
            The values of `AUDIT_COLUMNS`; NaN for what was not measured.
        """
        self.doubt = None
        # What the oracle cannot do at one step it cannot do at the next: the audit ends with the first failure.
        if self.error is not None:
            return NOT_AUDITED
        output, target = map_tensors(torch.Tensor.cpu, output), map_tensors(torch.Tensor.cpu, target)
        grads = [grad.cpu() for grad in output_grad]
        grad = grads if is_tree(output) else grads[0]
        try:
            before = oracle_state(self._oracle)
            with self._draws.repeated(self._oracle, parts(output)[0].dtype):
                found = measure(self._oracle, output, target, loss=loss.cpu(), output_grad=grad)
            after = oracle_state(self._oracle)
            self._keeps_state |= not _same_state(before, after)
            closer = (math.nan, math.nan)
            if self._looks and is_suspicious(found):
                # Each further evaluation starts from the state that this one started from.
                restore_oracle(self._oracle, before)
                closer = self._look(place, output, target, grads, found)
                restore_oracle(self._oracle, after)
        except OracleUnavailable as error:
            self.error = str(error)
            return NOT_AUDITED
        values = (found.grad_error_u, found.loss_error_u, found.grad_ratio, found.grad_u)
        return (*values, *closer, math.nan)

    def skip(self, output: Outputs, target: Outputs) -> None:
        """A step is not audited: an oracle that keeps state from call to call is called all the same."""
        self.doubt = None
        if self._keeps_state and self.error is None:
            output, target = map_tensors(torch.Tensor.cpu, output), map_tensors(torch.Tensor.cpu, target)
            try:
                with audited(self._oracle, lambda: None):
                    self._oracle(map_tensors(torch.Tensor.detach, output), map_tensors(torch.Tensor.detach, target))
            except OracleUnavailable as error:
                self.error = str(error)

    def passed_on(self, norm_u: float, whole: float) -> float:
        """What reached the parameters of `doubt`, beside their whole gradient, in u.

        Args:
            norm_u: Norm of what the model's backward made of `doubt`, in u.
            whole: Norm of the gradient for all parameters.
        """
        found = norm_u * self._doubt_scale / whole if whole else math.nan
        self._passes += not found <= lines.PASSED_ON.value
        return found

    def state(self) -> dict[str, Any]:
        """What an auditor that continues from here must know."""
        kept = {"oracle": oracle_state(self._oracle)} if self._keeps_state else {}
        return {"audit_error": self.error, "passes": self._passes, **kept, **self._diagnostician.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from where another auditor was."""
        # An audit that has failed stays off: it must not begin again with a trial that continues.
        self.error = state["audit_error"]
        # States of earlier versions lack these.
        self._passes = state.get("passes", 0)
        if "oracle" in state:
            self._keeps_state = True
            restore_oracle(self._oracle, state["oracle"])
        self._diagnostician.restore(state)

    def take_findings(self) -> tuple[Finding, ...]:
        """Returns what was found wrong with the gradient since the last call."""
        return self._diagnostician.take_findings()

    def _look(
        self, place: Place, output: Outputs, target: Outputs, grads: list[torch.Tensor], found: Measured
    ) -> tuple[float, float]:
        """Looks closer at a suspicious step; returns the gradient's condition in u, and the rows it is made of."""
        self._diagnostician.look(place, output, target, grads if is_tree(output) else grads[0], ratio=found.grad_ratio)
        moves = condition(self._oracle, output, target, found)
        if self._passes < MOST_PASSES and math.isfinite(found.grad_error_u):
            self._doubt(output, grads, found)
        return moves, contributing_rows(found)

    def _doubt(self, output: Outputs, grads: list[torch.Tensor], found: Measured) -> None:
        """Keeps the difference from the oracle's gradient."""
        differences = [
            grad.double() - torch.from_numpy(exact).reshape(grad.shape)
            for grad, exact in zip(grads, found.exact, strict=True)
        ]
        # A narrow dtype would lose differences that are small beside 1.
        self._doubt_scale = max(float(each.abs().max()) for each in differences)
        if self._doubt_scale > 0:
            self.doubt = [
                (each / self._doubt_scale).to(part.dtype) for each, part in zip(differences, parts(output), strict=True)
            ]


def _same_state(before: OracleState, after: OracleState) -> bool:
    return all(torch.equal(tensor, after[name]) for name, tensor in before.items())
