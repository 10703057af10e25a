"""Collects what is observed in each training step into a trace.

Nothing here changes a bit of the training. Loss and norms stay on the device until a block of steps is fetched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from parity.ground.errors import TrialFailed
from parity.observe.audit import Oracle
from parity.observe.auditor import Auditor
from parity.observe.batch import Batch, digest_all, digest_outputs, joined
from parity.observe.diagnosis.rules import Finding
from parity.observe.digest import combine, digest
from parity.plan.trial import Place, Trial
from parity.store.trace import AUDIT_COLUMNS, make_table
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs, elements_of, is_tree, parts, tensors

# Steps in one block: the length of the buffers on the device.
CAPACITY = 256
# Dtypes too narrow for a sum of squares or an unscaled gradient, which are computed in float32 instead.
_NARROW = (torch.float16, torch.bfloat16)


class Observer:
    """Observes one trial, step by step; `flush` returns the rows so far.

    A step is `forward` and `loss` for each of its batches (one, or several under gradient accumulation), then
    `backward` and `update`.

    Attributes:
        param_grad_norm: L2 norm of the last step's gradient for all parameters, dtype[] on its device.
    """

    param_grad_norm: torch.Tensor

    def __init__(self, trial: Trial, model: torch.nn.Module, *, oracle: Oracle, baseline: Loss) -> None:
        self._trial = trial
        self._parameters = list(model.parameters())
        self._auditor = Auditor(trial, oracle=oracle, baseline=baseline)
        self._columns: defaultdict[str, list[object]] = defaultdict(list)
        self._batches: list[Batch] = []
        self._values: dict[str, torch.Tensor] = {}
        self._slots: dict[str, tuple[torch.Tensor, ...]] = {}
        self._passed_on_u: float | None = None

    @property
    def audit_error(self) -> str | None:
        """Why there is no audit, or None."""
        return self._auditor.error

    @audit_error.setter
    def audit_error(self, reason: str | None) -> None:
        self._auditor.error = reason

    @property
    def doubt(self) -> Sequence[torch.Tensor] | None:
        """Where the gradient just audited is suspicious, its difference from the oracle's, scaled; else None."""
        return self._auditor.doubt

    @property
    def rows(self) -> int:
        """Number of whole steps recorded since the last flush."""
        # The last column that `update` writes, so only whole steps have it.
        return len(self._columns["step_s"])

    @property
    def batches(self) -> int:
        """Number of batches of the step that is not closed yet."""
        return len(self._batches)

    @property
    def loss_dtype(self) -> torch.dtype | None:
        """The dtype of the loss; None before the first step."""
        return self._values["loss"].dtype if "loss" in self._values else None

    def forward(self, place: Place, batch: Sequence[torch.Tensor], output: Outputs, target: Outputs) -> Batch:
        """Records what the loss is about to be given, for the step's first batch or for one more.

        Args:
            place: Where the step stands in the training, with the rows of this batch.
            batch: The tensors that the model was called with.
            output: What the loss is about to be given; dtype[...], or a tree.
            target: What the loss is about to be given as the target; dtype[...], or a tree.

        Returns:
            The batch so far, to be given to `loss`.
        """
        self._place = place
        # Digested before the loss is called, which is how `_audit` sees that the loss has written to them. A target
        # that is the batch itself, as an autoencoder's, is not digested twice; `is`, since `in` would compare elements.
        inputs = [*batch, *(each for each in tensors(target) if not any(each is tensor for tensor in batch))]
        observed = Batch(place.rows, inputs, digest_all(inputs), digest_outputs(output), elements_of(output))
        self._batches.append(observed)
        return observed

    def loss(
        self,
        batch: Batch,
        output: Outputs,
        target: Outputs,
        *,
        loss: torch.Tensor,
        output_grad: Sequence[torch.Tensor],
        factor: float = 1.0,
    ) -> None:
        """Records the loss and its gradient for the output, and audits the step if it is due.

        Args:
            batch: As `forward` returned it.
            output: What the loss was given; dtype[...], or a tree.
            target: What the loss was given.
            loss: What it returned; dtype[].
            output_grad: The gradient of `factor * loss` for each part of the output; of the part's shape.
            factor: What the loss is multiplied by before it enters the step: 1 / k where the gradients of k batches
                are accumulated.

        Raises:
            TrialFailed: The step is audited, and the loss changed its output or target.
        """
        batch.loss = loss.detach()
        if factor != 1.0:
            # The digest is that of the loss as it was returned; what is summed over the step's batches has the factor.
            batch.loss_digest, batch.loss = digest(batch.loss), batch.loss * factor
        batch.output_grad_digest = digest_all(output_grad) if is_tree(output) else digest(output_grad[0])
        batch.output_grad_square = _sum([_squared_norm(grad) for grad in output_grad])
        batch.output_grad_strided = any(
            grad.stride() != part.stride() for grad, part in zip(output_grad, parts(output), strict=True)
        )
        if self._place.audited:
            # The oracle has no factor, so it is divided out: in float64, where this adds no error that u would notice.
            exact = output_grad if factor == 1.0 else [grad.double() / factor for grad in output_grad]
            batch.audit = self._audit(batch, output, target, loss=loss, output_grad=exact)
        else:
            self._auditor.skip(output, target)

    def before_loss(self) -> None:
        """The loss is about to be called: call this between `forward` and the loss, where the loss can be seen."""
        if self._place.audited:
            self._auditor.before_loss()

    def passed_on(self, norm_u: float) -> None:
        """Takes the norm of what the model's backward makes of `doubt`, in u; NaN where it is not known."""
        self._passed_on_u = norm_u

    def backward(self, *, scale: float = 1.0) -> None:
        """Records the gradient for the parameters, as the last backward pass left it.

        Args:
            scale: What the gradient has been multiplied by, to be divided out: a power of 2, so that no bit is lost.
        """
        digests, squares = [], []
        for parameter in self._parameters:  # both in one pass, while the gradient is in the cache
            grad = parameter.grad
            if grad is not None and scale != 1.0:
                grad = unscaled(grad, scale)
            digests.append(digest(grad))
            if grad is not None:
                squares.append(_squared_norm(grad))
        self._param_grads, self.param_grad_norm = np.array(digests, np.uint64), _norm(squares)
        if self._passed_on_u is not None:
            batch, norm_u, self._passed_on_u = self._batches[-1], self._passed_on_u, None
            passed = self._auditor.passed_on(norm_u, float(self.param_grad_norm))
            batch.audit = (*batch.audit[:-1], passed)

    def gradient_norm(self) -> torch.Tensor:
        """L2 norm of the gradient for all parameters, as it is now; dtype[] on its device."""
        return _norm([_squared_norm(each.grad) for each in self._parameters if each.grad is not None])

    def update(self, *, step_s: float, step_grad_norm: torch.Tensor | None = None) -> None:
        """Records the parameters after the optimizer's step, and closes the step.

        Args:
            step_s: Wall time of the step, in seconds.
            step_grad_norm: L2 norm of the gradient that the optimizer was given, dtype[]; None where it was not
                observed.
        """
        batches, self._batches = self._batches, []
        losses = [batch.loss for batch in batches if batch.loss is not None]
        squares = [batch.output_grad_square for batch in batches if batch.output_grad_square is not None]
        self._hold("loss", _sum(losses))
        self._hold("output_grad_norm", _sum(squares).sqrt())
        self._hold("param_grad_norm", self.param_grad_norm)
        # The same tensor, not an equal one: the caller states in this way that nothing came between backward and
        # update, and no second buffer is needed.
        unchanged = step_grad_norm is self.param_grad_norm
        if step_grad_norm is not None and not unchanged:
            self._hold("step_grad_norm", step_grad_norm)
        params = np.array([digest(parameter) for parameter in self._parameters], np.uint64)
        # A single batch keeps its digests as they are; of several, digests of digests are stored.
        one = batches[0] if len(batches) == 1 else joined(batches)
        for name, value in {
            "looked": step_grad_norm is not None,
            "unchanged": unchanged,
            "input_digest": one.input_digest,
            "output_digest": one.output_digest,
            "loss_digest": one.loss_digest,
            "output_grad_digest": one.output_grad_digest,
            "output_grad_strided": one.output_grad_strided,
            "elements": one.elements,
            "rows": one.rows,
            "param_grad_digest": combine(self._param_grads),
            "param_grad_digests": self._param_grads,
            "param_digest": combine(params),
            "param_digests": params,
            **dict(zip(AUDIT_COLUMNS, one.audit, strict=True)),
            **{name: getattr(self._place, name) for name in ("step", "epoch", "batch")},
            "step_s": step_s,
        }.items():
            self._columns[name].append(value)

    def flush(self) -> pa.Table:
        """Returns the whole steps since the last flush, in the columns of `trace.SCHEMA`, and forgets them."""
        # Before any column is popped, since `rows` counts one of them.
        rows, trial = self.rows, self._trial
        looked, unchanged = (np.array(self._columns.pop(name), bool) for name in ("looked", "unchanged"))
        loss_digests = self._columns.pop("loss_digest")
        # The dtype is explicit, since NumPy would make float64 of a list of large integers.
        columns = {
            name: np.array(values, np.uint64 if "digest" in name else None) for name, values in self._columns.items()
        }
        # One copy from the device for all rows, instead of one a step. On a CPU it is copied as well, since later
        # steps write to the buffers while the table may still be in use.
        fetched = {name: buffer[:rows].to("cpu", copy=True) for name, buffer in self._values.items()}
        columns |= {name: values.double().numpy() for name, values in fetched.items()}
        # The digest of a loss on a device waited for this copy; a known one is of a step with several batches or a
        # factor.
        columns["loss_digest"] = np.array(
            [
                digest(value) if known is None else known
                for value, known in zip(fetched["loss"], loss_digests, strict=True)
            ],
            np.uint64,
        )
        # Where nothing was held, the buffer has whatever its memory held before: both lines replace those rows.
        stepped = np.where(unchanged, columns["param_grad_norm"], columns.get("step_grad_norm", np.nan))
        columns["step_grad_norm"] = np.where(looked, stepped, np.nan)
        columns |= {"seed": np.full(rows, trial.seed), "replica": np.full(rows, trial.replica)}
        self._columns.clear()
        names = {"trial": trial.name, "loss_name": trial.loss.name, "device": trial.device.name}
        return make_table(columns, names=names, rows=rows)

    def state(self) -> dict[str, object]:
        """What an observer that continues from here must know."""
        return self._auditor.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from where another observer was."""
        self._auditor.restore(state)

    def take_findings(self) -> tuple[Finding, ...]:
        """Returns what was found wrong with the gradient since the last call."""
        return self._auditor.take_findings()

    def _audit(
        self,
        batch: Batch,
        output: Outputs,
        target: Outputs,
        *,
        loss: torch.Tensor,
        output_grad: Sequence[torch.Tensor],
    ) -> Sequence[float]:
        """Returns the values of `AUDIT_COLUMNS`; NaN where the oracle is not available."""
        step = self._place.step
        # Before the oracle is asked, which would be given the tensors that were changed.
        if batch.output_digest != digest_outputs(output):
            raise TrialFailed(
                step, "the loss changed its output in place; work on a copy, output.clone()", kind="mutates"
            )
        if batch.input_digest != digest_all(batch.inputs):
            raise TrialFailed(
                step, "the loss changed its target in place; work on a copy, target.clone()", kind="mutates"
            )
        return self._auditor.audit(self._place, output, target, loss=loss, output_grad=output_grad)

    def _hold(self, name: str, value: torch.Tensor) -> None:
        """Writes a scalar into a buffer on its device.

        Keeping each step's tensor in a list would fragment the heap: some 95,000 page faults, up to 1.1 s of 2.5 s,
        were seen over the 470 steps of the reference experiment.
        """
        if name not in self._values:
            # The views of the elements are made once for each buffer rather than one at each step.
            self._values[name] = torch.empty(CAPACITY, dtype=value.dtype, device=value.device)
            self._slots[name] = self._values[name].unbind()
        self._slots[name][self.rows].copy_(value.detach())


def unscaled(grad: torch.Tensor, scale: float) -> torch.Tensor:
    """A gradient, dtype[...], divided by a factor; in float32 where its dtype is narrower, which would underflow."""
    return (grad.float() if grad.dtype in _NARROW else grad) / scale


def _squared_norm(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of the squares, on the device; dtype[], float32 where the dtype is narrower, which would overflow.

    Takes half the time of `torch.linalg.vector_norm` on a CPU.
    """
    # reshape copies a tensor only if its layout has no flat view; dot takes vectors alone.
    flat = tensor.reshape(-1)
    if flat.dtype in _NARROW:
        flat = flat.float()
    return torch.dot(flat, flat)


def _norm(squares: Sequence[torch.Tensor]) -> torch.Tensor:
    """The root of the sum, in the dtype and on the device of the first; dtype[]."""
    # A model may lie on several devices or have several dtypes, of which torch.stack takes one.
    if len({(square.dtype, square.device) for square in squares}) > 1:
        squares = [square.to(squares[0]) for square in squares]
    return torch.stack([*squares]).sum().sqrt() if squares else torch.zeros(())


def _sum(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum in the order of the values; for one value, the value itself. dtype[]."""
    # Not sum(), which begins with 0: 0 + -0.0 is 0.0, and the bits of a single value must stay.
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
