"""What trials leave beside their traces: for each kind one table of the whole run, in a Parquet file of that name."""

from typing import Literal, get_args

import pyarrow as pa

from parity.store.schema import NAME, column, describe_table
from parity.store.trace import STEP

# The quantities that are checked against float64, in the order in which a step computes them.
CHECKED = ("output", "loss", "output_grad", "param_grad", "update", "param")
_TENSOR = column("tensor", NAME, "name of the parameter; null for a quantity that is one tensor")
# What was checked against float64, and how far random rounding moves float64 itself.
_CHECKED = (STEP, column("quantity", NAME, "the quantity that was checked against float64"), _TENSOR)
_SPREAD = column(
    "spread_u",
    pa.float64(),
    "the same distance of float64 steps with random rounding from the one without; null if not computed",
    unit="u",
)

# Steps that a device takes from the states of the first device, checked against a float64 reference.
SHARED_STEPS = describe_table(
    "a tensor of a step that a device took from the first device's state",
    [
        column("trial", NAME, "name of the candidate's trial"),
        *_CHECKED,
        column(
            "baseline_error_u",
            pa.float64(),
            "error of the first device: ||b - x|| / (u ||x||), with x from float64",
            unit="u",
        ),
        column(
            "candidate_error_u",
            pa.float64(),
            "error of the candidate: ||c - x|| / (u ||x||), with x from float64",
            unit="u",
        ),
        column(
            "baseline_whole_error_u",
            pa.float64(),
            "error of the first device beside the whole: ||b - x|| / (u ||X||), with X all tensors of the quantity; "
            "null in older runs",
            unit="u",
        ),
        column(
            "candidate_whole_error_u",
            pa.float64(),
            "error of the candidate beside the whole: ||c - x|| / (u ||X||); null in older runs",
            unit="u",
        ),
        _SPREAD,
        column(
            "repeated",
            pa.bool_(),
            "whether the candidate reproduced the bits of its own training; null if it was not the same step",
        ),
        column(
            "rounding",
            NAME,
            "the rounding of the factors of matrix products that explains the error; null if none does",
        ),
    ],
)

# Steps of a trial checked against the same steps in float64, from the trial's own state.
STEP_ERRORS = describe_table(
    "a tensor of a step that was checked against float64",
    [
        column("trial", NAME, "name of the trial"),
        *_CHECKED,
        column(
            "error_u",
            pa.float64(),
            "error of the trial: ||b - x|| / (u ||x||), with x from float64 and the same state (for an update: and the "
            "same gradient)",
            unit="u",
        ),
        column(
            "whole_error_u",
            pa.float64(),
            "error beside the whole: ||b - x|| / (u ||X||), with X all tensors of the quantity; null in older runs",
            unit="u",
        ),
        _SPREAD,
        column("unit", pa.float64(), "the unit roundoff u of the tensor's dtype; null in older runs"),
        column("exact_norm", pa.float64(), "norm of the tensor in float64; NaN if the tensor is missing"),
        column(
            "exact_sketch",
            pa.list_(pa.float64()),
            "sketch of the tensor in float64, by which two runs are compared; null if the tensor is missing, and in "
            "older runs",
        ),
        column(
            "exact_error",
            pa.float64(),
            "how far rounding in narrower dtypes, in which model or optimizer compute by "
            "themselves, moves the tensor in float64: ||y - x||; null where they do not, and in older runs",
        ),
    ],
)

# Statuses of the items of a contract, from those that need attention to those that need none.
CONTRACT_STATUSES = ("failed", "limited", "not applicable", "passed")

# What the loss did on a few rows before the training.
CONTRACT = describe_table(
    "an item of the loss contract, checked for a trial",
    [
        column("trial", NAME, "name of the trial"),
        column("item", NAME, "the requirement, which the baseline meets"),
        column("status", NAME, "passed, limited, not applicable or failed"),
        column("reason", pa.string(), "what was found; empty if passed"),
    ],
)

# The rules that can fit a wrong gradient, and "unknown": the values of the column `kind` of findings.parquet.
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

# The explanations that fit gradients that differ by more than rounding can explain, at some of the steps.
FINDINGS = describe_table(
    "a step whose gradient error is larger than rounding can explain, and was diagnosed",
    [
        column("trial", NAME, "name of the trial"),
        STEP,
        column("kind", NAME, "the rule that fits the output gradient, or unknown"),
        column("value", pa.float64(), "the factor of a scaled gradient, or the offset that is added; else null"),
        column("detail", pa.string(), "more about it: which rows, which loss, ..."),
    ],
)

# Repeats of odd devices' trials up to the first step that differs from their class: which elements and bits differ.
REPLAYS = describe_table(
    "a trial of an odd device, repeated up to the first step that differs",
    [
        column("trial", NAME, "name of the odd device's trial"),
        column("reference", NAME, "name of the trial of the same class that it was compared with"),
        column("step", pa.int64(), "first optimizer step at which the traces differ, from 0"),
        column("quantity", NAME, "the first quantity that differs"),
        _TENSOR,
        column("elements", pa.int64(), "number of elements of the tensor"),
        column("differing", pa.int64(), "number of elements whose bits differ; 0 if the difference did not recur"),
        column("bits", pa.list_(pa.int32()), "positions of the bits that differ in any element; 0 is the lowest"),
        column("element", pa.int64(), "index of the first element that differs, in C order"),
        column("baseline", pa.float64(), "its value in the reference"),
        column("candidate", pa.float64(), "its value on the odd device"),
    ],
)

# The tables by name, which is also the name of the file.
EVIDENCE = {
    "shared_steps": SHARED_STEPS,
    "step_errors": STEP_ERRORS,
    "contract": CONTRACT,
    "findings": FINDINGS,
    "replays": REPLAYS,
}
