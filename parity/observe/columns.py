"""The columns of a trace while they are filled, step by step, until a block of steps is fetched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from parity.observe.deferred import Later
from parity.observe.digest import digest
from parity.observe.fingerprint import Fingerprint
from parity.observe.rows import Rows
from parity.observe.word_fingerprint import DeferredFingerprint
from parity.plan.trial import Trial
from parity.store.trace import make_table

# What a column of these kinds is made of; anything else is what NumPy makes of its values.
_DTYPES = {"digest": np.uint64, "digests": np.uint64, "norms": np.float32, "sketches": np.float32, "counts": np.int64}

AnyFingerprint = Fingerprint | DeferredFingerprint


class Columns:
    """Columns that are filled step by step.

    Args:
        capacity: Most steps before a flush.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._columns: defaultdict[str, list[Any]] = defaultdict(list)
        self._values: dict[str, torch.Tensor] = {}
        self._slots: dict[str, tuple[torch.Tensor, ...]] = {}

    @property
    def rows(self) -> int:
        """Number of whole steps since the last flush."""
        # The column that is added last, so only whole steps have it.
        return len(self._columns["step_s"])

    def add(self, values: Mapping[str, object]) -> None:
        """Adds values of this step; None where it has none."""
        for name, value in values.items():
            self._columns[name].append(value)

    def add_fingerprint(self, quantity: str, found: AnyFingerprint) -> None:
        """Adds the digests, norms and sketches of a quantity."""
        self._add_of(
            found,
            {
                f"{quantity}_digest": lambda: found.digest,
                f"{quantity}_digests": lambda: found.digests,
                f"{quantity}_norms": lambda: found.norms,
                f"{quantity}_sketches": lambda: found.sketches.reshape(-1),
            },
        )
        if quantity == "param_grad":
            self._add_of(found, {"param_grad_norm": lambda: found.norm})

    def add_update(self, found: AnyFingerprint) -> None:
        """Adds the digests of the parameters, and the norms and sketches of what was added to them."""
        self._add_of(
            found,
            {
                "param_digest": lambda: found.digest,
                "param_digests": lambda: found.digests,
                "update_norms": lambda: found.norms,
                "update_sketches": lambda: found.sketches.reshape(-1),
            },
        )

    def add_step_gradient(self, found: AnyFingerprint | None, param_grad: AnyFingerprint) -> None:
        """Adds the gradient that the optimizer was given: None if not observed; often the very one of backward."""

        def differs() -> AnyFingerprint | None:
            # Bits that are those of backward, but were not known to be when they were taken.
            same = found is None or found is param_grad or np.array_equal(found.digests, param_grad.digests)
            return None if same else found

        self._add_of(
            found,
            {
                "step_grad_digest": lambda: None if found is None else found.digest,
                "step_grad_norm": lambda: np.nan if found is None else found.norm,
                # Of a gradient that is that of backward, norms and sketches are stored once.
                "step_grad_norms": lambda: (other := differs()) and other.norms,
                "step_grad_sketches": lambda: (other := differs()) and other.sketches.reshape(-1),
            },
        )

    def add_rows(self, quantity: str, found: Rows) -> None:
        """Adds the digest, norms and sketches of a quantity that has rows."""
        self._add_of(
            found,
            {
                f"{quantity}_digest": lambda: found.digest if found.count else 0,
                f"{quantity}_norms": lambda: found.norms,
                f"{quantity}_sketches": lambda: found.sketches.reshape(-1),
            },
        )
        if quantity == "output_grad":
            self._add_of(found, {"output_grad_norm": lambda: found.norm})

    def add_input(self, found: Rows) -> None:
        """Adds the digest of the batches."""
        self._add_of(found, {"input_digest": lambda: found.digest})

    def _add_of(self, found: AnyFingerprint | Rows | None, values: Mapping[str, Callable[[], object]]) -> None:
        """Adds values that are made of what was found; where devices still have it, when the block is fetched."""
        now = found is None or not found.deferred
        self.add({name: make() if now else Later(make) for name, make in values.items()})

    def hold(self, name: str, value: torch.Tensor) -> None:
        """Writes a scalar without a graph, dtype[], into a buffer on its device.

        Keeping each step's tensor in a list would fragment the heap: some 95,000 page faults, up to 1.1 s of 2.5 s,
        were seen over the 470 steps of the reference experiment.
        """
        if name not in self._values:
            # The views of the elements are made once for each buffer rather than one at each step.
            self._values[name] = torch.empty(self._capacity, dtype=value.dtype, device=value.device)
            self._slots[name] = self._values[name].unbind()
        self._slots[name][self.rows].copy_(value)

    @property
    def loss_dtype(self) -> torch.dtype | None:
        """The dtype of the loss; None before the first step."""
        return self._values["loss"].dtype if "loss" in self._values else None

    def flush(self, trial: Trial) -> pa.Table:
        """Returns the whole steps since the last flush, in the columns of `trace.SCHEMA`, and forgets them."""
        # Before any column is popped, since `rows` counts one of them.
        rows = self.rows
        for values in self._columns.values():
            values[:] = [value.get() if isinstance(value, Later) else value for value in values]
        loss_digests = self._columns.pop("loss_digest")
        # No part of these is in the schema: the digests of a tensor that belongs to another are not stored.
        self._columns.pop("step_grad_digests", None)
        # A norm beyond the range of float32 is an infinity, whose distance is not known.
        with np.errstate(over="ignore"):
            columns: dict[str, Any] = {name: _array(name, values) for name, values in self._columns.items()}
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
        columns |= {"seed": np.full(rows, trial.seed), "replica": np.full(rows, trial.replica)}
        self._columns.clear()
        names = {"trial": trial.name, "loss_name": trial.loss.name, "device": trial.device.name}
        return make_table(columns, names=names, rows=rows)


def _array(name: str, values: list[Any]) -> Any:
    """A column as `trace.make_table` takes it: an array, masked where there is nothing; names as a list."""
    present = [value for value in values if value is not None]
    if not present or isinstance(present[0], str):
        return values
    # Another step may have another number of parts; then Arrow gets them row by row.
    if isinstance(present[0], (np.ndarray, list)) and len(set(map(len, present))) > 1:
        return values
    dtype = _DTYPES.get(name.rpartition("_")[2])
    if len(present) == len(values):
        return _converted(values, dtype)
    first = present[0]
    # In the place of numbers just as many; of one number a number, and not an array without a dimension.
    nothing = [0] * len(first) if isinstance(first, list) else np.zeros_like(first)[()]
    array = _converted([nothing if value is None else value for value in values], dtype)
    mask = np.array([value is None for value in values])
    return np.ma.MaskedArray(array, np.broadcast_to(mask[:, None], array.shape) if array.ndim > 1 else mask)


def _converted(values: list[Any], dtype: Any) -> np.ndarray:
    """An array of numbers or of arrays of one length, dtype[rows] or dtype[rows, N]."""
    # The dtype is explicit, since NumPy would make float64 of a list of large integers.
    if isinstance(values[0], np.ndarray):
        # Five times as fast as np.array(values).
        return np.concatenate(values, dtype=dtype, casting="same_kind").reshape(len(values), -1)
    return np.array(values, dtype)
