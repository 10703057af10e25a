from synthetic_runs import ROUNDING, Planted, make_run

from parity.judge.judging import judge
from parity.render import tables
from parity.render.differing import make_rows


def test_the_numbers_behind_the_plots_hold_what_stands_out():
    planted = Planted(differs={"loss": 3, **ROUNDING}, losses={77: 9.0, 80: float("nan")}, grad_errors={50: 1e6})
    verdict = judge(make_run(planted, steps=300)).pairs[0]
    table = tables.steps_table(verdict)
    found = {row[0]: row for row in table.rows}
    assert "first difference (output_grad)" in found["2"][1]
    assert "first beyond rounding (output_grad)" in found["50"][1] and found["50"][10] == f"{1e6 * 2**-24:.3g}"
    assert "largest relative difference of the losses" in found["77"][1] and found["77"][6] == "9.0"
    assert "only step with a NaN candidate loss" in found["80"][1] and found["80"][6:8] == ("nan", "NaN")
    assert table.left_out == 300 - len(table.rows)


def test_the_first_differing_step_of_each_tensor_is_shown():
    verdict = judge(make_run(Planted(differs={"param": 4}, tensors=(1,)))).pairs[0]
    rows = {row[0]: row[1:] for row in tables.tensors_table(verdict, make_rows(verdict)).rows}
    assert rows["param 0.0.bias"] == ("4", "16 of 20", "") and rows["param 0.0.weight"] == ("never", "0 of 20", "")


def test_facts_that_differ_have_a_table_of_their_own():
    differing, same = tables.environment_tables(make_run(Planted(record={"torch": "2.14"})))
    assert differing.rows == (("torch", "2.15", "builtin@cpu-s0"), ("torch", "2.14", "mine@cpu-s0"))
    assert [fact for fact, _ in same.rows] == ["cpu_model", "loss_dtype", "host"]
    assert tables.environment_tables(make_run(Planted()))[0].rows == ()


def test_attempts_show_restarts_and_failures_only():
    record = {"attempts": 2, "restarts": ["at 12:00 from step 3: the worker died"]}
    table = tables.attempts_table(make_run(Planted(record=record)))
    assert table.rows == (("mine@cpu-s0", "complete", "2", "", "somewhere", record["restarts"][0]),)
    assert tables.attempts_table(make_run(Planted())).rows == ()


def test_the_contract_has_what_failed_first_and_equal_results_in_a_row():
    items = [("scalar", "passed", ""), ("value", "failed", "off"), ("dtype", "passed", "")]
    rows = [{"trial": "mine@cpu-s0", "item": item, "status": status, "reason": why} for item, status, why in items]
    run = make_run(Planted(), contract=rows)
    ((title, table),) = tables.contract_tables(run, judge(run))
    assert title == "mine@cpu-s0: 1 failed, 2 passed"
    assert table.rows == (("value", "failed", "off"), ("scalar, dtype", "passed", "")) and table.marked == (0,)


def test_a_long_table_counts_what_it_leaves_out():
    run = make_run(*(Planted(f"m{number}", record={"status": "interrupted"}, steps=3) for number in range(70)))
    table = tables.attempts_table(run)
    assert len(table.rows) == tables.MOST_ROWS and table.left_out == 10
