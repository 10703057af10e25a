"""The trace: its quantities and columns, their units and meaning; and how each stored table explains itself.

Letters: P parameter tensors of the model.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from parity.store.schema import NAME, column, describe_table

# What is compared in a step, in the order in which it is computed.
QUANTITIES = ("input", "output", "loss", "output_grad", "param_grad", "param")
# Columns that tell where two traces part.
DIGESTS = [f"{quantity}_digest" for quantity in QUANTITIES]
# Quantities of one value for each parameter tensor, whose digests are stored one by one.
TENSOR_QUANTITIES = ("param_grad", "param")
# Quantities of which the L2 norm is stored.
NORMED_QUANTITIES = ("output_grad", "param_grad")
# What the audit measures, in the order in which `audit.errors` returns it; null where a step was not audited.
AUDIT_COLUMNS = ("grad_error_u", "loss_error_u", "grad_ratio")
# Numbers that not every step has.
_NULLABLE = (*AUDIT_COLUMNS, "step_grad_norm")
SCHEMA = describe_table(
    "an optimizer step of a trial",
    [
        column("trial", NAME, "name of the trial"),
        column("loss_name", NAME, "name of the loss that it trains with"),
        column("device", NAME, "device that it runs on"),
        column("seed", pa.int64(), "seed of the generators"),
        column("replica", pa.int32(), "0, or the number of the repeat"),
        column("step", pa.int64(), "optimizer step, from 0"),
        column("epoch", pa.int32(), "epoch, from 0"),
        column("batch", pa.int32(), "batch of the epoch, from 0"),
        column("rows", pa.int32(), "rows of the batch"),
        column("elements", pa.int64(), "elements of the output"),
        column("output_grad_strided", pa.bool_(), "whether the output gradient has other strides than the output"),
        column("loss", pa.float64(), "the loss, exact: each value of a narrower dtype is one of float64"),
        column("output_grad_norm", pa.float64(), "L2 norm of the loss's gradient for the output"),
        column("param_grad_norm", pa.float64(), "L2 norm of the gradient for all parameters"),
        column(
            "step_grad_norm",
            pa.float64(),
            "L2 norm of the gradient that the optimizer got, clipped perhaps; null where nobody looked",
        ),
        column("input_digest", pa.uint64(), "XXH3 of the batch and the target"),
        column("output_digest", pa.uint64(), "XXH3 of the output"),
        column("loss_digest", pa.uint64(), "XXH3 of the loss"),
        column("output_grad_digest", pa.uint64(), "XXH3 of the loss's gradient for the output"),
        column("param_grad_digest", pa.uint64(), "XXH3 of param_grad_digests"),
        column("param_digest", pa.uint64(), "XXH3 of param_digests"),
        column("param_grad_digests", pa.list_(pa.uint64()), "XXH3 of each parameter's gradient, in the model's order"),
        column("param_digests", pa.list_(pa.uint64()), "XXH3 of each parameter after the step, in the model's order"),
        column(
            "grad_error_u",
            pa.float64(),
            "||g - g64|| / (u ||g64||): output gradient against float64; null where not audited",
            unit="u",
        ),
        column(
            "loss_error_u",
            pa.float64(),
            "|loss - loss64| / (u |loss64|): loss against float64; null where not audited",
            unit="u",
        ),
        column(
            "grad_ratio",
            pa.float64(),
            "<g, g64> / <g64, g64>: 1 is right, 2 is twice too large; null where not audited",
        ),
        column("step_s", pa.float64(), "wall time of forward, loss, backward and optimizer", unit="s"),
    ],
)


def make_table(columns: Mapping[str, np.ndarray], *, names: Mapping[str, str], rows: int) -> pa.Table:
    """Builds a trace.

    Args:
        columns: Numbers, dtype[rows]; of a list column uint64[rows, P]. A column that may be null may be left out, and
            its NaNs become nulls.
        names: The one value of each column of names.
        rows: How many steps.

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
    # What a file says of itself is not sent with each part of a trace.
    return pa.Table.from_arrays(arrays, schema=SCHEMA.remove_metadata())


def _array(values: np.ndarray, kind: pa.DataType, *, valid: np.ndarray | None = None) -> pa.Array:
    if pa.types.is_list(kind):
        rows, width = values.shape
        offsets = np.arange(0, rows * width + 1, width, dtype=np.int32) if width else np.zeros(rows + 1, np.int32)
        child = _array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
        return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(offsets)], children=[child])
    values = np.ascontiguousarray(values, dtype=kind.to_pandas_dtype())
    validity = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    content = np.packbits(values, bitorder="little") if pa.types.is_boolean(kind) else values
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(content)])


def _constant(name: str, rows: int) -> pa.Array:
    text = name.encode()
    offsets = np.array([0, len(text)], np.int32)
    dictionary = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)])
    return pa.DictionaryArray.from_arrays(_array(np.zeros(rows), pa.int32()), dictionary)


def first_difference(baseline: pa.Table, candidate: pa.Table) -> int | None:
    """The first row in which a digest of two traces, or of two parts of them, differs; None if none does."""
    steps = min(len(baseline), len(candidate))
    differs = np.zeros(steps, bool)
    for name in DIGESTS:
        left, right = (side[name].to_numpy()[:steps] for side in (baseline, candidate))
        differs |= left != right
    return int(np.argmax(differs)) if differs.any() else None
