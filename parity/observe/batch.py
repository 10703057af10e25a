"""The observations of one batch of a step, bit by bit, and of several batches whose gradients are accumulated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from parity.observe.digest import combine, digest
from parity.store.trace import AUDIT_COLUMNS
from parity.tasks.outputs import Outputs, is_tree, tensors


@dataclass
class Batch:
    """The observations of one batch of a step.

    Attributes:
        rows: Number of rows in the batch.
        inputs: The tensors of the batch and its target.
        input_digest: Digest of `inputs`.
        output_digest: Digest of the model's output.
        elements: Number of elements of the output.
        loss: The loss as it enters the step, dtype[] on its device; None until it is known.
        loss_digest: Digest of the loss; None where it can wait until the rows are fetched.
        output_grad_digest: Digest of the loss's gradient for the output.
        output_grad_square: Sum of that gradient's squares, dtype[] on its device.
        output_grad_strided: Whether that gradient has other strides than the output.
        audit: What `Auditor.audit` returns; NaN where there is no audit.
    """

    rows: int
    inputs: Sequence[torch.Tensor]
    input_digest: int
    output_digest: int
    elements: int
    # From here on known only after the loss has been called, while what is above is recorded before it.
    loss: torch.Tensor | None = None
    loss_digest: int | None = None
    output_grad_digest: int = 0
    output_grad_square: torch.Tensor | None = None
    output_grad_strided: bool = False
    # NaN, which the trace stores as null: a step that was not audited is not a step without an error.
    audit: Sequence[float] = (math.nan,) * len(AUDIT_COLUMNS)


def digest_all(values: Sequence[torch.Tensor]) -> int:
    """One digest of several tensors, in their order; uint64."""
    # The dtype is explicit, since NumPy would make float64 of a list of large integers.
    return combine(np.array([digest(tensor) for tensor in values], np.uint64))


def digest_outputs(outputs: Outputs) -> int:
    """The digest of a tensor; for a tree, one digest of the digests of all its tensors. uint64."""
    return digest_all(tensors(outputs)) if is_tree(outputs) else digest(outputs)


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches of a step as one: digests of digests, sums, and the audit of the worst batch."""
    # Gradient error and ratio come from one batch, since the ratio explains the error; the largest error of a loss may
    # be that of another batch.
    worst = max(batches, key=lambda batch: _nan_last(batch.audit[0])).audit
    return Batch(
        rows=sum(batch.rows for batch in batches),
        # Only the audit reads the tensors, and it has been made for each batch.
        inputs=(),
        input_digest=_combined([batch.input_digest for batch in batches]),
        output_digest=_combined([batch.output_digest for batch in batches]),
        elements=sum(batch.elements for batch in batches),
        loss_digest=_combined(
            # A digest of digests needs each of them now: for a single batch the loss can stay on its device until the
            # rows are fetched.
            [digest(batch.loss) if batch.loss_digest is None else batch.loss_digest for batch in batches]
        ),
        output_grad_digest=_combined([batch.output_grad_digest for batch in batches]),
        output_grad_strided=any(batch.output_grad_strided for batch in batches),
        audit=(worst[0], max((batch.audit[1] for batch in batches), key=_nan_last), *worst[2:]),
    )


def _combined(digests: Sequence[int]) -> int:
    """One digest of several, in their order; uint64."""
    # The dtype is explicit, since NumPy would make float64 of a list of large integers.
    return combine(np.array(digests, np.uint64))


def _nan_last(value: float) -> float:
    """A key for max(): the value, with NaN as the largest, since comparisons with NaN are always False."""
    return math.inf if math.isnan(value) else value
