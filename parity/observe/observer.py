"""Collects what is observed in each training step into a trace.

Nothing here changes a bit of the training. The loss stays on the device until a block of steps is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from parity.ground.errors import TrialFailed
from parity.observe.audit import Oracle
from parity.observe.auditor import Auditor
from parity.observe.batch import Batch, BatchMaker
from parity.observe.columns import AnyFingerprint, Columns
from parity.observe.diagnosis.rules import Finding
from parity.observe.digest import digest
from parity.observe.fingerprint import fingerprint
from parity.observe.graph import Precision, narrowest
from parity.observe.parameters import ObservedParameters
from parity.observe.step_state import StepState
from parity.observe.word_fingerprint import WordFingerprints
from parity.plan.trial import Place, Trial
from parity.store.trace import AUDIT_COLUMNS
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs, part_names, parts

# Steps in one block: the length of the buffers on the device.
CAPACITY = 256
# Dtypes too narrow for an unscaled gradient, which is computed in float32 instead.
_NARROW = (torch.float16, torch.bfloat16)


class Observer:
    """Observes one trial, step by step; `flush` returns the rows so far.

    The calls for a step are `begin`, `forward` and `loss` for each of its batches (one, or several under gradient
    accumulation), `backward`, `before_update` for each optimizer, and `update`.

    Args:
        trial: The trial.
        model: Its model.
        oracle: The baseline's loss in float64.
        baseline: The baseline's loss.
        optimizers: The optimizers of the model, whose settings and state are observed.
        also: Other models that are compared as the buffers are, by name.

    Attributes:
        facts: Facts of the trial that are known so far, for trials.parquet.
    """

    def __init__(
        self,
        trial: Trial,
        model: torch.nn.Module,
        *,
        oracle: Oracle,
        baseline: Loss,
        optimizers: Sequence[torch.optim.Optimizer] = (),
        also: Mapping[str, torch.nn.Module] | None = None,
    ) -> None:
        self._trial = trial
        self._auditor = Auditor(trial, oracle=oracle, baseline=baseline)
        self._columns = Columns(CAPACITY)
        kind = trial.digest_kind
        self._make_batches = BatchMaker(kind).make
        self._batches = self._make_batches()
        self._state = StepState(model, optimizers, also, kind=kind)
        self._observes_state = bool(optimizers)
        self._parameters = ObservedParameters(model, kind)
        self._kind = kind
        # Of both gradients, which mostly are the same tensors.
        self._words = WordFingerprints()
        self._param_grad: AnyFingerprint | None = None
        self._step_grad: AnyFingerprint | None = None
        self._scale = 1.0
        self._passed_on_u: float | None = None
        self._computed: Precision | None = None
        self.facts: dict[str, Any] = self._parameters.facts() | {"buffer_names": self._state.buffer_names}

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
        return self._columns.rows

    @property
    def batches(self) -> int:
        """Number of batches of the step that is not closed yet."""
        return len(self._batches.each)

    @property
    def loss_dtype(self) -> torch.dtype | None:
        """The dtype of the loss; None before the first step."""
        return self._columns.loss_dtype

    def begin(self) -> None:
        """Observes the state that a step starts from, before anything of the step is computed."""
        self._parameters.begin()
        self._state.begin()

    def forward(
        self,
        place: Place,
        batch: Sequence[torch.Tensor],
        output: Outputs,
        target: Outputs,
        *,
        computed: Sequence[torch.Tensor] = (),
    ) -> Batch:
        """Records what the loss is about to be given, for the step's first batch or for one more.

        Args:
            place: Where the step stands in the training, with the rows of this batch.
            batch: The tensors that the model was called with.
            output: What the loss is about to be given; dtype[...], or a tree.
            target: What the loss is about to be given as the target; dtype[...], or a tree.
            computed: The tensors of the target that the model has computed: they belong to the output.

        Returns:
            The batch so far, to be given to `loss`.
        """
        self._place = place
        if not self._batches.each:
            self._state.modes()
            if "output_dtype" not in self.facts:
                # The widest u of the parts is that of what is computed from all of them.
                dtype = max((part.dtype for part in parts(output)), key=lambda dtype: torch.finfo(dtype).eps)
                self.facts["output_dtype"] = str(dtype).removeprefix("torch.")
                self.facts["output_names"] = part_names(output)
        # Before the loss is called, which is how `_audit` sees that the loss has written to them.
        return self._batches.add(place.rows, batch, output, target, computed=computed)

    def loss(
        self,
        batch: Batch,
        output: Outputs,
        target: Outputs,
        *,
        loss: torch.Tensor,
        output_grad: Sequence[torch.Tensor],
        target_grad: Sequence[torch.Tensor] = (),
        factor: float = 1.0,
    ) -> None:
        """Records the loss and its gradient for the output, and audits the step if it is due.

        Args:
            batch: As `forward` returned it.
            output: What the loss was given; dtype[...], or a tree.
            target: What the loss was given.
            loss: What it returned; dtype[].
            output_grad: The gradient of `factor * loss` for each part of the output; of the part's shape.
            target_grad: The same for each part of the target that requires a gradient.
            factor: What the loss is multiplied by before it enters the step: 1 / k where the gradients of k batches
                are accumulated.

        Raises:
            TrialFailed: The step is audited, and the loss changed its output or target.
        """
        self._batches.differentiated(batch, output, output_grad, target_grad, loss=loss, factor=factor)
        if self._place.audited:
            # The oracle has no factor, so it is divided out: in float64, where this adds no error that u would notice.
            exact = output_grad if factor == 1.0 else [grad.double() / factor for grad in output_grad]
            batch.audit = self._audit(batch, output, target, loss=loss, output_grad=exact)
        else:
            self._auditor.skip(output, target)

    def graph(self, output: Outputs) -> float:
        """Looks how precisely the model has computed its output, whose dtype may be wider.

        It takes 5 microseconds for an operation of the model, so only some steps are looked at.

        Args:
            output: The output, with its graph.

        Returns:
            The unit roundoff.
        """
        found = [each for each in (narrowest(parts(output)), self._computed) if each]
        self._computed = max(found, default=None)
        if self._computed is None:
            return 0.0
        self.facts["computed_dtype"] = self._computed.name
        return self._computed.u

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
        self._scale = scale
        self._param_grad = self._fingerprint(self._unscaled_grads(scale))
        if self._passed_on_u is not None:
            batch, norm_u, self._passed_on_u = self._batches.each[-1], self._passed_on_u, None
            passed = self._auditor.passed_on(norm_u, self._param_grad.norm)
            batch.audit = (*batch.audit[:-1], passed)

    def before_update(self, optimizer: torch.optim.Optimizer) -> None:
        """Records the settings and the state of an optimizer that is about to step."""
        self._state.before_update(optimizer)

    def step_gradient(self, *, scale: float = 1.0) -> None:
        """Records the gradient that the optimizer is given, which something may have changed since `backward`.

        Args:
            scale: What the optimizer divides it by.
        """
        assert self._param_grad is not None, "backward comes before the optimizer's step"
        grads = self._unscaled_grads(scale)
        same = self._kind == "xxh3" and self._same_grads(grads)
        self._step_grad = self._param_grad if same else self._fingerprint(grads)

    @property
    def unchanged(self) -> bool:
        """Whether the gradient of `step_gradient` is that of `backward`, to the bit; waits for the device."""
        known, given = self._param_grad, self._step_grad
        if known is None or given is None:
            return False
        return known is given or np.array_equal(known.digests, given.digests)

    def _unscaled_grads(self, scale: float) -> list[torch.Tensor | None]:
        """The gradients for the parameters, divided by what they have been multiplied by."""
        return [grad if grad is None or scale == 1.0 else unscaled(grad, scale) for grad in self._parameters.grads()]

    def _fingerprint(self, grads: Sequence[torch.Tensor | None]) -> AnyFingerprint:
        """The fingerprint of the gradients, as the trial's are taken."""
        return fingerprint(grads) if self._kind == "xxh3" else self._words.take(grads)

    def joined(self, names: Sequence[str]) -> None:
        """Notes parameters and buffers that the model had not at the beginning: nobody looks at them."""
        self._state.joined = [*names]
        self.facts.setdefault("unobserved", ", ".join(names))

    def update(self, *, step_s: float, unchanged: bool = False) -> None:
        """Records the parameters after the optimizer's step, and closes the step.

        Args:
            step_s: Wall time of the step, in seconds.
            unchanged: Whether nothing came between backward and the optimizer's step, so that `step_gradient` need not
                be called.
        """
        batches, self._batches = self._batches, self._make_batches()
        param_grad, self._param_grad = self._param_grad, None
        step_grad, self._step_grad = self._step_grad, None
        self._words.forget()
        assert param_grad is not None, "backward comes before update"
        columns = self._columns
        if unchanged:
            step_grad = param_grad
        columns.hold("loss", _sum([batch.loss for batch in batches.each if batch.loss is not None]))
        columns.add_fingerprint("param_grad", param_grad)
        columns.add_step_gradient(step_grad, param_grad)
        columns.add_rows("output", batches.outputs)
        columns.add_rows("output_grad", batches.output_grads)
        columns.add_rows("target_grad", batches.target_grads)
        self._parameters.add_update(columns)
        columns.add_fingerprint("buffer", self._state.buffers())
        rows = [batch.rows for batch in batches.each]
        state = self._state.take(scale=self._scale, factors=batches.factors, rows=rows)
        # Without the optimizers nobody knows the state, and the columns stay null.
        columns.add(state if self._observes_state else dict.fromkeys(state))
        columns.add_input(batches.inputs)
        columns.add(
            {
                "loss_digest": batches.loss_digest,
                "output_grad_strided": any(batch.strided for batch in batches.each),
                "elements": sum(batch.elements for batch in batches.each),
                "rows": sum(rows),
                **dict(zip(AUDIT_COLUMNS, batches.audit, strict=True)),
                **{name: getattr(self._place, name) for name in ("step", "epoch", "batch")},
                "step_s": step_s,
            }
        )

    def abandon(self) -> None:
        """Forgets the step that is not closed, with its tensors: nothing more will be observed."""
        self._batches = self._make_batches()
        self._param_grad = self._step_grad = None
        self._words.forget()

    def initial(self) -> dict[str, Any]:
        """Facts of the trial before its first step, for trials.parquet."""
        return self._parameters.initial() | {"initial_buffer_digests": self._state.initial_buffers()}

    def flush(self) -> pa.Table:
        """Returns the whole steps since the last flush, in the columns of `trace.SCHEMA`, and forgets them."""
        return self._columns.flush(self._trial)

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
        if changed := self._batches.changed(batch):
            raise TrialFailed(
                step, f"the loss changed its {changed} in place; work on a copy, {changed}.clone()", kind="mutates"
            )
        return self._auditor.audit(self._place, output, target, loss=loss, output_grad=output_grad)

    def _same_grads(self, grads: Sequence[torch.Tensor | None]) -> bool:
        """Whether the gradients are those of the last `backward`, to the bit."""
        assert self._param_grad is not None
        return all(digest(grad) == int(known) for grad, known in zip(grads, self._param_grad.digests, strict=True))


def unscaled(grad: torch.Tensor, scale: float) -> torch.Tensor:
    """A gradient, dtype[...], divided by a factor; in float32 where its dtype is narrower, which would underflow."""
    return (grad.float() if grad.dtype in _NARROW else grad) / scale


def _sum(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum in the order of the values; for one value, the value itself. dtype[]."""
    # Not sum(), which begins with 0: 0 + -0.0 is 0.0, and the bits of a single value must stay.
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
