"""What the rows of the tables beside the traces have to be, beside their types: checked as they are read."""

from collections.abc import Container, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from parity.store.tables import CHECKED, CONTRACT_STATUSES, FINDING_KINDS
from parity.store.trace import SKETCH_SUMS

# The columns of each table that have a value in every row.
_REQUIRED = {
    "shared_steps": ("trial", "step", "quantity", "candidate_error_u"),
    "step_errors": ("trial", "step", "quantity", "error_u", "exact_norm"),
    "contract": ("trial", "item", "status", "reason"),
    "findings": ("trial", "step", "kind", "detail"),
    "replays": ("trial", "reference", "step", "quantity", "elements", "differing", "bits"),
}
# Tables whose rows become objects of Python in every report, of some 500 bytes each. The contract has 20 rows for a
# loss on a device, so that this is one of 1,000 losses on 50 devices.
_READ_WHOLE = frozenset({"contract", "findings", "replays"})
MOST_ROWS = 1_000_000
# The columns whose values are words, each with these.
_WORDS: Mapping[str, Mapping[str, Container[str]]] = {
    "shared_steps": {"quantity": CHECKED},
    "step_errors": {"quantity": CHECKED},
    "contract": {"status": CONTRACT_STATUSES},
    "findings": {"kind": FINDING_KINDS},
}


def find_wrong_evidence(name: str, table: pa.Table, trials: Container[str]) -> str | None:
    """What is wrong with a table, or None.

    Args:
        name: Its name in `tables.EVIDENCE`.
        table: The table.
        trials: Names of the trials of the run.
    """
    if name in _READ_WHOLE and len(table) > MOST_ROWS:
        return f"it has {len(table):,} rows, and at most {MOST_ROWS:,} are read"
    for column in _REQUIRED[name]:
        if table[column].null_count:
            return f"its column {column} lacks values"
    for column in table.column_names:
        if pa.types.is_list(table[column].type) and pc.list_flatten(table[column]).null_count:
            return f"the lists of its column {column} lack values"
    if name == "step_errors":
        lengths = pc.unique(pc.drop_null(pc.list_value_length(table["exact_sketch"]))).to_pylist()
        if {*lengths} - {SKETCH_SUMS}:
            return f"its column exact_sketch has other numbers of sums than {SKETCH_SUMS}"
    for column, words in {"trial": trials, **_WORDS.get(name, {})}.items():
        for word in table[column].unique().to_pylist():
            if word not in words:
                return f"its column {column} has {word!r}"
    return None
