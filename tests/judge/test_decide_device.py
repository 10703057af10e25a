"""How two devices are decided, on rows made by hand."""

import pyarrow as pa
import pytest
from synthetic_runs import make_run

from parity.judge.decide_device import audit_device
from parity.store.tables import SHARED_STEPS


def audit(*changes):
    row = {"trial": "c", "step": 0, "quantity": "output", "tensor": None, "baseline_error_u": 2.0}
    row |= {"candidate_error_u": 2.0, "spread_u": None, "repeated": None, "rounding": None}
    rows = pa.Table.from_pylist([row | change for change in changes], schema=SHARED_STEPS)
    return audit_device(rows, "c", record=make_run().trials[0])


@pytest.mark.parametrize(
    ("change", "beyond"),
    [
        ({"candidate_error_u": 16.0}, False),
        ({"candidate_error_u": 16.1}, True),
        ({"candidate_error_u": 7.9, "baseline_error_u": 0.0}, False),  # a lucky baseline counts for 1 u
        ({"candidate_error_u": 8.1, "baseline_error_u": 0.0}, True),
        ({"candidate_error_u": 100.0, "spread_u": 20.0}, False),
        ({"candidate_error_u": float("nan")}, True),
        ({"candidate_error_u": float("inf")}, True),
    ],
)
def test_the_line_is_eight_times_the_largest_of_what_is_allowed(change, beyond):
    assert (audit(change).first is not None) == beyond


def test_the_first_is_the_first_to_be_computed():
    wrong = {"candidate_error_u": 1e3}
    found = audit(
        {"step": 1, "quantity": "output", **wrong},
        {"step": 0, "quantity": "param", "tensor": "0.weight", **wrong},
        {"step": 0, "quantity": "param_grad", "tensor": "0.weight", **wrong},
        {"step": 0, "quantity": "param_grad", "tensor": "1.weight", **wrong},
    )
    assert (found.first.step, found.first.quantity, found.first.tensor) == (0, "param_grad", "1.weight")
    assert found.steps == (0, 1)


def test_a_step_that_does_not_come_out_again_is_told():
    assert audit({"repeated": True}).unrepeated is None
    assert audit({"step": 3, "repeated": False}).unrepeated == 3


def test_a_trial_without_shared_steps_has_no_audit():
    assert audit({"trial": "another"}) is None


WHOLE = {"quantity": "param_grad", "candidate_error_u": 1e9}


@pytest.mark.parametrize(
    ("change", "beyond"),
    [
        ({"candidate_whole_error_u": 7.9, "baseline_whole_error_u": 0.5}, False),
        ({"candidate_whole_error_u": 8.1, "baseline_whole_error_u": 0.5}, True),
        ({"candidate_whole_error_u": 97.0, "baseline_whole_error_u": 24.0}, False),
        ({"candidate_whole_error_u": None}, True),  # older runs
        ({"candidate_whole_error_u": 1.0, "quantity": "output"}, True),
        ({"candidate_whole_error_u": float("nan")}, True),
    ],
)
def test_a_gradient_is_judged_beside_the_whole_too(change, beyond):
    assert (audit(WHOLE | change).first is not None) == beyond


def test_the_whole_is_that_of_all_tensors():
    other = {"quantity": "param_grad", "tensor": "b", "baseline_whole_error_u": 30.0}
    assert audit(WHOLE | {"candidate_whole_error_u": 200.0}, other).first is None
    assert audit(WHOLE | {"candidate_whole_error_u": 200.0}, other | {"step": 1}).first.step == 0


def test_parameters_add_nothing_to_an_update_that_was_checked():
    wrong = {"candidate_error_u": 1e3}
    assert audit({"quantity": "param", **wrong}).first.quantity == "param"
    assert audit({"quantity": "param", **wrong}, {"quantity": "update"}).first is None
    assert audit({"quantity": "param"}, {"quantity": "update", **wrong}).first.quantity == "update"


@pytest.mark.parametrize(("spread_u", "output_u", "checked"), [(2.0, 2.0, False), (1e5, 2.0, True), (2.0, 1e5, True)])
def test_a_baseline_that_is_off_its_criterion_decides_nothing(spread_u, output_u, checked):
    off = {"baseline_error_u": 1e7, "candidate_error_u": 1e7, "spread_u": spread_u, "baseline_whole_error_u": 1e7}
    found = audit({"baseline_error_u": output_u, "candidate_error_u": output_u}, {"quantity": "output_grad", **off})
    assert ("output_grad" in found.quantities) == checked
    assert "output" in found.quantities
