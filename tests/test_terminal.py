import io
import math
from dataclasses import replace

import pyarrow as pa
import pytest
from rich.console import Console

from parity.judge import judge
from parity.render.terminal import render
from parity.store import read_run


def rendered(run, width=80):
    console = Console(file=io.StringIO(), width=width)
    render(run, judge(run), console)
    return console.file.getvalue()


@pytest.fixture
def stored(equal_pair):
    return read_run(equal_pair)


def test_tables_fit_80_columns(reference):
    lines = rendered(read_run(reference)).splitlines()
    tables = [line for line in lines if "@cpu-s0 numpy" not in line]
    assert max(map(len, tables)) <= 100
    assert max(len(line) for line in tables if "──" in line) <= 80


def test_a_line_is_not_wrapped(reference):
    assert rendered(read_run(reference), width=40).count("builtin@cpu-s0 numpy@cpu-s0  rounding: first at step 0") == 1


def test_losses_are_printed_with_as_many_digits_as_tell_them_apart(reference):
    run = read_run(reference)
    first = judge(run).pairs[0].first
    text = rendered(run)
    if first.quantity == "loss":
        assert f"loss {first.baseline:.8f} != {first.candidate:.8f} ({first.ulp} ulp)" in text


def test_a_partial_run_says_so(stored):
    trials = (stored.trials[0], replace(stored.trials[1], status="interrupted"))
    assert rendered(replace(stored, trials=trials)).startswith(
        "This run is partial: functional@cpu-s0 did not end. What is stored is judged.\n"
    )


def test_one_trial_says_that_there_is_nothing_to_compare(stored):
    assert rendered(replace(stored, trials=stored.trials[:1])) == (
        "Nothing to compare: one trial makes no pair. Add a --loss, a --device or --replicas.\n"
    )


def test_a_thinned_audit_is_said(stored):
    trial = stored.trials[1].trial
    table = stored.traces[trial]
    index = table.schema.get_field_index("grad_error_u")
    thin = pa.array([0.5, *[None] * 7], pa.float64())
    traces = dict(stored.traces) | {trial: table.set_column(index, table.schema.field(index), thin)}
    assert "identical: 8 steps, 6 quantities; 1 of them audited" in rendered(replace(stored, traces=traces))


def test_a_failed_baseline_is_said_first(stored):
    failed = replace(stored.trials[0], status="failed", failed_step=2, error="the loss raised E: x", host="h")
    assert rendered(replace(stored, trials=(failed, stored.trials[1]))).startswith(
        "The baseline failed: Trial builtin@cpu-s0 failed at step 2 on h: the loss raised E: x.\n"
    )


def test_an_error_of_many_lines_stays_in_its_line(stored):
    failed = replace(stored.trials[1], status="failed", failed_step=2, error="the loss raised E: x\n  y", host="h")
    assert "failed at step 2 on h: the loss raised E: x y; 8 steps" in rendered(
        replace(stored, trials=(stored.trials[0], failed))
    )


def test_equal_nans_are_said_aloud(stored):
    traces = {}
    for name, table in stored.traces.items():
        losses = table["loss"].to_pylist()
        losses[6] = math.nan
        index = table.schema.get_field_index("loss")
        traces[name] = table.set_column(index, table.schema.field(index), pa.array(losses))
    text = rendered(replace(stored, traces=traces))
    assert "identical: 8 steps, 6 quantities; both losses are NaN at step 6" in text


def test_markup_in_a_name_is_printed_as_it_is(stored):
    trials = (stored.trials[0], replace(stored.trials[1], loss_name="[red]x[/red]"))
    assert "[red]x[/red]" in rendered(replace(stored, trials=trials))
