"""What the rows of a trace have to be, beside their types: checked as they are read, before they are judged."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from parity.store.column_chunks import Chunk
from parity.store.settings_text import check_settings
from parity.store.trace import NULLABLE, SCHEMA, SKETCH_SUMS, TENSOR_QUANTITIES
from parity.store.trials import TrialRecord

# Counters of the state of one optimizer, see `trace.SCHEMA`.
_COUNTS = 3


def find_wrong_column(table: pa.Table, record: TrialRecord) -> str | None:
    """What is wrong with a column of a trace, or None.

    Args:
        table: Rows of the trace, in some of the columns of `trace.SCHEMA`.
        record: The trial.
    """
    for name in table.column_names:
        column = table[name]
        if column.null_count and name not in NULLABLE:
            return f"its column {name} lacks values"
        if pa.types.is_list(column.type):
            if pc.list_flatten(column).null_count:
                return f"the lists of its column {name} lack values"
        elif name in _NOT_NEGATIVE and ((least := pc.min(column).as_py()) or 0) < 0:
            return f"its column {name} has {least}, and must not be negative"
        elif name == "grad_unit" and pc.min(column).as_py() == 0:  # errors are counted in it
            return f"its column {name} has 0.0, and must be above 0"
        elif name == "settings":
            for text in column.unique().drop_null().to_pylist():
                try:
                    check_settings(text, len(record.param_names))
                except ValueError as error:
                    return f"its column {name} has a text that does not describe settings: {error}"
    return _wrong_lengths(table, record)


def find_wrong_chunks(columns: Mapping[str, Sequence[Chunk]], record: TrialRecord) -> str | None:
    """What is wrong with a trace by the footer alone, or None.

    Args:
        columns: What the footer says of the chunks of each column, by its name.
        record: The trial.
    """
    tensors, buffers = len(record.param_names), record.buffer_names
    for name, chunks in columns.items():
        lists = pa.types.is_list(SCHEMA.field(name).type)
        # An empty list is a null to the footer.
        if name not in NULLABLE and any(chunk.nulls for chunk in chunks) and (tensors or not lists):
            return f"its {name} are not {tensors} in each row" if lists else f"its column {name} lacks values"
        if name in _DIGESTS and sum(chunk.values for chunk in chunks) != record.rows * max(1, tensors):
            return f"its {name} are not {tensors} in each row"
        # A list without elements counts as one value.
        wanted = None if buffers is None or any(chunk.nulls for chunk in chunks) else record.rows * max(1, len(buffers))
        if name == "buffer_digests" and wanted not in (None, sum(chunk.values for chunk in chunks)):
            return f"its {name} are not {len(buffers or ())} in each row"
    return None


def _wrong_lengths(table: pa.Table, record: TrialRecord) -> str | None:
    """What is wrong with the lengths of the lists of a trace, or None."""
    lengths = {
        name: pc.list_value_length(table[name]) for name in table.column_names if pa.types.is_list(table[name].type)
    }
    tensors, buffers = len(record.param_names), record.buffer_names
    wanted = dict.fromkeys(_OF_TENSORS, tensors) | ({} if buffers is None else dict.fromkeys(_OF_BUFFERS, len(buffers)))
    for name, found in lengths.items():
        known = pc.unique(pc.drop_null(found)).to_pylist()
        if name in wanted and {*known} - {wanted[name]}:
            return f"its {name} are not {wanted[name]} in each row"
        if name == "state_counts" and any(length % _COUNTS for length in known):
            return f"its {name} are not {_COUNTS} for each optimizer"
        if name.endswith("_sketches") and any(length % SKETCH_SUMS for length in known):
            return f"its {name} are not {SKETCH_SUMS} sums for each tensor"
        norms = lengths.get(name.replace("_sketches", "_norms")) if name.endswith("_sketches") else None
        if norms is not None and not pc.all(pc.equal(pc.multiply(norms, SKETCH_SUMS), found), min_count=0).as_py():
            return f"its {name} are of other tensors than its norms"
    return None


# Numbers of something, norms and errors.
_NOT_NEGATIVE = (
    "rows",
    "elements",
    "output_grad_norm",
    "param_grad_norm",
    "step_grad_norm",
    "grad_error_u",
    "loss_error_u",
    "grad_unit",
    "grad_condition_u",
    "grad_rows",
    "passed_on_u",
    "step_s",
)
_DIGESTS = tuple(f"{quantity}_digests" for quantity in TENSOR_QUANTITIES)
# Columns of lists with a value for each parameter tensor, and for each buffer.
_OF_TENSORS = (
    *_DIGESTS,
    *(f"{quantity}_norms" for quantity in ("param_grad", "step_grad", "update")),
)
_OF_BUFFERS = ("buffer_digests", "buffer_norms")
