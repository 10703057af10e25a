"""What a trial leaves beside its trace: a table of each kind for the whole run, in a Parquet file of that name."""

from typing import Literal, get_args

import pyarrow as pa

from parity.store.schema import NAME, column, describe_table

# Steps that a device takes from the states of the first one, held against float64.
SHARED_STEPS = describe_table(
    "a tensor of a step that a device took from the first device's state",
    [
        column("trial", NAME, "name of the candidate's trial"),
        column("step", pa.int64(), "optimizer step, from 0"),
        column("quantity", NAME, "what is held against float64"),
        column("tensor", NAME, "name of the parameter, null for a quantity of one tensor"),
        column("baseline_error_u", pa.float64(), "||b - x|| / (u ||x||) of the first device, x in float64", unit="u"),
        column("candidate_error_u", pa.float64(), "||c - x|| / (u ||x||) of the candidate", unit="u"),
        column(
            "spread_u",
            pa.float64(),
            "the same between float64 steps from slightly moved parameters; null where not looked at",
            unit="u",
        ),
        column(
            "repeated",
            pa.bool_(),
            "whether the candidate came to the bits of its own training; null where it was not the same step",
        ),
        column("rounding", NAME, "rounding of the factors of matrix products that explains the error, else null"),
    ],
)

# Steps of a trial held against the same steps in float64, from the trial's own state.
STEP_ERRORS = describe_table(
    "a tensor of a step that was held against float64",
    [
        column("trial", NAME, "name of the trial"),
        column("step", pa.int64(), "optimizer step, from 0"),
        column("quantity", NAME, "what is held against float64"),
        column("tensor", NAME, "name of the parameter, null for a quantity of one tensor"),
        column("error_u", pa.float64(), "||b - x|| / (u ||x||), x in float64 from the same state", unit="u"),
        column(
            "spread_u",
            pa.float64(),
            "the same between float64 steps from slightly moved parameters; null where not looked at",
            unit="u",
        ),
        column("exact_norm", pa.float64(), "||x||, x in float64; NaN where there is no such tensor"),
    ],
)

# What the loss did on a few rows before the training.
CONTRACT = describe_table(
    "an item of the loss contract, of a trial",
    [
        column("trial", NAME, "name of the trial"),
        column("item", NAME, "what the loss has to do, since the baseline does"),
        column("status", NAME, "passed, limited, not applicable or failed"),
        column("reason", pa.string(), "what was found; empty when passed"),
    ],
)

# The rules that can fit a wrong gradient, and "unknown": what the column `kind` of findings.parquet may hold.
FindingKind = Literal[
    "nan",
    "zero",
    "other loss",
    "scaled",
    "permuted",
    "offset",
    "precision",
    "rows",
    "columns",
    "elements",
    "unknown",
]
FINDING_KINDS: tuple[FindingKind, ...] = get_args(FindingKind)

# What fits a gradient that is beyond rounding, at some of the steps.
FINDINGS = describe_table(
    "a step whose gradient is beyond rounding and was looked into",
    [
        column("trial", NAME, "name of the trial"),
        column("step", pa.int64(), "optimizer step, from 0"),
        column("kind", NAME, "the rule that fits the output gradient, or unknown"),
        column("value", pa.float64(), "of a scaled gradient the factor, of an offset what is added, else null"),
        column("detail", pa.string(), "which rows, which loss, ..."),
    ],
)

# Odd devices' trials repeated up to where they part from their class: which elements and bits.
REPLAYS = describe_table(
    "an odd device whose trial was repeated up to where it parts",
    [
        column("trial", NAME, "name of the odd device's trial"),
        column("reference", NAME, "name of the trial of the same class that it was held against"),
        column("step", pa.int64(), "optimizer step at which the traces part, from 0"),
        column("quantity", NAME, "the quantity that parts"),
        column("tensor", NAME, "name of the parameter, null for a quantity of one tensor"),
        column("elements", pa.int64(), "elements of the tensor"),
        column("differing", pa.int64(), "of them, those whose bits differ; 0 where it did not recur"),
        column("bits", pa.list_(pa.int32()), "positions of the bits that differ in any element, 0 is the lowest"),
        column("element", pa.int64(), "the first that differs, in C order"),
        column("baseline", pa.float64(), "its value in the reference"),
        column("candidate", pa.float64(), "its value on the odd device"),
    ],
)

EVIDENCE = {
    "shared_steps": SHARED_STEPS,
    "step_errors": STEP_ERRORS,
    "contract": CONTRACT,
    "findings": FINDINGS,
    "replays": REPLAYS,
}
