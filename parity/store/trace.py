"""The trace: its quantities, and its columns with their units and meanings.

Letters: P parameter tensors of the model.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.store.schema import NAME, column, describe_table

# What is compared in a step bit for bit, in the order in which it is computed.
QUANTITIES = (
    *("state", "input", "output", "loss", "output_grad", "target_grad", "param_grad", "step_grad", "param", "buffer"),
)
# Quantities that runs of earlier versions lack; null where nobody looked.
LATER_QUANTITIES = ("state", "target_grad", "step_grad", "buffer")
# Quantities whose tensors have a norm and a sketch at each step, in the order of computation. The update is what the
# step added to each parameter.
SKETCHED_QUANTITIES = ("output", "output_grad", "target_grad", "param_grad", "step_grad", "update", "buffer")
# Number of sums in the sketch of a tensor.
SKETCH_SUMS = 8
# Columns that show where two traces first differ.
DIGESTS = [f"{quantity}_digest" for quantity in QUANTITIES]
# Quantities with one tensor for each parameter, whose digests are also stored one by one.
TENSOR_QUANTITIES = ("param_grad", "param")
# Quantities of which the L2 norm is stored.
NORMED_QUANTITIES = ("output_grad", "param_grad")
# What the audit measures, in the order in which `Auditor.audit` returns it; null where a step was not audited.
AUDIT_COLUMNS = (
    *("grad_error_u", "loss_error_u", "grad_ratio", "grad_unit"),
    # Only where the gradient is suspicious.
    *("grad_condition_u", "grad_rows", "passed_on_u"),
)
# The random generators whose states are stored, in this order.
GENERATORS = ("torch", "numpy", "python", "cuda", "mps")
STEP = column("step", pa.int64(), "optimizer step, from 0")
# Where a step stands in the training.
PLACE = (
    STEP,
    column("epoch", pa.int32(), "epoch, from 0"),
    column("batch", pa.int32(), "number of the batch in its epoch, from 0"),
)
_SKETCH_COLUMNS = tuple(f"{quantity}_{kind}" for quantity in SKETCHED_QUANTITIES for kind in ("norms", "sketches"))
_LATER_DIGESTS = tuple(f"{quantity}_digest" for quantity in LATER_QUANTITIES)
# Columns that were added after the first release; null in older runs.
LATER_COLUMNS = frozenset(
    {
        *AUDIT_COLUMNS[3:],
        *("step_grad_norm", "settings", "state_counts", "generator_digests", "buffer_digests"),
        *_LATER_DIGESTS,
        *_SKETCH_COLUMNS,
    }
)
# Columns that may be null.
NULLABLE = (*AUDIT_COLUMNS, *LATER_COLUMNS)
_SKETCHED_MEANINGS = {
    "output": "output",
    "output_grad": "output gradient",
    "target_grad": "target gradient",
    "param_grad": "parameter gradient",
    "step_grad": "gradient that the optimizer received; null if it is the parameter gradient, or not observed",
    "update": "parameters, less those after the previous step",
    "buffer": "buffers",
}
SCHEMA = describe_table(
    "an optimizer step of a trial",
    [
        column("trial", NAME, "name of the trial"),
        column("loss_name", NAME, "name of the loss"),
        column("device", NAME, "name of the device"),
        column("seed", pa.int64(), "seed of the generators"),
        column("replica", pa.int32(), "number of the repeat; 0 for the first run"),
        *PLACE,
        column("rows", pa.int32(), "number of rows in the batch"),
        column("elements", pa.int64(), "number of elements of the output"),
        column(
            "output_grad_strided",
            pa.bool_(),
            "whether the strides of the output gradient differ from those of the output",
        ),
        column("loss", pa.float64(), "the loss, exactly: every value of a narrower dtype is also a float64"),
        column("output_grad_norm", pa.float64(), "L2 norm of the gradient of the loss with respect to the output"),
        column("param_grad_norm", pa.float64(), "L2 norm of the gradient of all parameters together"),
        column(
            "step_grad_norm",
            pa.float64(),
            "L2 norm of the gradient that the optimizer received, after any clipping; null if not observed",
        ),
        column("settings", NAME, "settings of the optimizers and modes of the model in this step, as JSON"),
        column(
            "state_counts",
            pa.list_(pa.int64()),
            "for each optimizer: number of parameters with a state, and the least and largest step counter in it",
        ),
        column("state_digest", pa.uint64(), "digest of the optimizers' state before their step"),
        column(
            "generator_digests",
            pa.list_(pa.uint64()),
            f"XXH3 digest of the states of the generators before the step: {', '.join(GENERATORS)}",
        ),
        column("input_digest", pa.uint64(), "digest of the batch and the target"),
        column("output_digest", pa.uint64(), "digest of the output"),
        column("loss_digest", pa.uint64(), "XXH3 digest of the loss"),
        column("output_grad_digest", pa.uint64(), "digest of the gradient of the loss with respect to the output"),
        column(
            "target_grad_digest",
            pa.uint64(),
            "digest of the gradient of the loss with respect to the target; 0 if it requires none",
        ),
        column("param_grad_digest", pa.uint64(), "XXH3 digest of param_grad_digests"),
        column(
            "step_grad_digest",
            pa.uint64(),
            "digest of the gradient of each parameter that the optimizer received; null if not observed",
        ),
        column("param_digest", pa.uint64(), "XXH3 digest of param_digests"),
        column("buffer_digest", pa.uint64(), "XXH3 digest of buffer_digests"),
        column(
            "param_grad_digests",
            pa.list_(pa.uint64()),
            "digest of each parameter's gradient, in the model's order",
        ),
        column("param_digests", pa.list_(pa.uint64()), "digest of each parameter after the step, in the model's order"),
        column("buffer_digests", pa.list_(pa.uint64()), "digest of each buffer after the step, in the model's order"),
        *(
            field
            for quantity, meaning in _SKETCHED_MEANINGS.items()
            for field in (
                column(f"{quantity}_norms", pa.list_(pa.float32()), f"L2 norm of each tensor of the {meaning}"),
                column(
                    f"{quantity}_sketches",
                    pa.list_(pa.float32()),
                    f"{SKETCH_SUMS} signed sums of each tensor of the {meaning}",
                ),
            )
        ),
        column(
            "grad_error_u",
            pa.float64(),
            "error of the output gradient: ||g - g64|| / (u ||g64||); null if not audited",
            unit="u",
        ),
        column(
            "loss_error_u",
            pa.float64(),
            "error of the loss: |loss - loss64| / (u |loss64|); null if not audited",
            unit="u",
        ),
        column(
            "grad_ratio",
            pa.float64(),
            "<g, g64> / <g64, g64>: 1 is right, 2 is twice too large; null if not audited",
        ),
        column("grad_unit", pa.float64(), "unit roundoff u that grad_error_u counts in; null if not audited"),
        column(
            "grad_condition_u",
            pa.float64(),
            "how far one rounding of the output moves the gradient in float64; null if the gradient is not suspicious",
            unit="u",
        ),
        column(
            "grad_rows",
            pa.float64(),
            "number of rows that the gradient is made of: (sum s)**2 / sum s**2 of the rows' squared norms s; null if "
            "the gradient is not suspicious",
        ),
        column(
            "passed_on_u",
            pa.float64(),
            "what the model's backward makes of g - g64, beside the whole gradient of the parameters; null if the "
            "gradient is not suspicious, or it was not sent on",
            unit="u",
        ),
        column("step_s", pa.float64(), "wall time of forward, loss, backward and optimizer step", unit="s"),
    ],
)


def make_table(columns: Mapping[str, np.ndarray | list[Any]], *, names: Mapping[str, str], rows: int) -> pa.Table:
    """Builds a trace from arrays.

    Args:
        columns: Values by column: dtype[rows], or dtype[rows, N] for a list column. A nullable column may be missing;
            its NaNs become nulls, and so do the masked values of a masked array and the Nones of a list.
        names: The one value of each column of names.
        rows: Number of steps.

    Returns:
        A row per step, in the columns of `SCHEMA`.
    """
    arrays = []
    for field in SCHEMA:
        if field.name in names:
            arrays.append(_constant(names[field.name], rows))
            continue
        if field.name in NULLABLE and field.name not in columns:
            arrays.append(pa.nulls(rows, field.type))
            continue
        values = columns[field.name]
        if isinstance(values, list):
            arrays.append(_from_list(values, field.type))
        elif isinstance(values, np.ma.MaskedArray):
            # A list is masked as a whole.
            masked = np.ma.getmaskarray(values)
            arrays.append(_array(values.data, field.type, valid=~(masked[:, 0] if masked.ndim > 1 else masked)))
        elif field.name in AUDIT_COLUMNS or field.name == "step_grad_norm":
            arrays.append(_array(values, field.type, valid=~np.isnan(values)))
        else:
            arrays.append(_array(values, field.type))
    # The meanings of the columns are stored once in a file, and not sent with each chunk of a trace.
    return pa.Table.from_arrays(arrays, schema=SCHEMA.remove_metadata())


def _from_list(values: list[Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array of values that are no array: names, lists of several lengths, or nothing but nulls."""
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode()
    return pa.array([value.tolist() if isinstance(value, np.ndarray) else value for value in values], kind)


def _array(values: np.ndarray, kind: pa.DataType, *, valid: np.ndarray | None = None) -> pa.Array:
    """An Arrow array on the values' own memory: `pa.array` converts value by value, which is slow for lists."""
    if pa.types.is_list(kind):
        # Arrow's plain lists have offsets of 32 bits, enough for the rows of one chunk. A model without parameters has
        # only empty lists, for which `arange` would need a step of 0.
        rows, width = values.shape
        offsets = np.arange(0, rows * width + 1, width, dtype=np.int32) if width else np.zeros(rows + 1, np.int32)
        child = _array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
        return pa.Array.from_buffers(kind, rows, [_validity(valid), pa.py_buffer(offsets)], children=[child])
    # Arrow keeps validity and booleans as bits, the first in the lowest.
    values = np.ascontiguousarray(values, dtype=kind.to_pandas_dtype())
    content = np.packbits(values, bitorder="little") if pa.types.is_boolean(kind) else values
    return pa.Array.from_buffers(kind, len(values), [_validity(valid), pa.py_buffer(content)])


def _validity(valid: np.ndarray | None) -> pa.Buffer | None:
    return None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))


def _constant(name: str, rows: int) -> pa.Array:
    """A column of names that has the same name in each row."""
    text = name.encode()
    offsets = np.array([0, len(text)], np.int32)
    dictionary = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)])
    return pa.DictionaryArray.from_arrays(_array(np.zeros(rows), pa.int32()), dictionary)


def first_difference(baseline: pa.Table, candidate: pa.Table) -> int | None:
    """Finds the first row in which a digest of two traces, or of two slices of them, differs.

    Args:
        baseline: Has at least the columns `DIGESTS`.
        candidate: The same for the other trace, aligned with the first row of the baseline.

    Returns:
        Number of the row, from 0; None if no row that both have differs.
    """
    steps = min(len(baseline), len(candidate))
    differs = np.zeros(steps, bool)
    for name in DIGESTS:
        # A digest that nobody took is null on both sides.
        left, right = (pc.fill_null(side[name], 0).to_numpy()[:steps] for side in (baseline, candidate))
        differs |= left != right
    return int(np.argmax(differs)) if differs.any() else None
