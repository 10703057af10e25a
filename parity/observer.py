"""What is observed of each training step, gathered into a trace.

Nothing here changes a bit of the training. Loss and norms stay on the device until a block of steps is fetched.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from parity.audit import Oracle, OracleUnavailable, errors
from parity.diagnosis import SUSPICIOUS, Diagnostician, Finding
from parity.digest import combine, digest
from parity.losses import Loss
from parity.trace import AUDIT_COLUMNS, make_table
from parity.trial import Place, Trial

# Steps in one block: what the device buffers hold.
CAPACITY = 256


class TrialFailed(Exception):  # noqa: N818 - names what it reports, as the verdict does
    """The trial cannot go on, by its own doing.

    Attributes:
        step: The step that failed, or None before the first.
        reason: What was found, and what is needed.
        kind: "raised"; "result" of something that is no scalar tensor; "detached" of a loss without a gradient;
            "mutates" of one that changes its output or target.
    """

    def __init__(self, step: int | None, reason: str, *, kind: str = "raised") -> None:
        super().__init__(step, reason)
        self.step = step
        self.reason = reason
        self.kind = kind


class Observer:
    """Observes one trial, step by step: `forward`, `loss`, `backward`, `update`; `flush` gives the rows so far."""

    def __init__(self, trial: Trial, model: torch.nn.Module, *, oracle: Oracle, baseline: Loss) -> None:
        self._trial = trial
        self._parameters = list(model.parameters())
        self._oracle = oracle
        self._diagnostician = Diagnostician(baseline=baseline, oracle=oracle)
        self._columns: defaultdict[str, list[object]] = defaultdict(list)
        self._values: dict[str, torch.Tensor] = {}
        self._slots: dict[str, tuple[torch.Tensor, ...]] = {}
        self.audit_error: str | None = None

    @property
    def rows(self) -> int:
        """Whole steps recorded since the last flush."""
        return len(self._columns["step_s"])

    @property
    def loss_dtype(self) -> torch.dtype | None:
        """None before the first step."""
        return self._values["loss"].dtype if "loss" in self._values else None

    def forward(self, place: Place, batch: Sequence[torch.Tensor], output: torch.Tensor, target: torch.Tensor) -> None:
        """Records what the loss of a step is about to get."""
        self._place = place
        self._inputs = [*batch] if any(target is tensor for tensor in batch) else [*batch, target]
        self._add("input_digest", self._input_digest())
        self._add("output_digest", digest(output))

    def loss(
        self, output: torch.Tensor, target: torch.Tensor, *, loss: torch.Tensor, output_grad: torch.Tensor
    ) -> None:
        """Records the loss and its gradient for the output, and audits the step if it is due.

        Raises:
            TrialFailed: The step is audited, and the loss changed its output or target.
        """
        self._hold("loss", loss)
        self._add("output_grad_digest", digest(output_grad))
        self._hold("output_grad_norm", _squared_norm(output_grad).sqrt())
        self._add("elements", output.numel())
        self._add("output_grad_strided", output_grad.stride() != output.stride())
        audit = self._audit(output, target, loss=loss, output_grad=output_grad)
        for name, error in zip(AUDIT_COLUMNS, audit, strict=True):
            self._add(name, error)

    def backward(self) -> None:
        """Records the gradient for the parameters."""
        digests, squares = [], []
        for parameter in self._parameters:  # both in one pass, while the gradient is in the cache
            digests.append(digest(parameter.grad))
            if parameter.grad is not None:
                squares.append(_squared_norm(parameter.grad))
        self._add_each("param_grad", digests)
        self._hold("param_grad_norm", torch.stack(squares).sum().sqrt())

    def update(self, *, step_s: float) -> None:
        """Records the parameters after the optimizer's step, and closes the step."""
        self._add_each("param", [digest(parameter) for parameter in self._parameters])
        for name in ("step", "epoch", "batch", "rows"):
            self._add(name, getattr(self._place, name))
        self._add("step_s", step_s)

    def flush(self) -> pa.Table:
        """Returns the whole steps since the last flush, in the columns of `trace.SCHEMA`, and forgets them."""
        rows, trial = self.rows, self._trial
        # Explicit, since NumPy would make float64 of a list of large integers.
        columns = {
            name: np.array(values[:rows], np.uint64 if "digest" in name else None)
            for name, values in self._columns.items()
        }
        for name, buffer in self._values.items():
            fetched = buffer[:rows].cpu()
            columns[name] = fetched.double().numpy()
            if name == "loss":
                columns["loss_digest"] = np.array([digest(value) for value in fetched], np.uint64)
        columns |= {"seed": np.full(rows, trial.seed), "replica": np.full(rows, trial.replica)}
        self._columns.clear()
        names = {"trial": trial.name, "loss_name": trial.loss.name, "device": trial.device.name}
        return make_table(columns, names=names, rows=rows)

    def state(self) -> dict[str, object]:
        """What an observer that goes on from here must know."""
        return {"audit_error": self.audit_error, **self._diagnostician.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from where another observer stood."""
        self.audit_error = state["audit_error"]
        self._diagnostician.restore(state)

    def take_findings(self) -> tuple[Finding, ...]:
        """Returns what was found wrong with the gradient since the last call."""
        return self._diagnostician.take_findings()

    def _audit(
        self, output: torch.Tensor, target: torch.Tensor, *, loss: torch.Tensor, output_grad: torch.Tensor
    ) -> Sequence[float]:
        """What `audit.errors` returns, NaN for a step that is not audited."""
        step = self._place.step
        if not self._place.audited:
            return [math.nan] * len(AUDIT_COLUMNS)
        if self._columns["output_digest"][-1] != digest(output):
            raise TrialFailed(
                step, "the loss changed its output in place; work on a copy, output.clone()", kind="mutates"
            )
        if self._columns["input_digest"][-1] != self._input_digest():
            raise TrialFailed(
                step, "the loss changed its target in place; work on a copy, target.clone()", kind="mutates"
            )
        if self.audit_error is None:
            try:
                output, target, output_grad = output.cpu(), target.cpu(), output_grad.cpu()
                found = errors(self._oracle, output, target, loss=loss.cpu(), output_grad=output_grad)
                if not found[0] <= SUSPICIOUS and self._trial.loss != self._trial.oracle:
                    self._diagnostician.look(self._place, output, target, output_grad, ratio=found[2])
                return found
            except OracleUnavailable as error:
                self.audit_error = str(error)
        return [math.nan] * len(AUDIT_COLUMNS)

    def _input_digest(self) -> int:
        return combine(np.array([digest(tensor) for tensor in self._inputs], np.uint64))

    def _add(self, name: str, value: object) -> None:
        self._columns[name].append(value)

    def _add_each(self, name: str, digests: Sequence[int]) -> None:
        array = np.array(digests, np.uint64)
        self._add(f"{name}_digest", combine(array))
        self._add(f"{name}_digests", array)

    def _hold(self, name: str, value: torch.Tensor) -> None:
        """Writes a scalar into a buffer on its device: keeping each step's tensor would fragment the heap."""
        if name not in self._values:
            self._values[name] = torch.empty(CAPACITY, dtype=value.dtype, device=value.device)
            self._slots[name] = self._values[name].unbind()
        self._slots[name][self.rows].copy_(value.detach())


def _squared_norm(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of the squares, on the device; dtype[]. Takes half the time of `torch.linalg.vector_norm` on a CPU."""
    flat = tensor.reshape(-1)
    return torch.dot(flat, flat)
