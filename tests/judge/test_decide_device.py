"""How two devices are decided, on rows made by hand."""

import pyarrow as pa
import pytest

from parity.judge.decide_device import audit_device
from parity.store.tables import SHARED_STEPS


def audit(*changes):
    row = {"trial": "c", "step": 0, "quantity": "output", "tensor": None, "baseline_error_u": 2.0}
    row |= {"candidate_error_u": 2.0, "spread_u": None, "repeated": None, "rounding": None}
    return audit_device(pa.Table.from_pylist([row | change for change in changes], schema=SHARED_STEPS), "c")


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
