"""The first law: `identical` means that everything was compared. Properties over stored runs that were cut or mixed."""

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import BUFFERS, ROUNDING, Planted, make_run, nothing, with_column

from parity.judge import judge
from parity.store.trace import LATER_COLUMNS, QUANTITIES, SCHEMA

STEPS = 6
FEW = settings(max_examples=30, deadline=None)
# What is compared bit for bit, and may be null in a run of an earlier version. Of sketches and norms nothing is owed
# where all digests are equal.
COMPARED = sorted(
    {f"{quantity}_digest" for quantity in QUANTITIES if f"{quantity}_digest" in LATER_COLUMNS}
    | {"settings", "state_counts", "generator_digests"}
)
SIDES = st.sampled_from([(0,), (1,), (0, 1)])
DIGESTS = sorted(field.name for field in SCHEMA if field.name.endswith("_digest"))
EQUAL = make_run(Planted(), steps=STEPS)


def verdict(run):
    (pair,) = judge(run).pairs
    return pair.verdict


def without_row(run, number, step):
    trial = run.trials[number]
    trace = run.traces[trial.trial]
    cut = pa.concat_tables([trace.slice(0, step), trace.slice(step + 1)])
    trials = list(run.trials)
    trials[number] = replace(trial, rows=len(cut))
    return replace(run, trials=tuple(trials), traces=run.traces | {trial.trial: cut})


def test_what_lacks_nothing_is_identical():
    assert verdict(EQUAL) == "identical"


@given(st.sampled_from([0, 1]), st.sampled_from([0, STEPS - 1]))
@FEW
def test_without_a_row_at_an_end_nothing_is_identical(number, step):
    assert verdict(without_row(EQUAL, number, step)) != "identical"


@given(SIDES, st.sampled_from(COMPARED))
@FEW
def test_without_a_column_nothing_is_identical(sides, name):
    run = EQUAL
    for number in sides:
        run = with_column(run, number, name, nothing)
    assert verdict(run) != "identical"


@given(SIDES, st.sampled_from([name for name in COMPARED if name != "step_grad_digest"]), st.integers(0, STEPS - 1))
@FEW
def test_without_a_value_nothing_is_identical(sides, name, step):
    run = EQUAL
    for number in sides:
        run = with_column(
            run, number, name, lambda values: [None if row == step else value for row, value in enumerate(values)]
        )
    assert verdict(run) != "identical"


@given(st.sampled_from([0, 1]), st.sampled_from(DIGESTS), st.integers(0, STEPS - 1), st.integers(0, 63))
@FEW
def test_with_another_bit_nothing_is_identical(number, name, step, bit):
    def flipped(values):
        return [value ^ (1 << bit) if row == step else value for row, value in enumerate(values)]

    assert verdict(with_column(EQUAL, number, name, flipped)) != "identical"


@given(st.sampled_from([0, 1]), st.sampled_from(BUFFERS))
@FEW
def test_without_a_buffer_nothing_is_identical(number, name):
    """Another set of buffers has another digest: what a recording of a model without the buffer stores."""
    left = [each for each in BUFFERS if each != name]
    trials = list(EQUAL.trials)
    trials[number] = replace(trials[number], buffer_names=left)
    run = with_column(replace(EQUAL, trials=tuple(trials)), number, "buffer_digest", lambda values: [1] * len(values))
    for kind, width in (("norms", 1), ("sketches", 8)):
        run = with_column(run, number, f"buffer_{kind}", lambda rows, width=width: [row[:width] for row in rows])
    assert verdict(run) != "identical"


@given(st.sampled_from(["failed", "interrupted"]), st.sampled_from([0, 1]))
@FEW
def test_a_trial_that_did_not_end_is_identical_to_nothing(status, number):
    trials = list(EQUAL.trials)
    trials[number] = replace(trials[number], status=status, failure="raised" if status == "failed" else None)
    assert verdict(replace(EQUAL, trials=tuple(trials))) != "identical"


@given(st.sampled_from([0, 1]))
@FEW
def test_without_its_trial_a_pair_has_no_verdict(number):
    left = tuple(record for index, record in enumerate(EQUAL.trials) if index != number)
    assert not [pair for pair in judge(replace(EQUAL, trials=left)).pairs if pair.verdict == "identical"]


@given(SIDES)
@FEW
def test_without_steps_nothing_is_identical(sides):
    run = EQUAL
    for number in sides:
        trial = run.trials[number]
        trials = list(run.trials)
        trials[number] = replace(trial, rows=0, steps=0)
        traces = run.traces | {trial.trial: run.traces[trial.trial].slice(0, 0)}
        run = replace(run, trials=tuple(trials), traces=traces)
    assert verdict(run) != "identical"


CANDIDATES = [
    Planted("equal"),
    Planted("rounds", differs=ROUNDING),
    Planted("wrong", differs=ROUNDING, grad_errors={4: 1e6}),
    Planted("jumps", differs=ROUNDING, distances={"update": {2: 1e-7, 4: 0.9}}),
    Planted("rate", settings={3: {"lr": 2e-3}}, differs={"param": 3}, distances={"update": {3: 1.0}}),
    Planted("short", steps=4, record={"steps": 4}),
]


@given(st.permutations(CANDIDATES))
@settings(max_examples=6, deadline=None)
def test_the_order_of_the_trials_changes_nothing(candidates):
    found = {pair.pair.candidate.loss_name: (pair.verdict, pair.cause, pair.first, pair.onset) for pair in
             judge(make_run(*candidates, steps=STEPS)).pairs}  # fmt: skip
    assert found == expected()


@pytest.mark.parametrize(
    ("name", "word"),
    [("equal", "identical"), ("rounds", "rounding"), ("wrong", "diverged"), ("jumps", "diverged"),
     ("rate", "diverged"), ("short", "inconclusive")],
)  # fmt: skip
def test_the_candidates_have_each_verdict(name, word):
    assert expected()[name][0] == word


def expected():
    return {pair.pair.candidate.loss_name: (pair.verdict, pair.cause, pair.first, pair.onset) for pair in
            judge(make_run(*CANDIDATES, steps=STEPS)).pairs}  # fmt: skip
