from dataclasses import replace

import pytest
from synthetic_runs import ROUNDING, Planted, fleet_run, make_run

from parity.judge.judging import judge
from parity.render import story

FAILED = {"status": "failed", "failed_step": 4, "error": "the loss raised E: x"}
NAN = float("nan")


@pytest.mark.parametrize(
    ("verdict", "planted", "sentence"),
    [
        ("identical", Planted(), "mine trains exactly as builtin: equal to the bit at every step."),
        (
            "report-only",
            Planted(differs={"loss": 2}),
            "mine trains exactly as builtin; only the loss that it reports differs (by up to 0.000084 %).",
        ),
        ("rounding", Planted(differs=ROUNDING), "mine trains as builtin: the differences are rounding."),
        (
            "diverged",
            Planted(differs=ROUNDING, grad_errors={7: 1e6}),
            "mine's gradient is 6 % off, with no known pattern, from step 7 on.",
        ),
        (
            "diverged",
            Planted(losses={5: NAN}, differs={"output_grad": 5}),
            "mine's loss is NaN at step 5; that of builtin is not.",
        ),
        ("failed", Planted(steps=4, record=FAILED), "mine raised E at step 4: x."),
        (
            "inconclusive",
            Planted(differs={"input": 2}),
            "It is not known whether mine trains as builtin: the inputs differ from step 2 on: "
            "the data is not the same.",
        ),
    ],
)
def test_each_verdict_has_its_sentence(verdict, planted, sentence):
    judgement = judge(make_run(planted))
    assert (judgement.verdict, story.headline(judgement)) == (verdict, sentence)


def test_several_pairs_are_summed_up_by_the_worst_and_counted():
    judgement = judge(make_run(Planted("one"), Planted("two", differs=ROUNDING, grad_errors={7: 1e6})))
    assert story.headline(judgement).startswith("two's gradient is 6 % off")
    assert story.tally(judgement) == "Of 2 pairs: 1 diverged, 1 identical."


def test_an_odd_device_comes_before_all_pairs():
    assert story.headline(judge(fleet_run(4, odd=(2,)))) == (
        "cpu@n0002 differs from the 4 other devices of its class in param_grad 0.4.weight, from step 3 on."
    )


def test_one_trial_is_nothing_to_compare():
    assert story.headline(judge(make_run())) == "There is nothing to compare: a single trial is not a pair."


def test_a_failed_baseline_comes_first():
    run = make_run(Planted(), steps=4)
    failed = type(run.trials[0])(**{**vars(run.trials[0]), **FAILED})
    run = type(run)(run.directory, run.info, (failed, run.trials[1]), run.traces, run.evidence)
    assert story.headline(judge(run)).startswith("The baseline failed: Trial builtin@cpu-s0 failed at step 4")


def test_what_was_compared_is_said():
    run = make_run(Planted(), steps=12)
    terms = dict(story.compared(run, judge(run)))
    assert terms["Losses"] == "builtin (baseline) and mine" and terms["Devices"] == "cpu"
    assert terms["Steps"] == "12, in epochs of 235 batches of 256 rows"
    assert terms["Quantities"].startswith("10 at each step, bit for bit: state, input, output, ")


def test_notes_come_first_and_count_many_trials():
    run = make_run(*(Planted(f"m{n}", record={"status": "interrupted"}) for n in range(7)))
    assert story.notes(replace(run, altered=("trials.parquet",))) == [
        "Altered since the run was stored: trials.parquet. The verdict is about the files as they are now.",
        "This run is partial: m0@cpu-s0, m1@cpu-s0, m2@cpu-s0, m3@cpu-s0, m4@cpu-s0 and 2 more did not finish. "
        "The verdict is about the steps that are stored.",
    ]


def test_a_trial_that_moved_to_another_node_has_a_note():
    run = make_run(Planted("builtin", device="cpu@b", record={"node": "c"}))
    assert story.moved_lines(run) == [
        "Node b left the cluster: builtin@cpu@b-s0 was trained on c, so b was not tested."
    ]


def test_it_is_said_where_nobody_asked_the_optimizers():
    why = "the optimizer cannot be copied in float64: TypeError: it has a lock"
    unasked = {"record": {"optimizer_error": why}}
    assert story.unasked_optimizers(judge(make_run(Planted(differs=ROUNDING, **unasked)))) == (
        f"not compared on gradients that both are given, only by the updates of the loops ({why})"
    )
    run = make_run(Planted(differs=ROUNDING, **unasked))
    assert why in dict(story.compared(run, judge(run)))["Optimizers"]
    # Nothing is left open where the bits are equal, and nothing is missing where the runs are known to differ.
    for planted in (
        Planted(**unasked),
        Planted(differs=ROUNDING, grad_errors={7: 1e6}, **unasked),
        Planted(differs=ROUNDING),
    ):
        assert story.unasked_optimizers(judge(make_run(planted))) == ""
