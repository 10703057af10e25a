"""What is wrong, where, how sure and what to do: for every cause and every kind of result, in every document."""

import io
import json
import re
from dataclasses import replace
from functools import cache
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from rich.console import Console
from synthetic_runs import ROUNDING, Planted, fleet_run, make_run, with_column

from parity.ground.percent import percent_at_most
from parity.judge.causes import CAUSES, make_cause
from parity.judge.decide_device import audit_device
from parity.judge.judging import judge
from parity.judge.verdict import Judgement
from parity.render import junit, markdown, story, summary, terminal
from parity.render.headline import make_headline, make_pair_headline
from parity.render.user_error import user_error
from parity.store.tables import SHARED_STEPS
from parity.store.trace import SKETCH_SUMS

TRACEBACK = """Traceback (most recent call last):
  File "/home/me/parity/train/step.py", line 179, in take_step
    loss = training.loss(given, target)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "somewhere/mine.py", line 85, in mine
    raise ValueError("planted [b]")
ValueError: planted [b]
"""
RAISED = {
    "status": "failed",
    "failed_step": 4,
    "failure": "raised",
    "error": "the loss raised ValueError: planted [b]",
    "traceback": TRACEBACK,
    "loss_origin": "somewhere/mine.py",
    "loss_line": 80,
}
NAN, INF = float("nan"), float("inf")
SHARED = [
    {"step": 7, "quantity": "output", "tensor": None, "baseline_error_u": 2.0, "candidate_error_u": 1e3}
    | {"spread_u": None, "repeated": None, "rounding": None}
]
WRONG = {"differs": ROUNDING, "grad_errors": {7: 1e6}}
# What is planted, the verdict, and the sentence of the headline.
KINDS = {
    "identical": (make_run(Planted()), "mine trains exactly as builtin: equal to the bit at every step."),
    "report-only": (
        make_run(Planted(differs={"loss": 2})),
        "mine trains exactly as builtin; only the loss that it reports differs (by up to 0.000084 %).",
    ),
    "rounding": (
        make_run(Planted(differs={"loss": 2, **ROUNDING})),
        "mine trains as builtin: the differences are rounding (losses differ by up to 0.000084 %).",
    ),
    "inconclusive": (
        make_run(Planted(differs={"input": 2})),
        "It is not known whether mine trains as builtin: the inputs differ from step 2 on: the data is not the same.",
    ),
    "diverged": (make_run(Planted(**WRONG)), "mine's gradient is 6 % off, with no known pattern, from step 7 on."),
    "from zero": (
        make_run(Planted(differs={"param_grad": 4, "param": 4}, tensors=(4,), distances={"param_grad": {4: INF}})),
        "mine's parameter gradient of 0.4.weight is not zero, as the baseline's is, from step 4 on.",
    ),
    "failed": (make_run(Planted(steps=4, record=RAISED)), "mine raised ValueError at step 4: planted [b]."),
    "odd device": (
        fleet_run(4, odd=(2,)),
        "cpu@n0002 differs from the 4 other devices of its class in param_grad 0.4.weight, from step 3 on.",
    ),
    "replicas": (
        make_run(Planted("builtin", replica=1, differs={"loss": 2, **ROUNDING})),
        "builtin on cpu is not deterministic: builtin@cpu-s0-r1 and builtin@cpu-s0 differ, from step 2 on "
        "(losses differ by up to 0.000084 %).",
    ),
    "single trial": (make_run(), "There is nothing to compare: a single trial is not a pair."),
    "stopped": (
        make_run(Planted(steps=4, record={"status": "interrupted"})),
        "It is not known whether mine trains as builtin: mine@cpu-s0 was interrupted: 4 of 20 steps can be compared.",
    ),
    "setting": (
        make_run(Planted(differs={"param": 5}, settings={5: {"lr": 5e-4}}, distances={"update": {5: 0.5}})),
        "mine and builtin start step 5 from different states: learning rate: 0.001 and 0.0005.",
    ),
}
# By kind: how the cause is made, and the sentence about `mine`.
SENTENCES = {
    "scaled": ({"value": "2", "factor": 2.0}, "mine's gradient is 2× too large, from step 7 on."),
    "sign": ({"factor": -1.0}, "mine's gradient has the wrong sign, from step 7 on."),
    "zero": ({"factor": 0.0}, "mine's gradient is zero, from step 7 on."),
    "offset": ({"value": "0.5"}, "mine's gradient has 0.5 added to each element, from step 7 on."),
    "partial batch": ({"value": "96"}, "mine is wrong only on partial batches (of 96 rows)."),
    "report": ({}, "mine reports a wrong loss; its gradient is right, from step 7 on."),
}


@cache
def judged(name):
    return judge(KINDS[name][0])


def text_of(run, judgement, width=80):
    console = Console(file=io.StringIO(), width=width)
    terminal.render(run, judgement, console)
    return console.file.getvalue()


def with_cause(kind) -> tuple[object, Judgement]:
    """The diverged run with one cause of a kind, whatever it would take to find it."""
    run = KINDS["diverged"][0]
    made = {"detail": "something [b] <i>", "value": "3", **SENTENCES.get(kind, [{}])[0]}
    if kind in SENTENCES:
        made = {**made, "detail": ""}
    (verdict,) = judged("diverged").pairs
    cause = make_cause(kind, **made)
    return run, replace(judged("diverged"), pairs=(replace(verdict, causes=(cause,), cause=cause.text),))


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_result_has_its_sentence_in_every_document(name):
    run, sentence = KINDS[name]
    judgement = judged(name)
    head = make_headline(run, judgement)
    assert head.what == sentence
    assert head.advice and all(each.text for each in head.advice)
    printed = " ".join(text_of(run, judgement).split())
    # A single trial has no pair that a sentence could be about.
    assert (sentence if judgement.pairs else story.nothing(run)) in printed
    assert markdown.render(run, judgement).replace("`", "").count(sentence) >= 1
    page = ElementTree.fromstring(junit.render(run, judgement))
    failures = [*page.iter("failure")]
    assert len(failures) == sum(each.meaning.exit_status == 1 for each in judgement.pairs)
    assert bool(failures) == (judgement.exit_status == 1)
    for found in failures:
        assert found.get("message")[:80].startswith(f"{found.get('type')}: ")
    json.loads(summary.render(judgement))


@pytest.mark.parametrize("kind", CAUSES)
def test_each_cause_has_its_sentence_in_every_document(kind):
    run, judgement = with_cause(kind)
    (verdict,) = judgement.pairs
    head = make_pair_headline(verdict, run)
    assert head.kind == kind and head.what.endswith(".") and "{" not in head.what
    if kind in SENTENCES:
        assert head.what == SENTENCES[kind][1]
        assert head.factor == SENTENCES[kind][0].get("factor")
    printed = " ".join(text_of(run, judgement).split())
    assert printed.count(head.what) == 1, "a cause appears once"
    assert head.what in markdown.render(run, judgement).replace("`", "")
    (found,) = ElementTree.fromstring(junit.render(run, judgement)).iter("failure")
    assert found.get("message") == f"diverged: {head.what}"
    (pair,) = summary.summarize(judgement)["pairs"]
    assert (pair["kind"], pair["factor"], pair["words"]) == (kind, head.factor, head.what)


def test_where_and_how_far_are_those_of_the_onset():
    run, _ = KINDS["diverged"]
    head = make_headline(run, judged("diverged"))
    assert head.where == (
        "step 7 (epoch 0, batch 7), output_grad",
        "output_grad is 6 % away from float64; the baseline is 0.0000034 % away, rounding explains 0.000095 %",
    )
    assert head.sure[-1].endswith("a gradient wrong by more than 0.000095 % would have been seen.")
    (verdict,) = judged("diverged").pairs
    assert verdict.onset_size.off == pytest.approx(1e6 * 2.0**-24)


def test_a_loss_that_raises_shows_its_own_last_line_at_the_top():
    run, _ = KINDS["failed"]
    lines = text_of(run, judged("failed")).splitlines()
    assert lines[2:6] == [
        "  where     step 4 (epoch 0, batch 4); mine.py:80",
        "  error     ValueError: planted [b]",
        "            mine.py:85, in mine",
        '              raise ValueError("planted [b]")',
    ]
    assert "- Fix the ValueError at mine.py:85; the whole traceback is in report.html" in "\n".join(lines)


def test_what_loads_a_loss_is_not_shown_as_code_of_the_user():
    loading = (
        '  File "/home/me/parity/plan/user_code.py", line 261, in _run_file\n    exec(code)\n'
        '  File "<frozen importlib._bootstrap>", line 690, in _load_unlocked\n'
    )
    traceback = TRACEBACK.replace('  File "somewhere', f'{loading}  File "somewhere')
    (error,) = filter(None, map(user_error, make_run(Planted(record=RAISED | {"traceback": traceback})).trials))
    assert [frame.place for frame in error.frames] == ["somewhere/mine.py:85"]


def test_a_cell_never_hides_a_fault_of_its_device():
    run = make_run(
        Planted("numpy", differs=ROUNDING),
        Planted("builtin", device="cpu:threads=2"),
        Planted("numpy", device="cpu:threads=2", differs=ROUNDING),
    )
    judgement = judge(run)
    # As though a step from a shared state had been beyond its limit.
    pairs = [
        replace(each, verdict="diverged")
        if each.pair.candidate.device != "cpu" and each.pair.axis == "device"
        else each
        for each in judgement.pairs
    ]
    text = text_of(run, replace(judgement, pairs=tuple(pairs)))
    row = next(line for line in text.splitlines() if line.startswith(" numpy "))
    assert row.split()[1:] == ["rounding", "diverged", "(by", "device)"]


def test_the_command_has_the_worst_loss_only():
    arguments = ["--loss", "builtin", "a.py:fine", "a.py:mine", "--lr", "1"]
    run = make_run(Planted("fine"), Planted("mine", **WRONG))
    run = replace(run, info=run.info | {"arguments": arguments})
    command = make_headline(run, judge(run)).advice[-1].command
    assert command == "parity run --loss builtin a.py:mine --lr 1 --inline --steps 8"


def test_only_the_audits_table_has_u():
    for name in KINDS:
        text = text_of(KINDS[name][0], judged(name))
        before = text.split("How the audit decided")[0]
        assert not re.search(r"\d u\b", before), name


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_percent_sign_stays_with_its_number(width):
    for name in KINDS:
        assert not re.search(r"^\s*%", text_of(KINDS[name][0], judged(name), width), re.MULTILINE)


ENDED = {"status": "failed", "failure": "died", "error": None}
GARBAGE = {
    **RAISED,
    "error": "the loss raised",
    "traceback": 'Traceback: \x1b[31m\n  File "a", line 1, in <module>\n',
}


@pytest.mark.parametrize(
    ("planted", "sentence"),
    [
        (
            Planted("{x}[b]%s損失", **WRONG),
            "{x}[b]%s損失's gradient is 6 % off, with no known pattern, from step 7 on.",
        ),
        (Planted(losses={5: NAN}, differs={"output_grad": 5}), "mine's loss is NaN at step 5; that of builtin is not."),
        (
            Planted(differs=ROUNDING, grad_errors={3: INF}),
            "mine's gradient is not zero, as it should be, with no known pattern, from step 3 on.",
        ),
        (Planted(steps=0, record=ENDED), "mine failed: the reason is not known."),
        (Planted(steps=4, record=GARBAGE), "mine failed at step 4: the loss raised."),
        (Planted(steps=0, record={"status": "planned"}), "It is not known whether mine trains as builtin: "),
    ],
)
def test_whatever_is_stored_has_a_sentence_at_every_width(planted, sentence):
    run = make_run(planted)
    judgement = judge(run)
    assert make_headline(run, judgement).what.startswith(sentence)
    for width in (40, 80, 200):
        text = text_of(run, judgement, width)
        assert "\x1b" not in text and "None" not in text
    assert markdown.render(run, judgement) and junit.render(run, judgement) and summary.render(judgement)


def test_an_infinite_error_is_that_of_a_zero_reference_and_has_no_size():
    run = make_run(Planted(differs=ROUNDING, grad_errors={3: INF}))
    (verdict,) = judge(run).pairs
    assert verdict.cause == (
        "no known pattern; output_grad is not zero, as it should be (the baseline is 3.1e-08 off, rounding explains "
        "0.000095 %)"
    )
    assert make_pair_headline(verdict, run).size == (
        "output_grad is not zero, as it should be; the baseline is 0.0000031 % away, rounding explains 0.000095 %"
    )


def test_a_gradient_that_is_infinite_on_one_side_is_called_so():
    run = make_run(Planted(differs=ROUNDING, grad_errors={3: INF}))
    run = with_column(run, 1, "output_grad_norm", lambda norms: [*norms[:3], INF, *norms[4:]])
    (verdict,) = judge(run).pairs
    assert make_pair_headline(verdict, run).what == "mine's gradient is infinite at step 3; that of builtin is not."
    assert "not finite" in verdict.cause and "zero" not in verdict.cause


def test_a_gradient_that_one_side_lacks_is_missing():
    run = make_run(Planted(differs={"param_grad": 0, "param": 0}, tensors=(4,)))
    for name, width in (("param_grad_norms", 1), ("param_grad_sketches", SKETCH_SUMS)):
        run = with_column(
            run, 1, name, lambda rows, w=width: [[*row[: 4 * w], *[NAN] * w, *row[5 * w :]] for row in rows]
        )
    (verdict,) = judge(run).pairs
    assert make_pair_headline(verdict, run).what.startswith(
        "mine's parameter gradient of 0.4.weight is missing, where the baseline has one, from step 0 on"
    )


def test_a_difference_without_bound_is_no_noun():
    run = make_run(Planted(differs=ROUNDING, distances={"param_grad": {4: INF}}))
    (verdict,) = judge(run).pairs
    assert "infinite" not in verdict.cause and "more than any number away" in verdict.cause
    assert percent_at_most(INF) == "any amount"


def test_less_precision_is_said_of_a_device_whose_products_are_exact():
    run, judgement = with_cause("precision")
    (verdict,) = judgement.pairs
    rows = [row | {"trial": "mine@cpu-s0"} for row in SHARED]
    audit = audit_device(pa.Table.from_pylist(rows, schema=SHARED_STEPS), "mine@cpu-s0", record=run.trials[1])
    found = make_pair_headline(replace(verdict, device_audit=audit), run)
    assert found.what == "mine's gradient has less precision: something [b] <i>, from step 7 on."
