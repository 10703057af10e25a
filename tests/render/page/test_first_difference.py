import numpy as np
import pytest
from synthetic_runs import ROUNDING, Planted, make_run

from parity.judge.judging import judge
from parity.render.page.first_difference import tell_first


def first_of(planted, **evidence):
    run = make_run(planted, **evidence)
    return tell_first(judge(run).pairs[0])


def test_a_loss_is_shown_in_full_precision_with_ulp_and_the_closer_side():
    first = first_of(Planted(differs={"loss": 5}, losses={3: 0.25}))
    assert first.place == "step 3 (epoch 0, batch 3)" and first.before == "after 3 steps that are equal to the bit"
    assert (first.what, first.value, first.sides[1].value) == ("loss", "value", "0.25")
    # The shortest text that tells a float32 from its neighbours.
    assert first.sides[0].value == str(np.float32(first.sides[0].value)) and len(first.sides[0].value) > 8
    assert " ulp, absolute 0." in first.distance and first.nearer == "Both are equally close to float64."


def test_a_gradient_is_shown_by_its_digest_its_norm_and_its_error():
    first = first_of(Planted(differs=ROUNDING, grad_errors={2: 0.25}))
    assert first.what == "output_grad" and first.value == "digest of its bits"
    assert [side.norm for side in first.sides] == ["0.002", "0.002"]
    assert [side.nearer for side in first.sides] == [False, True]
    assert first.sides[1].error == "0.0000015 %" and first.nearer == "The candidate is closer to float64."


def test_a_nan_is_named():
    assert first_of(Planted(losses={3: float("nan")})).distance == "One of them is NaN."


def test_a_tensor_is_named_and_a_partial_batch_is_mentioned():
    run = make_run(Planted(differs={"param": 234}, tensors=(3,)), steps=240)
    first = tell_first(judge(run).pairs[0])
    assert first.what == "param of 0.2.bias" and first.place.endswith("batch 234, a partial batch of 96 rows)")
    assert first.nearer == "This quantity was not checked against float64 at this step."


@pytest.mark.parametrize(("errors", "nearer"), [((2.0, 5.0), "baseline"), ((5.0, 2.0), "candidate")])
def test_a_device_is_checked_against_float64_at_its_shared_steps(errors, nearer):
    row = {"trial": "builtin@cpu:threads=2-s0", "step": 1, "quantity": "output", "tensor": None}
    row |= {"baseline_error_u": errors[0], "candidate_error_u": errors[1]}
    planted = Planted("builtin", device="cpu:threads=2", differs={"output": 1})
    assert first_of(planted, shared_steps=[row]).nearer == f"The {nearer} is closer to float64."


def test_equal_traces_have_no_first_difference():
    assert first_of(Planted()) is None
