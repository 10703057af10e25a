"""The observations of one batch of a step, and of several batches whose gradients are accumulated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from parity.observe.deferred import Later
from parity.observe.digest import combine, digest
from parity.observe.rows import Rows, RowSlots
from parity.plan.trial import DigestKind
from parity.store.trace import AUDIT_COLUMNS
from parity.tasks.outputs import Outputs, elements_of, parts, tensors


@dataclass
class Batch:
    """The observations of one batch of a step.

    Attributes:
        rows: Number of rows in the batch.
        elements: Number of elements of the output.
        given: The tensors of the batch and its target, and those of the output.
        before: The digests of the step's batches before this one, by which a change of `given` is seen.
        loss: The loss as it enters the step, dtype[] on its device; None until it is known.
        loss_digest: Digest of the loss; None where it can wait until the rows are fetched.
        strided: Whether the gradient for the output has other strides than the output.
        audit: What `Auditor.audit` returns; NaN where there is no audit.
    """

    rows: int
    elements: int
    given: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]
    before: tuple[Rows, Rows]
    # From here on known only after the loss has been called, while what is above is recorded before it.
    loss: torch.Tensor | None = None
    loss_digest: int | Later | None = None
    strided: bool = False
    # NaN, which the trace stores as null: a step that was not audited is not a step without an error.
    audit: Sequence[float] = (math.nan,) * len(AUDIT_COLUMNS)


class BatchMaker:
    """Makes the batches of each step.

    Args:
        kind: How their tensors are digested.
    """

    def __init__(self, kind: DigestKind) -> None:
        self._kind = kind
        self._slots = {name: RowSlots() for name in ("inputs", "outputs", "output_grads", "target_grads")}

    def make(self) -> Batches:
        """The batches of a step, of which there are none yet."""
        inputs, outputs, output_grads, target_grads = (
            Rows(sketched=name != "inputs", kind=self._kind, slots=slots) for name, slots in self._slots.items()
        )
        return Batches(inputs, outputs, output_grads, target_grads)


@dataclass
class Batches:
    """The batches of a step: k batches of b rows leave the trace of one batch of k b rows.

    Attributes:
        each: The batches so far.
        factors: What the loss of each was multiplied by.
        inputs: Digests of the batches and their targets.
        outputs: Fingerprints of the parts of the output.
        output_grads: Fingerprints of the gradients for them.
        target_grads: Fingerprints of the gradients for the parts of the target that require one.
    """

    inputs: Rows = field(default_factory=lambda: Rows(sketched=False))
    outputs: Rows = field(default_factory=lambda: Rows(sketched=True))
    output_grads: Rows = field(default_factory=lambda: Rows(sketched=True))
    target_grads: Rows = field(default_factory=lambda: Rows(sketched=True))
    each: list[Batch] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    def add(
        self,
        rows: int,
        batch: Sequence[torch.Tensor],
        output: Outputs,
        target: Outputs,
        *,
        computed: Sequence[torch.Tensor] = (),
    ) -> Batch:
        """Adds a batch, of which the loss has not been called yet."""
        # A target that is the batch itself, as an autoencoder's, is not digested twice; `is`, since `in` would compare
        # elements.
        others = [*batch, *computed]
        inputs = [*batch, *(each for each in tensors(target) if not any(each is tensor for tensor in others))]
        before = self.inputs.copy(), self.outputs.copy()
        outputs = [*tensors(output), *computed]
        self.inputs.add(inputs)
        self.outputs.add(outputs)
        made = Batch(rows, elements_of(output), (inputs, outputs), before)
        self.each.append(made)
        return made

    def changed(self, batch: Batch) -> str | None:
        """What of a batch has other bits now than when it was added: "output", "target", or None."""
        # Others may have been added since: several batches may wait for one backward.
        later = self.each[1 + next(number for number, each in enumerate(self.each) if each is batch) :]
        inputs, outputs = later[0].before if later else (self.inputs, self.outputs)
        if not outputs.unchanged(batch.before[1], batch.given[1]):
            return "output"
        return None if inputs.unchanged(batch.before[0], batch.given[0]) else "target"

    def differentiated(
        self,
        batch: Batch,
        output: Outputs,
        output_grads: Sequence[torch.Tensor],
        target_grads: Sequence[torch.Tensor],
        *,
        loss: torch.Tensor,
        factor: float,
    ) -> None:
        """Adds the loss and the gradients of a batch."""
        batch.loss = loss.detach()
        if factor != 1.0:
            # The digest is that of the loss as it was returned; what is summed over the step's batches has the factor.
            batch.loss_digest, batch.loss = _digest_of(batch.loss), batch.loss * factor
        self.factors.append(factor)
        self.output_grads.add(output_grads)
        self.target_grads.add(target_grads)
        batch.strided = any(
            grad.stride() != part.stride() for grad, part in zip(output_grads, parts(output), strict=True)
        )

    @property
    def loss_digest(self) -> int | Later | None:
        """Digest of the loss, or of the digests of several; None where it can wait until the rows are fetched."""
        if len(self.each) == 1:
            return self.each[0].loss_digest
        found = [_digest_of(batch.loss) if batch.loss_digest is None else batch.loss_digest for batch in self.each]
        if not any(isinstance(each, Later) for each in found):
            return _combined(found)
        return Later(lambda: _combined([each.get() if isinstance(each, Later) else each for each in found]))

    @property
    def audit(self) -> Sequence[float]:
        """The audit of the worst batch."""
        # Gradient error and ratio come from one batch, since the ratio explains the error; the largest error of a loss
        # may be that of another batch.
        worst = max(self.each, key=lambda batch: _nan_last(batch.audit[0])).audit
        return (worst[0], max((batch.audit[1] for batch in self.each), key=_nan_last), *worst[2:])


def _digest_of(loss: torch.Tensor | None) -> int | Later:
    """The digest of a loss, for which nobody waits where it is on another device."""
    if loss is None or loss.is_cpu:
        return digest(loss)
    # A copy, since the loop may change its loss in place, to log it.
    kept = loss.clone()
    return Later(lambda: digest(kept))


def _combined(digests: Sequence[Any]) -> int:
    return combine(np.array(digests, np.uint64))


def _nan_last(value: float) -> float:
    """A key for max(): the value, with NaN as the largest, since comparisons with NaN are always False."""
    return math.inf if math.isnan(value) else value
