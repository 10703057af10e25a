"""What was found of a pair: each fact under its label, and the same in a line."""

import pytest
from synthetic_runs import ROUNDING, Planted, make_run

from parity.judge.judging import judge
from parity.render.facts import one_line, pair_facts
from parity.render.phrases import shortest


def facts(planted):
    (verdict,) = judge(make_run(planted)).pairs
    return {fact.label: fact.text for fact in pair_facts(verdict)}, one_line(verdict)


@pytest.mark.parametrize(
    ("planted", "labels"),
    [
        (Planted(), ["compared"]),
        (Planted(differs={"loss": 2}), ["cause", "first", "drift", "compared"]),
        (Planted(differs=ROUNDING), ["first", "compared"]),
        (Planted(differs=ROUNDING, grad_errors={7: 1e6}), ["cause", "onset", "first", "compared"]),
        (Planted(steps=0, record={"status": "failed", "failed_step": 0, "error": "x"}), ["cause"]),
    ],
)
def test_a_pair_has_the_facts_of_its_verdict(planted, labels):
    assert [*facts(planted)[0]] == labels


def test_numbers_are_printed_in_full():
    texts, line = facts(Planted(differs={"loss": 2}))
    assert texts["first"] == "step 2 (epoch 0, batch 2), loss\n0.24206448 != 0.24206457 (6 ulp)"
    assert "; first at step 2, loss 0.24206448 != 0.24206457 (6 ulp); the losses differ by up to 0.000084 %, " in line
    assert ", at step 13; 20 steps" in line


def test_a_tensor_is_named_with_its_distance_and_not_with_its_digests():
    texts, line = facts(Planted(differs={"param_grad": 3, "param": 3}, tensors=(4,)))
    assert texts["first"] == "step 3 (epoch 0, batch 3), param_grad 0.4.weight\ndiffers by 2.5e-08"
    assert "first at step 3, param_grad 0.4.weight differs by 2.5e-08" in line
    assert "0000000000000132" not in line


@pytest.mark.parametrize("value", [1e300, 0.1])
def test_a_number_that_its_dtype_cannot_hold_is_printed_as_it_is_stored(value):
    assert shortest(value, "float32") == repr(value)


def test_an_error_of_many_lines_is_one():
    record = {"status": "failed", "failed_step": 4, "error": "it raised E: x\n\n  y"}
    texts, line = facts(Planted(steps=4, record=record))
    assert texts["cause"] == "mine failed at step 4: it raised E: x y."
    assert line.endswith("it raised E: x y; 4 steps, 10 quantities")
