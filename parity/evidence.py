"""What a trial leaves beside its trace: a table of each kind for the whole run, in a Parquet file of that name."""

import pyarrow as pa

from parity.trace import column

# Steps that a device takes from the states of the first one, held against float64.
SHARED_STEPS = pa.schema(
    [
        column("trial", pa.string(), "name of the candidate's trial"),
        column("step", pa.int64(), "optimizer step, from 0"),
        column("quantity", pa.string(), "what is held against float64"),
        column("tensor", pa.string(), "name of the parameter, null for a quantity of one tensor"),
        column("baseline_error_u", pa.float64(), "||b - x|| / (u ||x||) of the first device, x in float64", unit="u"),
        column("candidate_error_u", pa.float64(), "||c - x|| / (u ||x||) of the candidate's", unit="u"),
        column("spread_u", pa.float64(), "of float64 steps from slightly moved parameters, where looked at", unit="u"),
        column("repeated", pa.bool_(), "whether the step came out as in the trial, where it was the same"),
        column("rounding", pa.string(), "rounding of the factors of matrix products that explains the error"),
    ]
)

# Steps of a trial held against the same steps in float64, from the trial's own state.
STEP_ERRORS = pa.schema(
    [
        column("trial", pa.string(), "name of the trial"),
        column("step", pa.int64(), "optimizer step, from 0"),
        column("quantity", pa.string(), "what is held against float64"),
        column("tensor", pa.string(), "name of the parameter, null for a quantity of one tensor"),
        column("error_u", pa.float64(), "||b - x|| / (u ||x||), x in float64", unit="u"),
        column("spread_u", pa.float64(), "of float64 steps from slightly moved parameters, where looked at", unit="u"),
    ]
)

# What the loss did on a few rows before the training.
CONTRACT = pa.schema(
    [
        column("trial", pa.string(), "name of the trial"),
        column("item", pa.string(), "what the baseline does, and the loss is to do"),
        column("status", pa.string(), "passed, limited, not applicable or failed"),
        column("reason", pa.string(), "what was found; empty when passed"),
    ]
)

# What fits a gradient that is beyond rounding, at some of the steps.
FINDINGS = pa.schema(
    [
        column("trial", pa.string(), "name of the trial"),
        column("step", pa.int64(), "optimizer step, from 0"),
        column("kind", pa.string(), "the rule that fits the output gradient, or unknown"),
        column("value", pa.float64(), "of a scaled gradient the factor, of an offset what is added, else null"),
        column("detail", pa.string(), "which rows, which loss, ..."),
    ]
)

# Odd devices' trials repeated up to where they part from their class: which elements and bits.
REPLAYS = pa.schema(
    [
        column("trial", pa.string(), "name of the odd device's trial"),
        column("reference", pa.string(), "name of the trial of the same class that it was held against"),
        column("step", pa.int64(), "optimizer step at which the traces part, from 0"),
        column("quantity", pa.string(), "the quantity that parts"),
        column("tensor", pa.string(), "name of the parameter, null for a quantity of one tensor"),
        column("elements", pa.int64(), "elements of the tensor"),
        column("differing", pa.int64(), "of them, those whose bits differ; 0 where it did not recur"),
        column("bits", pa.list_(pa.int32()), "positions of the bits that differ in any element, 0 is the lowest"),
        column("element", pa.int64(), "the first that differs, in C order"),
        column("baseline", pa.float64(), "its value in the reference"),
        column("candidate", pa.float64(), "its value on the odd device"),
    ]
)

EVIDENCE = {
    "shared_steps": SHARED_STEPS,
    "step_errors": STEP_ERRORS,
    "contract": CONTRACT,
    "findings": FINDINGS,
    "replays": REPLAYS,
}
