"""A result in one line, and in a few."""

import pytest
from synthetic_runs import ROUNDING, Planted, fleet_run, make_run

from parity.judge.judging import judge
from parity.render.glance import MOST, message, short_line

NAN = float("nan")
WRONG = {"differs": {"loss": 2, **ROUNDING}, "grad_errors": {7: 1e6}}
TRACEBACK = """Traceback (most recent call last):
  File "parity/train/step.py", line 7, in take_step
    loss = training.loss(given, target)
  File "mine.py", line 5, in mine
    return output.foo\x1b[31m
AttributeError: no foo
"""
RAISED = {"status": "failed", "failed_step": 4, "error": "the loss raised AttributeError: no foo."}
LONG = {"status": "failed", "failed_step": 4, "error": "the loss raised E: " + "words\n" * 9000}
CONTRACT = [
    {"trial": "mine@cpu-s0", "item": item, "status": "failed", "reason": f"because {item} is wrong"}
    for item in ("value", "gradcheck", "repeatable", "two calls before backward")
]
RUNS = {
    "identical": make_run(Planted()),
    "rounding": make_run(Planted(differs={"loss": 2, **ROUNDING})),
    "diverged": make_run(Planted(**WRONG)),
    "two of three": make_run(Planted(**WRONG), Planted("two"), Planted("three", **WRONG)),
    "failed": make_run(Planted(steps=4, record=RAISED | {"traceback": TRACEBACK})),
    "long": make_run(Planted("x" * 300, steps=4, record=LONG)),
    "nan": make_run(Planted(losses={5: NAN}, differs={"output_grad": 5})),
    "contract": make_run(Planted(), contract=CONTRACT),
    "interrupted": make_run(Planted(steps=3, record={"status": "interrupted"})),
    "no baseline": make_run(Planted(), Planted("builtin", steps=4, record=RAISED)),
    "nothing": make_run(),
    "fleet": fleet_run(40, odd=(3, 7)),
    "control characters": make_run(Planted("\x1b[31mred\nline", **WRONG)),
}


@pytest.fixture(params=RUNS)
def run(request):
    return RUNS[request.param]


def test_the_line_is_short_and_begins_with_the_verdict(run):
    judgement = judge(run)
    line = short_line(judgement)
    assert len(line) <= MOST and line.isprintable()
    assert line.startswith("trouble: " if judgement.trouble else f"{judgement.verdict}: ")


def test_a_message_has_headline_place_advice_and_page(run):
    lines = message(run, judge(run), page="/kept/report.html").splitlines()
    assert lines[0] == short_line(judge(run))
    assert any(line.startswith("  what to do  ") for line in lines)
    assert lines[-1] == "  page        /kept/report.html"
    assert len(lines) < 30
    # A name is never broken.
    assert [line for line in lines if len(line) > MOST and "x" * 200 not in line] == []
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("identical", "identical: 20 steps, 10 quantities equal to the bit; mine against builtin"),
        ("rounding", "rounding: 20 steps, first difference at step 2 (loss, 6 ulp); mine against builtin"),
        ("failed", "failed: the loss raised AttributeError: no foo (step 4); mine against builtin"),
        ("nothing", "inconclusive: there is nothing to compare"),
    ],
)
def test_what_a_line_says(name, expected):
    assert short_line(judge(RUNS[name])) == expected


def test_a_long_cause_leaves_room_for_its_step():
    line = short_line(judge(RUNS["long"]))
    assert "... (step 4); xxx" in line[:110] and line.endswith("...")


def test_of_several_pairs_the_line_counts_those_of_the_verdict():
    assert short_line(judge(RUNS["two of three"])).endswith("(2 of 3 pairs)")


def test_a_message_ends_the_traceback_with_the_users_line():
    text = message(RUNS["failed"], judge(RUNS["failed"]))
    shown = '  File "mine.py", line 5, in mine\n      return output.foo\\x1b[31m\n  AttributeError: no foo\n'
    assert shown in text and "take_step" not in text


def test_a_message_has_the_items_of_the_contract_with_their_reasons():
    text = message(RUNS["contract"], judge(RUNS["contract"]))
    assert "  contract    value: because value is wrong\n" in text and "1 more is not shown." in text
