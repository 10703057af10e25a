from dataclasses import replace

from synthetic_runs import ROUNDING, Planted, fleet_run, make_run

from parity.judge.judging import judge
from parity.render import next_steps


def advice(run):
    return next_steps.next_steps(run, judge(run))


def test_a_wrong_gradient_is_to_be_stepped_through():
    found = advice(make_run(Planted(differs=ROUNDING, grad_errors={7: 1e6})))
    assert found[-1].text == "Step through the training up to step 7, with a breakpoint() in the loss:"
    assert found[-1].command == "parity run --loss builtin mine.py:mine --inline --steps 8"


def test_a_cluster_has_no_command_for_one_process():
    run = make_run(Planted(differs=ROUNDING, grad_errors={7: 1e6}))
    run = replace(run, info=run.info | {"arguments": ["--address=h:1", "--loss", "builtin"]})
    assert next_steps.narrowed_command(run, 7) is None


def test_options_that_change_the_length_are_replaced():
    run = make_run(Planted())
    run = replace(run, info=run.info | {"arguments": ["--steps=9", "--out", "--x", "--inline", "--lr", "1"]})
    assert next_steps.narrowed_command(run, 2) == "parity run --lr 1 --inline --steps 3"


def test_rounding_needs_no_action_and_could_be_surer():
    texts = [each.text for each in advice(make_run(Planted(differs=ROUNDING)))]
    assert texts == [
        "No action needed.",
        "To be surer, train a whole epoch, including its last batch: --steps 235.",
        "Only one seed was tried; --seed 0 1 2 tries three.",
    ]


def test_an_odd_device_is_to_be_inspected():
    assert advice(fleet_run(4, odd=(2,)))[0].text.startswith("Inspect cpu@n0002, or take it out of service.")


def test_it_is_said_where_the_tables_are():
    run = make_run(Planted(steps=4, record={"status": "failed", "failed_step": 4, "error": "x", "failure": "raised"}))
    assert next_steps.next_steps(run, judge(run), where="in report.html")[0].text == (
        "Read what happened in report.html, under Attempts and faults."
    )
    assert advice(run)[0].text == "Read what happened below, under Attempts and faults."


def test_an_interrupted_run_is_to_be_continued():
    run = make_run(Planted(steps=4, record={"status": "interrupted"}), directory="a folder")
    (found,) = advice(run)
    assert (found.text, found.command) == (
        "Continue the trials that did not finish:",
        "parity run --resume 'a folder'",
    )
