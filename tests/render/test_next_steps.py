from dataclasses import replace

from synthetic_runs import ROUNDING, Planted, fleet_run, make_run

from parity.judge.judging import judge
from parity.render import next_steps


def advice(run):
    return next_steps.next_steps(run, judge(run))


def test_a_wrong_gradient_is_to_be_stepped_through():
    told = advice(make_run(Planted(differs=ROUNDING, grad_errors={7: 1e6})))
    assert told[-1].text == "Step through it up to step 7, with a breakpoint() in the loss:"
    assert told[-1].command == "python -m parity.run --loss builtin mine.py:mine --inline --steps 8"


def test_a_cluster_has_no_command_for_one_process():
    run = make_run(Planted(differs=ROUNDING, grad_errors={7: 1e6}))
    run = replace(run, info=run.info | {"arguments": ["--address=h:1", "--loss", "builtin"]})
    assert next_steps.narrowed_command(run, 7) is None


def test_options_that_change_the_length_are_replaced():
    run = make_run(Planted())
    run = replace(run, info=run.info | {"arguments": ["--steps=9", "--out", "--x", "--inline", "--lr", "1"]})
    assert next_steps.narrowed_command(run, 2) == "python -m parity.run --lr 1 --inline --steps 3"


def test_rounding_is_well_and_could_be_surer():
    told = [each.text for each in advice(make_run(Planted(differs=ROUNDING)))]
    assert told == [
        "Nothing has to be mended.",
        "To be surer, pass a whole epoch with its last batch: --steps 235.",
        "One seed was tried; --seed 0 1 2 tries three.",
    ]


def test_an_odd_device_is_to_be_looked_at():
    assert advice(fleet_run(4, odd=(2,)))[0].text.startswith("Look at cpu@n0002, or take it out of use.")


def test_it_is_said_where_the_tables_are():
    run = make_run(Planted(steps=4, record={"status": "failed", "failed_step": 4, "error": "x"}))
    assert next_steps.next_steps(run, judge(run), where="in report.html")[0].text == (
        "Read its traceback in report.html, under Attempts and faults."
    )
    assert advice(run)[0].text == "Read its traceback below, under Attempts and faults."


def test_an_interrupted_run_is_to_be_gone_on_with():
    run = make_run(Planted(steps=4, record={"status": "interrupted"}), directory="a folder")
    (told,) = advice(run)
    assert (told.text, told.command) == (
        "Go on with what did not end:",
        "python -m parity.run --resume 'a folder'",
    )
