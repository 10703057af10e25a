"""The lines of the audit: what makes them wider, what does not, and when the audit decides nothing."""

import numpy as np
import pyarrow as pa
import pytest
from synthetic_runs import ROUNDING, Planted, make_run

from parity.judge.judging import judge
from parity.store.trace import GENERATORS, SCHEMA

STEPS = 40


def judged(*, own=None, mine=None, steps=STEPS):
    """The verdict on a candidate: by column, the values of the baseline's trace, and of the candidate's, by step."""
    run = make_run(Planted("mine", differs={"loss": 0, **ROUNDING, "output_grad": 0}), steps=steps)
    for trial, columns in zip(list(run.traces), (own or {}, mine or {}), strict=True):
        # A made-up trace has the digest of a state, which belongs with those of its generators.
        index = SCHEMA.get_field_index("generator_digests")
        field = SCHEMA.field(index)
        table = run.traces[trial].set_column(index, field, pa.array([[0] * len(GENERATORS)] * steps, field.type))
        for name, values in columns.items():
            column = table[name].to_numpy(zero_copy_only=False).astype(float).copy()
            for step, value in values.items():
                column[step] = value
            index = SCHEMA.get_field_index(name)
            table = table.set_column(index, SCHEMA.field(name), pa.array(column, pa.float64(), mask=np.isnan(column)))
        run.traces[trial] = table
    return judge(run).pairs[0]


def everywhere(value):
    return dict.fromkeys(range(STEPS), value)


def test_a_step_is_held_against_the_baselines_errors_around_it():
    around = dict.fromkeys(range(10, 31), 10.0) | {20: 0.01}
    assert judged(own={"grad_error_u": around}, mine={"grad_error_u": {20: 159.0}}).verdict == "rounding"
    verdict = judged(own={"grad_error_u": around}, mine={"grad_error_u": {20: 161.0}})
    assert (verdict.verdict, verdict.onset.step) == ("diverged", 20)


@pytest.mark.parametrize("error", [900.0, float("inf")])
def test_two_odd_steps_of_the_baseline_excuse_none_of_their_neighbours(error):
    odd = {18: error, 22: error}
    verdict = judged(own={"grad_error_u": odd}, mine={"grad_error_u": {20: 17.0}})
    assert (verdict.verdict, verdict.onset.step) == ("diverged", 20)


def test_errors_further_away_do_not_count():
    verdict = judged(own={"grad_error_u": dict.fromkeys(range(9), 10.0)}, mine={"grad_error_u": {20: 100.0}})
    assert (verdict.verdict, verdict.onset.step) == ("diverged", 20)


def test_a_condition_widens_the_line_as_far_as_it_is_credited():
    for condition, verdict in ((5.0, "rounding"), (4.9, "diverged"), (None, "diverged")):
        columns = {"grad_error_u": {3: 79.0}, "grad_condition_u": {3: np.nan if condition is None else condition}}
        assert judged(mine=columns).verdict == verdict
    assert judged(mine={"grad_error_u": {3: 168.0}, "grad_condition_u": {3: 1e6}}).verdict == "diverged"


def test_where_the_baselines_gradient_loses_digits_so_may_the_loss():
    line = 64 * np.sqrt(256 * 784)
    far = {"loss_error_u": {3: line * 1.5}}
    assert judged(mine=far).verdict == "diverged"
    assert judged(own={"grad_error_u": dict.fromkeys(range(12), line / 10)}, mine=far).verdict == "rounding"


@pytest.mark.parametrize(("u", "verdict"), [(2.0**-8, "diverged"), (2.0**-24, "rounding")])
def test_in_a_narrow_dtype_a_factor_is_seen_below_the_line_of_errors(u, verdict):
    # 12 u, below 16; the ratio is averaged over 150 rows.
    columns = {
        "grad_unit": everywhere(u),
        "grad_rows": everywhere(150.0),
        "grad_error_u": {5: 12.0},
        "grad_ratio": {5: 1 + 12 * u},
    }
    found = judged(own={"grad_unit": everywhere(u)}, mine=columns)
    assert found.verdict == verdict
    if verdict == "diverged":
        assert "1.04688 times the float64 one over all its elements, and rounding can explain 0.9793" in found.cause
        assert found.decision.seen_scale == pytest.approx((4 + 16 / 150**0.5) * u)


def test_a_ratio_of_few_rows_is_noise():
    u = 2.0**-8
    columns = {
        "grad_unit": everywhere(u),
        "grad_rows": {5: 1.5},
        "grad_error_u": {5: 12.0},
        "grad_ratio": {5: 1 + 12 * u},
    }
    assert judged(own={"grad_unit": everywhere(u)}, mine=columns).verdict == "rounding"


def test_what_the_model_takes_away_is_rounding_and_the_rest_is_not():
    wrong = {"grad_error_u": everywhere(1e6)}
    assert judged(mine=wrong).verdict == "diverged"
    excused = judged(mine=wrong | {"passed_on_u": everywhere(1.2)})
    assert excused.verdict == "rounding"
    assert excused.cause.startswith("the gradients differ in a direction that the model takes away")
    for late in (4.1, np.nan):
        verdict = judged(mine=wrong | {"passed_on_u": everywhere(1.2) | {7: late}})
        assert (verdict.verdict, verdict.onset.step) == ("diverged", 7)


@pytest.mark.parametrize(
    ("own", "why"),
    [
        (
            {"grad_error_u": everywhere(0.75 * 2**24), "grad_ratio": everywhere(0.25)},
            "the baseline's gradient is 0.25 times that of the loss it is audited against (divided or multiplied "
            "already? give the Recorder factor=)",
        ),
        (
            {"grad_error_u": everywhere(2000.0)},
            "the baseline's gradient is 0.012 % off or more at every audited step: it is not the loss that it is "
            "audited against",
        ),
        (
            {"grad_error_u": {9: 0.07 * 2**24}},
            "the baseline's own gradient is 7 % off at step 9, which leaves no line to hold a candidate against",
        ),
        (
            {"loss_error_u": everywhere(3e5)},
            "the baseline's loss is 1.8 % off or more at every audited step: it has a term or a factor that the "
            "loss it is audited against lacks",
        ),
    ],
)
def test_a_baseline_that_is_not_its_oracle_decides_nothing(own, why):
    for mine in ({}, {"grad_error_u": everywhere(1e7)}):
        verdict = judged(own=own, mine=mine)
        assert (verdict.verdict, verdict.onset) == ("inconclusive", None)
        assert verdict.cause == f"the audit decides nothing: {why}"
        assert verdict.decision.seen is None


def test_a_baseline_that_loses_digits_where_its_gradient_vanishes_is_still_its_oracle():
    growing = {step: float(min(1.5**step, 2e4)) for step in range(STEPS)}
    wavering = {step: 1 + 0.2 * growing[step] * 2**-24 * (-1) ** step for step in range(STEPS)}
    verdict = judged(own={"grad_error_u": growing, "grad_ratio": wavering}, mine={"grad_error_u": growing})
    assert verdict.verdict == "rounding"
    assert verdict.decision.seen < 3e-5 and verdict.decision.seen_anywhere > 1e-2


def test_runs_of_earlier_versions_are_judged_as_before():
    verdict = judged()
    assert verdict.verdict == "rounding"
    assert verdict.decision.seen == verdict.decision.seen_anywhere == 2.0**-20
    assert verdict.decision.seen_scale is None
