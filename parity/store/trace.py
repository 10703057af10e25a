"""The trace: its quantities, and its columns with their units and meanings.

Letters: P parameter tensors of the model.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from parity.store.schema import NAME, column, describe_table

# What is compared in a step, in the order in which it is computed.
QUANTITIES = ("input", "output", "loss", "output_grad", "param_grad", "param")
# Columns that show where two traces first differ.
DIGESTS = [f"{quantity}_digest" for quantity in QUANTITIES]
# Quantities with one tensor for each parameter, whose digests are also stored one by one.
TENSOR_QUANTITIES = ("param_grad", "param")
# Quantities of which the L2 norm is stored.
NORMED_QUANTITIES = ("output_grad", "param_grad")
# What the audit measures, in the order in which `Auditor.audit` returns it; null where a step was not audited.
AUDIT_COLUMNS = (
    *("grad_error_u", "loss_error_u", "grad_ratio", "grad_u"),
    # Only where the gradient is suspicious.
    *("grad_condition_u", "grad_rows", "passed_on_u"),
)
STEP = column("step", pa.int64(), "optimizer step, from 0")
# Where a step stands in the training.
PLACE = (
    STEP,
    column("epoch", pa.int32(), "epoch, from 0"),
    column("batch", pa.int32(), "number of the batch in its epoch, from 0"),
)
# Columns that may be null.
_NULLABLE = (*AUDIT_COLUMNS, "step_grad_norm")
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
        column("input_digest", pa.uint64(), "XXH3 digest of the batch and the target"),
        column("output_digest", pa.uint64(), "XXH3 digest of the output"),
        column("loss_digest", pa.uint64(), "XXH3 digest of the loss"),
        column("output_grad_digest", pa.uint64(), "XXH3 digest of the gradient of the loss with respect to the output"),
        column("param_grad_digest", pa.uint64(), "XXH3 digest of param_grad_digests"),
        column("param_digest", pa.uint64(), "XXH3 digest of param_digests"),
        column(
            "param_grad_digests",
            pa.list_(pa.uint64()),
            "XXH3 digest of each parameter's gradient, in the model's order",
        ),
        column(
            "param_digests", pa.list_(pa.uint64()), "XXH3 digest of each parameter after the step, in the model's order"
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
        column("grad_u", pa.float64(), "unit roundoff u that grad_error_u counts in; null if not audited"),
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


def make_table(columns: Mapping[str, np.ndarray], *, names: Mapping[str, str], rows: int) -> pa.Table:
    """Builds a trace from arrays.

    Args:
        columns: Values by column: dtype[rows], or uint64[rows, P] for a list column. A nullable column may be missing,
            and its NaNs become nulls.
        names: The one value of each column of names.
        rows: Number of steps.

    Returns:
        A row per step, in the columns of `SCHEMA`.
    """
    arrays = []
    for field in SCHEMA:
        if field.name in names:
            arrays.append(_constant(names[field.name], rows))
        elif field.name in _NULLABLE and field.name not in columns:
            arrays.append(pa.nulls(rows, field.type))
        elif field.name in _NULLABLE:
            arrays.append(_array(columns[field.name], field.type, valid=~np.isnan(columns[field.name])))
        else:
            arrays.append(_array(columns[field.name], field.type))
    # The meanings of the columns are stored once in a file, and not sent with each chunk of a trace.
    return pa.Table.from_arrays(arrays, schema=SCHEMA.remove_metadata())


def _array(values: np.ndarray, kind: pa.DataType, *, valid: np.ndarray | None = None) -> pa.Array:
    """An Arrow array on the values' own memory: `pa.array` converts value by value, which is slow for lists."""
    if pa.types.is_list(kind):
        # Arrow's plain lists have offsets of 32 bits, enough for the rows of one chunk. A model without parameters has
        # only empty lists, for which `arange` would need a step of 0.
        rows, width = values.shape
        offsets = np.arange(0, rows * width + 1, width, dtype=np.int32) if width else np.zeros(rows + 1, np.int32)
        child = _array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
        return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(offsets)], children=[child])
    # Arrow keeps validity and booleans as bits, the first in the lowest.
    values = np.ascontiguousarray(values, dtype=kind.to_pandas_dtype())
    validity = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    content = np.packbits(values, bitorder="little") if pa.types.is_boolean(kind) else values
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(content)])


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
        left, right = (side[name].to_numpy()[:steps] for side in (baseline, candidate))
        differs |= left != right
    return int(np.argmax(differs)) if differs.any() else None
