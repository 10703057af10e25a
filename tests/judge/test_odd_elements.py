"""A repeat's tensors, held against each other element by element and bit by bit."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from parity.judge import odd_elements
from parity.judge.odd_elements import Replay
from parity.observe.digest import digest
from parity.observe.rows import Rows
from parity.store.events import Advanced, Captured
from parity.train.perform import perform
from parity.train.replay import capture
from parity.train.step import begin

CAPTURE = (3, "param_grad", "1.0.weight")


@pytest.fixture
def compared(make_trials):
    """The row of a repeat that gave these two tensors, or None."""

    def compare(baseline, candidate):
        trials = [replace(trial, capture=CAPTURE) for trial in make_trials(replicas=2)]
        captured = zip(trials, (candidate, baseline), strict=True)
        rows = odd_elements.repeat(
            [Replay(*trials)], [[Captured(trial.name, CAPTURE, values) for trial, values in captured]]
        )
        return rows[0] if rows else None

    return compare


def flipped(values, element, bit):
    changed = values.copy()
    changed.reshape(-1).view(f"u{values.dtype.itemsize}")[element] ^= 1 << bit
    return changed


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_element_and_the_bit_are_named(compared, dtype):
    values = np.linspace(-1, 1, 12, dtype=dtype).reshape(3, 4)
    row = compared(values, flipped(values, 7, 5))
    assert (row["elements"], row["differing"], row["element"], row["bits"]) == (12, 1, 7, [5])
    assert (row["baseline"], row["candidate"]) == (values.flat[7], flipped(values, 7, 5).flat[7])
    assert (row["step"], row["quantity"], row["tensor"]) == CAPTURE
    assert "1 of 12 elements of param_grad 1.0.weight differ at step 3, in bit 5" in odd_elements.explain(row)


def test_several_elements_give_the_union_of_their_bits(compared):
    values = np.ones(100, np.float32)
    row = compared(values, flipped(flipped(values, 90, 31), 12, 0))
    assert (row["differing"], row["element"], row["bits"]) == (2, 12, [0, 31])
    assert "2 of 100 elements of param_grad 1.0.weight differ at step 3, in bits 0, 31" in odd_elements.explain(row)


def test_a_sign_of_zero_and_the_kind_of_a_nan_count(compared):
    values = np.array([0.0, np.nan], np.float32)
    row = compared(values, flipped(flipped(values, 0, 31), 1, 3))
    assert (row["differing"], row["bits"]) == (2, [3, 31])


def test_a_fault_that_does_not_come_again_is_told_as_such(compared):
    values = np.ones(4, np.float32)
    row = compared(values, values.copy())
    assert (row["differing"], row["element"], row["bits"]) == (0, None, [])
    assert odd_elements.explain(row).endswith("the fault does not recur each time")


@pytest.mark.parametrize("candidate", [None, np.ones(5, np.float32), np.ones(4, np.float64)])
def test_what_cannot_be_compared_gives_no_row(compared, candidate):
    assert compared(np.ones(4, np.float32), candidate) is None


def of_rows(values):
    rows = Rows(sketched=False)
    rows.add([torch.from_numpy(values)])
    return rows.digest


def fingerprint(values):
    return digest(torch.from_numpy(values))


@pytest.mark.parametrize("step", [0, 2])
def test_a_repeat_gives_the_tensors_of_the_trace(make_trials, data, step):
    (trial,) = make_trials(steps=3, audit_every=0)
    # On a busy machine a trial reports its steps in several chunks.
    trace = pa.concat_tables([event.table for event in perform(trial, data, None) if isinstance(event, Advanced)])
    row = trace.slice(step, 1).to_pylist()[0]
    batch = capture(replace(trial, capture=(step, "input", None)), data)
    assert of_rows(batch) == row["input_digest"]
    for quantity, whole in (("output", of_rows), ("loss", fingerprint), ("output_grad", of_rows)):
        assert whole(capture(replace(trial, capture=(step, quantity, None)), data)) == row[f"{quantity}_digest"]
    for quantity in ("state", "target_grad", "step_grad", "buffer"):
        assert capture(replace(trial, capture=(step, quantity, None)), data) is None
    names = [name for name, _ in begin(trial).model.named_parameters()]
    for quantity in ("param_grad", "param"):
        for number in (0, len(names) - 1):
            values = capture(replace(trial, capture=(step, quantity, names[number])), data)
            assert fingerprint(values) == row[f"{quantity}_digests"][number]
