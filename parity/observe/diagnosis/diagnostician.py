"""Decides which wrong gradients of a trial are looked into, and keeps what is found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from parity.observe.audit import Oracle
from parity.observe.diagnosis.rules import Finding, diagnose
from parity.observe.generators import generators_restored
from parity.observe.loss_state import state_restored
from parity.observe.settings import settings_restored
from parity.plan import lines
from parity.plan.trial import Place
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs

# How many steps are looked into, chosen rather than measured: `judge.causes` takes the kind from the first finding and
# needs a few more of its kind to see whether a factor is constant; factors of whole and of partial batches show whether
# it is a batch size. A factor that changes at every step would be looked into forever but for the last.
FIRST_LOOKS, PARTIAL_LOOKS, ALL_LOOKS = 3, 2, 12


class Diagnostician:
    """Looks at some of a trial's wrong gradients, and keeps what it finds."""

    def __init__(self, *, baseline: Loss, oracle: Oracle) -> None:
        self._baseline = baseline
        self._oracle = oracle
        self._found: list[Finding] = []
        self._looks = self._partial_looks = 0
        self._last_ratio = math.nan

    def look(
        self,
        place: Place,
        output: Outputs,
        target: Outputs,
        output_grad: torch.Tensor | Sequence[torch.Tensor],
        *,
        ratio: float,
    ) -> None:
        """Looks at a suspicious step, unless enough steps like it have been looked at.

        Args:
            place: The step.
            output: What the loss received; dtype[R, ...] on the CPU, or a tree.
            target: What the loss received as its target.
            output_grad: Of the output's shape and dtype; for a tree one tensor for each part.
            ratio: The gradient's ratio to the oracle's, as `audit.errors` returns it.

        Raises:
            OracleUnavailable: As `audit.errors`.
        """
        # A factor that has changed by less is named after the same constant. Before the first finding the last ratio is
        # NaN, and this is True.
        changed = not abs(ratio - self._last_ratio) <= lines.CONSTANT_FIT.value * abs(ratio)
        due = self._looks < FIRST_LOOKS or (place.partial and self._partial_looks < PARTIAL_LOOKS) or changed
        if not due or self._looks >= ALL_LOOKS:
            return
        # The baseline may be the very object that the training calls.
        with generators_restored(), settings_restored(), state_restored(self._baseline):
            found = diagnose(place.step, output, target, output_grad, baseline=self._baseline, oracle=self._oracle)
        # Only findings count as looks, so that a step without one does not use up the budget.
        if found:
            self._looks += 1
            self._partial_looks += place.partial
            self._last_ratio = ratio
            self._found.append(found)

    def state(self) -> dict[str, float]:
        """What another diagnostician needs to continue from here."""
        # Not the findings: they have been stored by the time that another diagnostician continues.
        return {"looks": self._looks, "partial_looks": self._partial_looks, "last_ratio": self._last_ratio}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from another diagnostician's state."""
        self._looks, self._partial_looks = state["looks"], state["partial_looks"]
        self._last_ratio = state["last_ratio"]

    def take_findings(self) -> tuple[Finding, ...]:
        """Returns the findings since the last call, and forgets them."""
        # A copy, since the list is about to be emptied.
        found = tuple(self._found)
        self._found.clear()
        return found
