"""differences.parquet: for each pair a row per step, with how far the two traces are apart there."""

from typing import Any

import numpy as np
import pyarrow as pa

from parity.judge.differences import Comparison
from parity.store.schema import NAME, column, describe_table
from parity.store.trace import NORMED_QUANTITIES, PLACE, QUANTITIES, SKETCHED_QUANTITIES

# The columns of differences.parquet.
SCHEMA = describe_table(
    "a step that both trials of a pair have",
    [
        column("axis", NAME, "what the pair differs in: loss, device, replica or noise"),
        column("baseline", NAME, "name of the baseline trial"),
        column("candidate", NAME, "name of the candidate trial"),
        *PLACE,
        column("loss_abs", pa.float64(), "|candidate - baseline| of the loss"),
        column("loss_rel", pa.float64(), "loss_abs / |baseline|, 0 where loss_abs is 0"),
        column("loss_ulp", pa.int64(), "neighbouring numbers between the losses, null beside a NaN", unit="ulp"),
        column("output_grad_norm_ratio", pa.float64(), "candidate / baseline of the output gradient's norm"),
        column("param_grad_norm_ratio", pa.float64(), "candidate / baseline of the parameter gradient's norm"),
        *(
            column(f"{quantity}_differs", pa.bool_(), f"whether the {quantity} differs in any bit")
            for quantity in QUANTITIES
        ),
        *(
            column(
                f"{quantity}_distance",
                pa.float32(),
                f"estimated relative distance of the {quantity}, all tensors together; null where it is not known",
            )
            for quantity in SKETCHED_QUANTITIES
        ),
    ],
)


def differences_table(comparison: Comparison, axis: str) -> pa.Table:
    """The rows of a pair, in the columns of `SCHEMA`; one row for each common step.

    Args:
        comparison: The two traces.
        axis: What the pair differs in.

    Raises:
        Trouble: A trace is damaged.
    """
    steps, ulp = comparison.steps, comparison.loss_ulp
    texts = {
        "axis": axis,
        "baseline": comparison.baseline.record.trial,
        "candidate": comparison.candidate.record.trial,
    }
    same = np.zeros(steps, np.int32)
    columns: dict[str, Any] = {
        **{name: pa.DictionaryArray.from_arrays(same, pa.array([text])) for name, text in texts.items()},
        "loss_abs": comparison.loss_abs,
        "loss_rel": comparison.loss_rel,
        # Arrow makes a null where the mask is True.
        "loss_ulp": pa.array(ulp, pa.int64(), mask=ulp < 0),
    }
    for name in ("step", "epoch", "batch"):
        columns[name] = comparison.both(name)[0]
    for quantity in NORMED_QUANTITIES:
        baseline, candidate = comparison.both(f"{quantity}_norm")
        with np.errstate(divide="ignore", invalid="ignore"):
            # 0 / 0 and x / 0 are values of this column, not errors.
            columns[f"{quantity}_norm_ratio"] = candidate / baseline
    for quantity in QUANTITIES:
        columns[f"{quantity}_differs"] = comparison.differs_in(quantity)
    for quantity in SKETCHED_QUANTITIES:
        distances = comparison.distances(quantity)
        with np.errstate(over="ignore"):
            whole = None if distances is None else distances.whole.astype(np.float32)
        known = None if whole is None else pa.array(whole, pa.float32(), mask=np.isnan(whole))
        columns[f"{quantity}_distance"] = pa.nulls(steps, pa.float32()) if known is None else known
    arrays = [
        each if isinstance(each := columns[field.name], pa.Array) else pa.array(each, field.type) for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
