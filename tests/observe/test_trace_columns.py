"""Columns that are filled step by step, and the table that they become."""

import itertools

import numpy as np
import pytest
import torch

from parity.observe.columns import Columns
from parity.observe.digest import digest
from parity.observe.fingerprint import fingerprint
from parity.observe.rows import Rows
from parity.store.trace import SCHEMA, SKETCHED_QUANTITIES

GRADIENT = [torch.arange(6.0).reshape(2, 3), torch.ones(2)]


@pytest.fixture
def trial(make_trials):
    return make_trials()[0]


def rows(*tensors):
    made = Rows(sketched=True)
    made.add(tensors)
    return made


def step(columns, number, *, loss=0.5, step_grad="same", outputs=1, loss_digest=None, state=True):
    """One whole step."""
    param_grad = fingerprint(GRADIENT)
    columns.hold("loss", torch.tensor(loss + number))
    columns.add_fingerprint("param_grad", param_grad)
    given = {"same": param_grad, "other": fingerprint([2 * each for each in GRADIENT]), "none": None}[step_grad]
    columns.add_step_gradient(given, param_grad)
    for quantity in ("output", "output_grad"):
        columns.add_rows(quantity, rows(*[torch.full((4, 2), float(number)) for _ in range(outputs)]))
    columns.add_rows("target_grad", Rows(sketched=True))
    columns.add_fingerprint("buffer", fingerprint([torch.ones(3)]))
    update = fingerprint(GRADIENT)
    columns.add(
        {
            "param_digest": 1,
            "param_digests": np.array([1, 2], np.uint64),
            "update_norms": update.norms,
            "update_sketches": update.sketches.reshape(-1),
        }
    )
    found = {"settings": "{}", "state_counts": [2, number, number], "state_digest": 5, "generator_digests": [1] * 5}
    columns.add(found if state else dict.fromkeys(found))
    columns.add(
        {
            "input_digest": 2**64 - 1,
            "loss_digest": loss_digest,
            "output_grad_strided": False,
            "elements": 8,
            "rows": 4,
            **dict.fromkeys(
                [name for name in SCHEMA.names if name.endswith("_u") or name in ("grad_ratio", "grad_rows")], np.nan
            ),
            "step": number,
            "epoch": 0,
            "batch": number,
            "step_s": 0.01,
        }
    )


def test_the_table_has_each_column_of_the_schema(trial):
    columns = Columns(8)
    for number in range(3):
        step(columns, number)
    assert columns.rows == 3
    table = columns.flush(trial)
    assert columns.rows == 0
    assert table.schema.names == SCHEMA.names and len(table) == 3
    assert table["loss"].to_pylist() == [0.5, 1.5, 2.5]
    assert table["input_digest"].to_pylist() == [2**64 - 1] * 3  # not a float64
    assert table["param_grad_norm"].to_pylist() == pytest.approx([np.sqrt(57)] * 3)
    assert table["grad_error_u"].null_count == 3
    assert table["state_counts"].to_pylist() == [[2, 0, 0], [2, 1, 1], [2, 2, 2]]


def test_a_sketch_has_eight_sums_for_each_tensor(trial):
    columns = Columns(8)
    step(columns, 0, step_grad="other")
    (row,) = columns.flush(trial).to_pylist()
    for quantity in SKETCHED_QUANTITIES:
        assert len(row[f"{quantity}_sketches"]) == 8 * len(row[f"{quantity}_norms"]), quantity
    assert len(row["param_grad_norms"]) == len(row["update_norms"]) == 2


@pytest.mark.parametrize("kinds", [*itertools.permutations(("same", "other", "none"))])
def test_a_gradient_that_nothing_changed_is_stored_once(trial, kinds):
    columns = Columns(8)
    for number, kind in enumerate(kinds):
        step(columns, number, step_grad=kind)
    table = columns.flush(trial)
    rows = dict(zip(kinds, table.to_pylist(), strict=True))
    same, other, none = (
        (rows[kind]["step_grad_digest"], rows[kind]["step_grad_norm"], rows[kind]["step_grad_norms"])
        for kind in ("same", "other", "none")
    )
    assert same == (rows["same"]["param_grad_digest"], pytest.approx(np.sqrt(57)), None)
    assert other[0] != same[0] and other[1] == pytest.approx(2 * np.sqrt(57)) and len(other[2]) == 2
    assert none == (None, None, None)


@pytest.mark.parametrize("looked", [(False,), (False, True), (True, False)])
def test_a_state_that_nobody_looked_at_is_null(trial, looked):
    columns = Columns(8)
    for number, state in enumerate(looked):
        step(columns, number, state=state)
    table = columns.flush(trial)
    for name in ("settings", "state_counts", "state_digest", "generator_digests"):
        assert [value is not None for value in table[name].to_pylist()] == [*looked], name


def test_another_number_of_parts_in_a_later_step_is_stored(trial):
    columns = Columns(8)
    step(columns, 0, outputs=1)
    step(columns, 1, outputs=3)
    assert [len(norms) for norms in columns.flush(trial)["output_norms"].to_pylist()] == [1, 3]


def test_a_loss_has_the_digest_of_its_bits_unless_one_is_given(trial):
    columns = Columns(8)
    step(columns, 0)
    step(columns, 1, loss_digest=7)
    assert columns.flush(trial)["loss_digest"].to_pylist() == [digest(torch.tensor(0.5)), 7]


def test_later_steps_do_not_write_to_a_table_that_was_flushed(trial):
    columns = Columns(2)
    step(columns, 0)
    first = columns.flush(trial)
    step(columns, 1, loss=100.0)
    assert first["loss"].to_pylist() == [0.5]
    assert columns.flush(trial)["loss"].to_pylist() == [101.0]
    assert columns.loss_dtype == torch.float32


def test_a_step_that_is_not_closed_is_no_row():
    columns = Columns(2)
    columns.hold("loss", torch.tensor(1.0))
    columns.add({"rows": 4})
    assert columns.rows == 0
