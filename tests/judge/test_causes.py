"""What single steps show, put together over a run."""

from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from parity.judge.causes import CAUSES, CauseKind, make_cause
from parity.judge.find_causes import Finding, LossEvidence, find_causes
from parity.store.tables import FINDING_KINDS

STEPS = 10
# Two epochs of five batches, each with a partial one.
ROWS = np.array([256, 256, 256, 256, 96] * 2)
RIGHT = LossEvidence(
    record=SimpleNamespace(status="complete", failure=None, error=None),
    contract={},
    findings=(),
    rows=ROWS,
    elements=ROWS * 784,
    audited=np.ones(STEPS, bool),
    wrong=np.zeros(STEPS, bool),
    wrong_loss=np.zeros(STEPS, bool),
    nan=None,
)


def causes(steps, kind="scaled", values=(2.0,), detail="", **changes):
    wrong = np.isin(np.arange(STEPS), list(steps))
    values = list(values) * STEPS if len(values) == 1 else list(values)
    findings = tuple(Finding(step, kind, value, detail) for step, value in zip(steps, values, strict=False))
    return find_causes(replace(RIGHT, wrong=wrong, findings=findings, **changes))


@pytest.mark.parametrize(
    ("steps", "values", "kind", "text"),
    [
        (range(10), (2.0,), "scaled", "scaled by 2"),
        (range(10), (-1.0,), "sign", "wrong sign"),
        (range(10), [float(rows) for rows in ROWS], "scaled", "the batch size"),
        (range(10), [1.0 + step for step in range(10)], "scaled", "a factor that changes: 1 to 10"),
        ([4, 9], (0.375,), "partial batch", "only on partial batches (of 96 rows)"),
        (range(3, 10), (2.0,), "from step", "from step 3 on"),
    ],
)
def test_a_scale_is_named_and_placed(steps, values, kind, text):
    found = causes(steps, values=values)
    assert found[0].kind == kind and text in found[0].text


def test_a_known_place_in_the_data_goes_before_the_step_at_which_it_begins():
    assert (
        causes(range(3, 10), kind="elements", detail="3 of 9 elements, the first [0, 0] (zero)")[0].kind == "elements"
    )
    assert causes(range(3, 10), kind="elements", detail="3 of 9 elements, the first [0, 0]")[0].kind == "from step"


def test_randomness_is_the_cause_of_whatever_it_does():
    contract = {"random generators": ("failed", "draws from torch's global generator")}
    found = causes(range(10), kind="unknown", detail="norm 1", contract=contract)
    assert found[0].kind == "random" and "draws from torch's" in found[0].text


def test_what_follows_from_randomness_is_no_cause_beside_it():
    items = ("random generators", "repeatable", "scale", "rows")
    contract = {item: ("failed", f"because of {item}") for item in items}
    found = causes(range(10), kind="unknown", detail="norm 1", contract=contract)
    assert not [cause for cause in found if "because of scale" in cause.text or "because of rows" in cause.text]


def test_a_gradient_that_is_the_slope_of_its_own_loss_is_another_loss():
    contract = {"gradcheck": ("passed", ""), "value": ("failed", "the loss is off")}
    assert causes(range(10), kind="unknown", detail="norm 1", contract=contract)[0].kind == "other loss"
    found = causes(range(10), kind="unknown", detail="norm 1.5")
    assert (found[0].kind, found[0].text) == ("unknown", "no known pattern: norm 1.5")


def test_a_failed_item_is_a_cause_by_its_name():
    (cause,) = find_causes(replace(RIGHT, contract={"grad_output": ("failed", "ignored"), "NaN": ("limited", "x")}))
    assert cause.kind == "grad_output" and cause.text == "contract, grad_output: ignored"


def test_a_failed_trial_tells_how():
    for failure, kind in (("detached", "detached"), ("mutates", "mutates"), ("raised", "raised"), ("died", "raised")):
        record = SimpleNamespace(status="failed", failure=failure, error="why")
        (cause,) = find_causes(replace(RIGHT, record=record))
        assert cause.kind == kind and "why" in cause.text


def test_a_wrong_number_beside_a_right_gradient_is_the_report():
    assert find_causes(replace(RIGHT, wrong_loss=np.ones(STEPS, bool)))[0].kind == "report"


def test_nothing_wrong_has_no_cause():
    assert find_causes(RIGHT) == ()


def test_each_kind_has_a_sentence_and_all_but_the_unknown_have_advice():
    assert set(CAUSES) == set(get_args(CauseKind))
    assert set(FINDING_KINDS) <= set(CAUSES)
    assert [kind for kind, meaning in CAUSES.items() if not meaning.advice] == ["unknown"]
    for kind, meaning in CAUSES.items():
        text = make_cause(kind, detail="HERE", value="3").text
        assert text and "{" not in text and text == meaning.explain(detail="HERE", value="3")


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("scaled", 2.0, "the gradient is scaled by 2 in code"),
        ("scaled", -1.0, "the gradient has the wrong sign in code"),
        ("scaled", -2.0, "the gradient is scaled by 2 and has the wrong sign in code"),
        ("zero", None, "the gradient is zero in code"),
        ("offset", 0.5, "the gradient is offset: 0.5 is added to each element in code"),
    ],
)
def test_the_part_of_an_output_tree_is_named(kind, value, text):
    assert [cause.text for cause in causes(range(10), kind=kind, values=(value,), detail="in code")] == [text]


def test_parts_that_change_from_step_to_step_are_not_named():
    wrong = np.ones(STEPS, bool)
    findings = tuple(Finding(step, "scaled", 2.0, f"in {'code' if step else 'image'}") for step in range(STEPS))
    assert find_causes(replace(RIGHT, wrong=wrong, findings=findings))[0].text == "the gradient is scaled by 2"


def test_a_kind_of_a_later_version_is_unknown():
    assert causes(range(10), kind="of a later version", detail="x")[0].text == "no known pattern: x"
